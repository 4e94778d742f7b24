"""Pipeline -> the statements of its Table job, in the order in which they are executed; nothing here starts a JVM.

    records -> decoded -> events -> last_10m -> last_1h -> features -> scored -> outputs
               Python:            a view an OVER window    Python: arrays, ONNX   predictions, dead letters
               decode or refuse
Refused and untimely records leave the decoded view as dead letters.
"""

import textwrap
from dataclasses import dataclass

from flink_jobs.settings import Settings
from flink_jobs.sql_answers import (
    FIELDS,
    KEY,
    NOW,
    PARTITION,
    SCORE,
    UNTIMELY,
    VALUE,
    copied_fields,
    event_column,
    insert_statement,
)
from flink_jobs.topics import EARLIEST, SQL, sink_ddl, source_options, with_options
from models.manifest import Manifest
from udfs.event_texts import FIRST_FIELD, REASON, schema_text
from udfs.event_texts import TIME_MS as TIME_MS_PLACE
from udfs.events import Events
from udfs.formats import Json, Text, describe_format
from udfs.pipeline import Pipeline
from udfs.sources import KEY as KEY_PART
from udfs.sources import TOPIC
from udfs.sql_features import OFFSET, ROWTIME, TIME_MS, SqlFeatures, SqlRefusedError, Window, compile_features
from udfs.sql_text import interval, quoted, text_literal

_TYPES = {"str": "STRING", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN"}
_RECORD_TIME = "_record_time"
_RECORD = (KEY, VALUE, PARTITION, OFFSET)
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
        SqlRefusedError: SQL cannot express a feature, or a format is not plain JSON.
    """
    _check_formats(pipeline)
    features = compile_features(pipeline)
    names = _Names(pipeline.name)
    timed = bool(features.windows)
    functions = sorted({*features.functions, "decode_event", "first_bytes", "score_missing"})
    statements = [
        *(Statement(_FUNCTION_COMMENTS[function], _function(function)) for function in functions),
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
        Statement(
            "Every record has one answer",
            insert_statement(names.outputs, names.scored, names.decoded, pipeline, manifest),
        ),
    ]
    return statements


def _check_formats(pipeline: Pipeline) -> None:
    events = pipeline.events
    formats = {"format": events.format, "key_format": events.key_format, "output_format": pipeline.output_format}
    for name, form in formats.items():
        if not isinstance(form, Json | Text):
            raise SqlRefusedError(
                f"pipeline {pipeline.name} cannot be run by SQL: {name} is {describe_format(form)}, and its statements "
                "read and write plain JSON; run it with --engine stream"
            )
    if pipeline.features_topic is not None:
        raise SqlRefusedError(
            f"pipeline {pipeline.name} cannot be run by SQL: it has a features_topic, which its statements do "
            "not write; run it with --engine stream"
        )
    if pipeline.sessions is not None:
        raise SqlRefusedError(
            f"pipeline {pipeline.name} cannot be run by SQL: it has sessions, which its statements do not follow; run "
            "it with --engine stream"
        )
    for name, path in events.fields.items():
        is_part = path.startswith("@") and path not in (KEY_PART, TOPIC)
        if is_part or (name == events.time and not all(part.isidentifier() for part in path.split("."))):
            raise SqlRefusedError(
                f"pipeline {pipeline.name} cannot be run by SQL: {name} is read from {path}, which its statements do "
                "not look at; run it with --engine stream"
            )


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
    """The statements as one text, comments above them."""
    return "\n\n".join(f"{_comment_lines(one.comment)}\n{one.sql};" for one in statements) + "\n"


def _comment_lines(text: str) -> str:
    return textwrap.fill(text, 116, initial_indent="-- ", subsequent_indent="-- ", break_long_words=False)


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
    "Raw records. The event time is read in the JVM, so that every partition has a watermark of its own: in a backlog "
    "none makes another's events late. A time ahead of the record's own does not push the watermark on"
)
_DECODED_COMMENT = "The stream's own decoder: reason and details of a refusal, event time in ms, fields as texts"
_UNTIMELY_COMMENT = (
    ". Untimely are events that the watermark has passed or would not reach, and those at 0, which OVER takes for late"
)


def _source_table(table: str, pipeline: Pipeline, settings: Settings, start_from: str, *, timed: bool) -> str:
    """The table of raw records; timed, with their event time and a watermark."""
    options = source_options(pipeline, settings, start_from, SQL, key=KEY)
    columns = [
        f"{quoted(KEY)} BYTES",
        f"{quoted(VALUE)} BYTES",
        f"{quoted(PARTITION)} INT METADATA FROM 'partition' VIRTUAL",
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
    path = events.own_source.path_of(events.time)
    text = f"JSON_VALUE(CAST({quoted(VALUE)} AS STRING), '$.{path}')"
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
    decoded = f"decode_event({quoted(KEY)}, {quoted(VALUE)},\n        {schema}) AS {quoted(FIELDS)}"
    rowtime, untimely = quoted(ROWTIME), "CAST(NULL AS STRING)"
    if timed:
        untimely = f"""CASE
        WHEN {rowtime} = TO_TIMESTAMP_LTZ(0, 3) THEN 'invalid_time'
        WHEN {rowtime} > {quoted(_RECORD_TIME)} + {_FURTHEST_AHEAD} THEN 'invalid_time'
        WHEN {rowtime} <= CURRENT_WATERMARK({rowtime}) THEN 'late'
    END"""
    tombstones = f"\nWHERE {quoted(VALUE)} IS NOT NULL" if pipeline.events.own_source.ignores_tombstones else ""
    return f"""CREATE TEMPORARY VIEW {names.decoded} AS
SELECT
    {columns},
    {decoded},
    {untimely} AS {quoted(UNTIMELY)}
FROM {names.records}{tombstones}"""


def _record_columns(timed: bool) -> tuple[str, ...]:
    return (*_RECORD, ROWTIME) if timed else _RECORD


def _events_view(names: _Names, pipeline: Pipeline, *, timed: bool) -> str:
    needed = {*copied_fields(pipeline), *(name for feature in pipeline.features for name in feature.reads)}
    fields = [
        f"{_cast(f'{quoted(FIELDS)}[{FIRST_FIELD + place}]', _TYPES[one.kind])} AS {quoted(one.name)}"
        for place, one in enumerate(pipeline.events.schema)
        if one.name in needed
    ]
    time_ms = f"CAST({quoted(FIELDS)}[{TIME_MS_PLACE}] AS BIGINT) AS {quoted(TIME_MS)}"
    return f"""CREATE TEMPORARY VIEW {names.events} AS
SELECT
    {_lines([", ".join(map(quoted, _record_columns(timed))), time_ms, *fields])}
FROM {names.decoded}
WHERE {quoted(FIELDS)}[{REASON}] IS NULL AND {quoted(UNTIMELY)} IS NULL"""


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


def _features_view(names: _Names, below: str, pipeline: Pipeline, features: SqlFeatures) -> str:
    kept = [", ".join(map(quoted, (*_RECORD, TIME_MS)))]
    kept += [f"{quoted(name)} AS {event_column(name)}" for name in copied_fields(pipeline)]
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
        {inputs}) AS {quoted(SCORE)},
    CURRENT_ROW_TIMESTAMP() AS {quoted(NOW)}
FROM {names.features}"""
