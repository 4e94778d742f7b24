"""The answers of a Table job in SQL: predictions with their receipts, dead letters, as the DataStream job has them."""

import sys

from models.manifest import Manifest
from udfs.event_texts import DETAIL, REASON
from udfs.pipeline import Pipeline
from udfs.sql_features import OFFSET, TIME_MS
from udfs.sql_text import double_literal, quoted, text_literal
from udfs.wire_formats import HEADER, printable

KEY, VALUE, PARTITION = "_record_key", "_record_value", "_record_partition"
FIELDS, UNTIMELY, SCORE, NOW = "_fields", "_untimely", "_score", "_now"
"""Columns of the views below; no field of an event begins with an underscore."""


def copied_fields(pipeline: Pipeline) -> list[str]:
    """Fields of the event that stand in the prediction."""
    return list(dict.fromkeys((pipeline.events.id, pipeline.events.entity, *pipeline.include)))


def event_column(name: str) -> str:
    """Such a field beside the features, of which one may have its name."""
    return quoted(f"_event_{name}")


def insert_statement(
    outputs: str, scored_view: str, decoded_view: str, pipeline: Pipeline, manifest: Manifest
) -> str:
    """The INSERT: predictions of the scored view, dead letters of it and of the decoded one."""
    scored = f"{quoted(SCORE)} IS NOT NULL"
    topics = text_literal(pipeline.predictions), text_literal(str(pipeline.dead_letters))
    failed = _refusal_headers(
        pipeline, "model", _constant("model_failed"), _constant("the model gave no score, or one that is no number")
    )
    reason = f"COALESCE({quoted(FIELDS)}[{REASON}], {quoted(UNTIMELY)})"
    detail = f"COALESCE({quoted(FIELDS)}[{DETAIL}], {text_literal(_UNTIMELY_DETAIL)})"
    refused = _refusal_headers(pipeline, "decode", *(f"CAST({text} AS BYTES)" for text in (reason, detail)))
    cut = {**refused, "cut-from-bytes": f"CAST(SPLIT_INDEX({quoted(FIELDS)}[{DETAIL}], ' ', 0) AS BYTES)"}
    value = quoted(VALUE)
    return f"""INSERT INTO {outputs}
SELECT
    CASE WHEN {scored} THEN {topics[0]} ELSE {topics[1]} END,
    {quoted(KEY)},
    CASE WHEN {scored} THEN CAST({_prediction(pipeline)} AS BYTES) ELSE {value} END,
    CASE WHEN {scored} THEN {_map(_receipt(pipeline, manifest))}
    ELSE {_map(failed)} END
FROM {scored_view}
UNION ALL
SELECT
    {topics[1]},
    {quoted(KEY)},
    first_bytes({value}, {pipeline.max_record_bytes}),
    CASE WHEN {quoted(FIELDS)}[{REASON}] = 'too_large' THEN {_map(cut)}
    ELSE {_map(refused)} END
FROM {decoded_view}
WHERE {quoted(FIELDS)}[{REASON}] IS NOT NULL OR {quoted(UNTIMELY)} IS NOT NULL"""


def _prediction(pipeline: Pipeline) -> str:
    pairs = [(name, event_column(name)) for name in copied_fields(pipeline)]
    pairs += [(pipeline.outputs.names[0], quoted(SCORE)), ("scored_at", _SCORED_AT)]
    if pipeline.include_features:
        finite = f"CASE WHEN ABS({{}}) <= {double_literal(sys.float_info.max)} THEN {{}} END"  # JSON has no infinity
        values = [(name, finite.format(quoted(name), quoted(name))) for name in pipeline.feature_names]
        pairs.append(("features", _json_object(values)))
    return _json_object(pairs)


_SCORED_AT = f"CAST(EXTRACT(EPOCH FROM {quoted(NOW)}) * 1000 + EXTRACT(MILLISECOND FROM {quoted(NOW)}) AS BIGINT)"
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
    return {"partition": _number(PARTITION), "offset": _number(OFFSET)}


def _constant(text: str) -> str:
    return f"CAST({text_literal(text)} AS BYTES)"


def _number(column: str) -> str:
    return f"CAST(CAST({quoted(column)} AS STRING) AS BYTES)"


def _map(headers: dict[str, str]) -> str:
    pairs = ",\n        ".join(f"{text_literal(HEADER + name)}, {sql}" for name, sql in headers.items())
    return f"MAP[\n        {pairs}\n    ]"
