"""Pipeline -> the statements of its Table job, in the order in which they are executed; nothing here starts a JVM.

    records -> decoded -> events -> last_10m -> last_1h -> features -> scored -> outputs
               Python:            a view an OVER window    Python: arrays, ONNX   predictions, dead letters
               decode or refuse
Refused and untimely records leave the decoded view as dead letters.
"""

import sys
from dataclasses import dataclass

from flink_jobs.settings import Settings
from flink_jobs.topics import EARLIEST, SQL, sink_ddl, source_options, with_options
from models.manifest import Manifest
from udfs.event_texts import DETAIL, FIRST_FIELD, REASON, schema_text
from udfs.event_texts import TIME_MS as TIME_MS_PLACE
from udfs.events import Events
from udfs.pipeline import Pipeline
from udfs.sql_features import OFFSET, ROWTIME, TIME_MS, SqlFeatures, Window, compile_features
from udfs.sql_text import double_literal, interval, quoted, text_literal
from udfs.wire_formats import HEADER, printable

_TYPES = {"str": "STRING", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN"}
_KEY, _VALUE, _PARTITION, _RECORD_TIME = "_record_key", "_record_value", "_record_partition", "_record_time"
_RECORD = (_KEY, _VALUE, _PARTITION, OFFSET)
_FIELDS, _UNTIMELY, _SCORE, _NOW = "_fields", "_untimely", "_score", "_now"
_FURTHEST_AHEAD = "INTERVAL '1' DAY"
_FACTORS = {"s": "{} * 1000", "ms": "{}", "us": "{} / 1000", "ns": "{} / 1000000"}


@dataclass(frozen=True)
class Statement:
    """One statement of SQL, and what it is for."""

    comment: str
    sql: str


def job_statements(
    pipeline: Pipeline, settings: Settings, manifest: Manifest, model: str, start_from: str = EARLIEST
) -> list[Statement]:
    """All statements; the last one is the INSERT.

    Args:
        pipeline: What to compute.
        settings: How.
        manifest: Of the pipeline's model.
        model: What `score_missing` finds it by.
        start_from: Where to begin without a checkpoint: earliest, committed, latest, or a time in ms since 1970.

    Raises:
        SqlRefusedError: SQL cannot express a feature.
    """
    features = compile_features(pipeline)
    names = _Names(pipeline.name)
    timed = bool(features.windows)
    functions = sorted({*features.functions, "decode_event", "first_bytes", "score_missing"})
    statements = [
        Statement(_FUNCTION_COMMENTS[function], _function(function)) for function in functions
    ]
    statements += [
        Statement(
            _TIMED_COMMENT if timed else "Raw records",
            _source_table(names.records, pipeline, settings, start_from, timed=timed),
        ),
        Statement(
            f"Predictions and dead letters, in one transaction a checkpoint ({settings.guarantee})",
            sink_ddl(names.outputs, pipeline, settings, SQL),
        ),
        Statement(_DECODED_COMMENT + (_UNTIMELY_COMMENT if timed else ""), _decoded_view(names, pipeline, timed=timed)),
        Statement("Events with types", _events_view(names, pipeline, timed=timed)),
    ]
    below = names.events
    for window in features.windows:
        view = names.view(window.name)
        comment = f"What an entity did in the {window.name.replace('_', ' ')}"
        statements.append(Statement(comment, _window_view(view, below, window, pipeline)))
        below = view
    statements += [
        Statement("The features, in the order of the pipeline", _features_view(names, below, pipeline, features)),
        Statement(
            f"Scored by {manifest.name}/{manifest.version}; NULL where the model fails on the row",
            _scored_view(names, manifest, model),
        ),
        Statement("Every record has one answer", _insert(names, pipeline, manifest)),
    ]
    return statements


_FUNCTION_COMMENTS = {
    "decode_event": "A raw record's fields as texts, or why it is refused",
    "first_bytes": "The beginning of a value that is too long",
    "score_missing": "A model's score; a NULL feature is a missing value to it",
    "window_ewma": "Of a window in an array: the mean weighted by age",
    "window_last": "Of a window in an array: the latest value",
    "window_mean": "Of a window in an array: the mean",
    "window_previous": "Of a window in an array: the latest value before the row's own",
    "window_since_last": "Of a window in an array: seconds since the latest event before the row's own",
    "window_std": "Of a window in an array: the population standard deviation",
    "window_sum": "Of a window in an array: the sum, without the rounding errors that SUM OVER gathers",
}


def _function(name: str) -> str:
    return f"CREATE TEMPORARY FUNCTION {name} AS 'udfs.table.{name}' LANGUAGE PYTHON"


def state_text(statements: list[Statement]) -> str:
    """What the state of a run belongs to: statements that differ here cannot go on from each other's savepoints."""
    views = [one.sql for one in statements if one.sql.startswith("CREATE TEMPORARY VIEW")]
    return "\n".join(views[:-1])  # the model may change


def script(statements: list[Statement]) -> str:
    """The statements as one text."""
    return "\n\n".join(f"-- {statement.comment}\n{statement.sql};" for statement in statements) + "\n"


class _Names:
    def __init__(self, pipeline: str) -> None:
        self._prefix = pipeline
        self.records, self.outputs = self.view("records"), self.view("outputs")
        self.decoded, self.events, self.features, self.scored = map(
            self.view, ("decoded", "events", "features", "scored")
        )

    def view(self, name: str) -> str:
        return quoted(f"{self._prefix}_{name}")


_TIMED_COMMENT = (
    "Raw records. The event time is read in the JVM, so that every partition has a watermark of its own: in a\n"
    "-- backlog none makes another's events late. A time ahead of the record's own does not push the watermark on"
)
_DECODED_COMMENT = (
    "The stream's own decoder: reason and details of a refusal, event time in ms, fields as texts"
)
_UNTIMELY_COMMENT = (
    ". Untimely are\n"
    "-- events that the watermark has passed or would not reach, and those at 0, which OVER takes for late"
)


def _source_table(table: str, pipeline: Pipeline, settings: Settings, start_from: str, *, timed: bool) -> str:
    """The table of raw records; timed, with their event time and a watermark."""
    options = source_options(pipeline, settings, start_from, SQL, key=_KEY)
    columns = [
        f"{quoted(_KEY)} BYTES",
        f"{quoted(_VALUE)} BYTES",
        f"{quoted(_PARTITION)} INT METADATA FROM 'partition' VIRTUAL",
        f"{quoted(OFFSET)} BIGINT METADATA FROM 'offset' VIRTUAL",
    ]
    if timed:
        options["scan.watermark.idle-timeout"] = f"{settings.idle_ms} ms"
        record_time, rowtime = quoted(_RECORD_TIME), quoted(ROWTIME)
        columns += [
            f"{record_time} TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL",
            # a record without a time is no event, but a row must have one
            f"{rowtime} AS COALESCE(\n        TO_TIMESTAMP_LTZ({_time_ms(pipeline.events)}, 3),\n        "
            "TO_TIMESTAMP_LTZ(0, 3)\n    )",
            f"WATERMARK FOR {rowtime} AS\n        CASE WHEN {rowtime} > {record_time} + {_FURTHEST_AHEAD} "
            f"THEN TO_TIMESTAMP_LTZ(0, 3) ELSE LEAST({rowtime}, {record_time}) END\n        "
            f"- {interval(settings.watermark_ms)}",
        ]
    return f"""CREATE TEMPORARY TABLE {table} (
    {_lines(columns)}
) WITH (
    {with_options(options)}
)"""


def _time_ms(events: Events) -> str:
    """The event time in ms of a record that may be anything; NULL if it has none within the years 1970 to 9999."""
    text = f"JSON_VALUE(CAST({quoted(_VALUE)} AS STRING), '$.{events.time}')"
    kind = next(one.kind for one in events.schema if one.name == events.time)
    if kind == "int":
        time_ms = _FACTORS[events.time_unit].format(f"TRY_CAST({text} AS BIGINT)")
    else:
        scaled = _FACTORS[events.time_unit].format(f"TRY_CAST({text} AS DECIMAL(38, 9))")
        time_ms = f"CAST(FLOOR({scaled}) AS BIGINT)"
    return time_ms


def _decoded_view(names: _Names, pipeline: Pipeline, *, timed: bool) -> str:
    columns = ", ".join(map(quoted, _record_columns(timed)))
    schema = text_literal(schema_text(pipeline))
    decoded = f"decode_event({quoted(_KEY)}, {quoted(_VALUE)},\n        {schema}) AS {quoted(_FIELDS)}"
    rowtime, untimely = quoted(ROWTIME), "CAST(NULL AS STRING)"
    if timed:
        untimely = f"""CASE
        WHEN {rowtime} <= CURRENT_WATERMARK({rowtime}) THEN 'late'
        WHEN {rowtime} > {quoted(_RECORD_TIME)} + {_FURTHEST_AHEAD} THEN 'invalid_time'
        WHEN {rowtime} = TO_TIMESTAMP_LTZ(0, 3) THEN 'invalid_time'
    END"""
    return f"""CREATE TEMPORARY VIEW {names.decoded} AS
SELECT
    {columns},
    {decoded},
    {untimely} AS {quoted(_UNTIMELY)}
FROM {names.records}"""


def _record_columns(timed: bool) -> tuple[str, ...]:
    return (*_RECORD, ROWTIME) if timed else _RECORD


def _events_view(names: _Names, pipeline: Pipeline, *, timed: bool) -> str:
    needed = {*_copied(pipeline), *(name for feature in pipeline.features for name in feature.reads)}
    fields = [
        f"{_cast(f'{quoted(_FIELDS)}[{FIRST_FIELD + place}]', _TYPES[one.kind])} AS {quoted(one.name)}"
        for place, one in enumerate(pipeline.events.schema)
        if one.name in needed
    ]
    time_ms = f"CAST({quoted(_FIELDS)}[{TIME_MS_PLACE}] AS BIGINT) AS {quoted(TIME_MS)}"
    return f"""CREATE TEMPORARY VIEW {names.events} AS
SELECT
    {_lines([", ".join(map(quoted, _record_columns(timed))), time_ms, *fields])}
FROM {names.decoded}
WHERE {quoted(_FIELDS)}[{REASON}] IS NULL AND {quoted(_UNTIMELY)} IS NULL"""


def _cast(sql: str, kind: str) -> str:
    return sql if kind == "STRING" else f"CAST({sql} AS {kind})"


def _lines(parts: list[str]) -> str:
    return ",\n    ".join(parts)


def _window_view(view: str, below: str, window: Window, pipeline: Pipeline) -> str:
    columns = [f"{sql} OVER {quoted(window.name)} AS {quoted(name)}" for name, sql in window.columns.items()]
    return f"""CREATE TEMPORARY VIEW {view} AS
SELECT
    {_lines(["*", *columns])}
FROM {below}
WINDOW {quoted(window.name)} AS (
    PARTITION BY {quoted(pipeline.events.entity)} ORDER BY {quoted(ROWTIME)}
    RANGE BETWEEN {interval(window.length_ms - 1)} PRECEDING AND CURRENT ROW
)"""


def _copied(pipeline: Pipeline) -> list[str]:
    """Fields of the event that stand in the prediction."""
    return list(dict.fromkeys((pipeline.events.id, pipeline.events.entity, *pipeline.include)))


def _of_event(name: str) -> str:
    return quoted(f"_event_{name}")


def _features_view(names: _Names, below: str, pipeline: Pipeline, features: SqlFeatures) -> str:
    kept = [", ".join(map(quoted, (*_RECORD, TIME_MS)))]
    kept += [f"{quoted(name)} AS {_of_event(name)}" for name in _copied(pipeline)]
    made = [f"{sql} AS {quoted(name)}" for name, sql in features.expressions.items()]
    return f"""CREATE TEMPORARY VIEW {names.features} AS
SELECT
    {_lines([*kept, *made])}
FROM {below}"""


def _scored_view(names: _Names, manifest: Manifest, model: str) -> str:
    inputs = ",\n        ".join(f"{text_literal(name)}, {quoted(name)}" for name in manifest.features)
    return f"""CREATE TEMPORARY VIEW {names.scored} AS
SELECT
    *,
    score_missing({text_literal(model)},
        {inputs}) AS {quoted(_SCORE)},
    CURRENT_ROW_TIMESTAMP() AS {quoted(_NOW)}
FROM {names.features}"""


def _insert(names: _Names, pipeline: Pipeline, manifest: Manifest) -> str:
    scored = f"{quoted(_SCORE)} IS NOT NULL"
    topics = text_literal(pipeline.predictions), text_literal(str(pipeline.dead_letters))
    failed = _refusal_headers(
        pipeline, "model", _constant("model_failed"), _constant("the model gave no score, or one that is no number")
    )
    reason = f"COALESCE({quoted(_FIELDS)}[{REASON}], {quoted(_UNTIMELY)})"
    detail = f"COALESCE({quoted(_FIELDS)}[{DETAIL}], {text_literal(_UNTIMELY_DETAIL)})"
    refused = _refusal_headers(pipeline, "decode", *(f"CAST({text} AS BYTES)" for text in (reason, detail)))
    cut = {**refused, "cut-from-bytes": f"CAST(SPLIT_INDEX({quoted(_FIELDS)}[{DETAIL}], ' ', 0) AS BYTES)"}
    value = quoted(_VALUE)
    return f"""INSERT INTO {names.outputs}
SELECT
    CASE WHEN {scored} THEN {topics[0]} ELSE {topics[1]} END,
    {quoted(_KEY)},
    CASE WHEN {scored} THEN CAST({_prediction(pipeline)} AS BYTES) ELSE {value} END,
    CASE WHEN {scored} THEN {_map(_receipt(pipeline, manifest))}
    ELSE {_map(failed)} END
FROM {names.scored}
UNION ALL
SELECT
    {topics[1]},
    {quoted(_KEY)},
    first_bytes({value}, {pipeline.max_record_bytes}),
    CASE WHEN {quoted(_FIELDS)}[{REASON}] = 'too_large' THEN {_map(cut)}
    ELSE {_map(refused)} END
FROM {names.decoded}
WHERE {quoted(_FIELDS)}[{REASON}] IS NOT NULL OR {quoted(_UNTIMELY)} IS NOT NULL"""


def _prediction(pipeline: Pipeline) -> str:
    pairs = [(name, _of_event(name)) for name in _copied(pipeline)]
    pairs += [(pipeline.prediction, quoted(_SCORE)), ("scored_at", _SCORED_AT)]
    if pipeline.include_features:
        finite = f"CASE WHEN ABS({{}}) <= {double_literal(sys.float_info.max)} THEN {{}} END"  # JSON has no infinity
        values = [(name, finite.format(quoted(name), quoted(name))) for name in pipeline.feature_names]
        pairs.append(("features", _json_object(values)))
    return _json_object(pairs)


_SCORED_AT = f"CAST(EXTRACT(EPOCH FROM {quoted(_NOW)}) * 1000 + EXTRACT(MILLISECOND FROM {quoted(_NOW)}) AS BIGINT)"
_UNTIMELY_DETAIL = (
    "the windows of SQL have no place for its event time: the watermark has passed it, or it is more than a day ahead "
    "of its record, or the first millisecond of 1970"
)


def _json_object(pairs: list[tuple[str, str]]) -> str:
    members = ",\n        ".join(f"KEY {text_literal(name)} VALUE {sql}" for name, sql in pairs)
    return f"JSON_OBJECT(\n        {members}\n    )"


def _receipt(pipeline: Pipeline, manifest: Manifest) -> dict[str, str]:
    texts = {
        "pipeline": pipeline.name,
        "model": manifest.name,
        "model-version": str(manifest.version),
        "model-sha256": manifest.sha256,
        "feature-set": manifest.feature_set_hash,
        "topic": pipeline.events.topic,
    }
    places = {**_place(), "event-time": _number(TIME_MS)}
    return {name: _constant(printable(text)) for name, text in texts.items()} | places


def _refusal_headers(pipeline: Pipeline, stage: str, reason: str, detail: str) -> dict[str, str]:
    constants = {"pipeline": pipeline.name, "topic": pipeline.events.topic, "stage": stage}
    texts = {name: _constant(text) for name, text in constants.items()}
    return {**texts, **_place(), "reason": reason, "exception": detail}


def _place() -> dict[str, str]:
    return {"partition": _number(_PARTITION), "offset": _number(OFFSET)}


def _constant(text: str) -> str:
    return f"CAST({text_literal(text)} AS BYTES)"


def _number(column: str) -> str:
    return f"CAST(CAST({quoted(column)} AS STRING) AS BYTES)"


def _map(headers: dict[str, str]) -> str:
    pairs = ",\n        ".join(f"{text_literal(HEADER + name)}, {sql}" for name, sql in headers.items())
    return f"MAP[\n        {pairs}\n    ]"
