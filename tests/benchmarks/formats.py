"""CPU time of decoding events and encoding predictions in each format, without Flink, in batches of 500."""

import dataclasses
import io
import itertools
import json
import time

import fastavro
import msgspec
import numpy as np
from google.protobuf import message_factory

from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.pipelines import load_pipeline
from udfs.confluent_wire import head_of
from udfs.event_keys import key_of
from udfs.formats import Avro, Json, JsonSchema, Protobuf
from udfs.prediction_values import prediction_schema
from udfs.proto_text import compile_proto, messages_of
from udfs.record_batch import RecordBatch, pack_records
from udfs.registered_schema import RegisteredSchema
from udfs.schema_texts import event_schema_text
from udfs.wire_formats import EventDecoder, PredictionEncoder

EVENTS, BATCH, ROUNDS = 20_000, 500, 3
FORMATS = (Json(), JsonSchema(), Avro(), Protobuf())


def profile_formats() -> dict[str, float]:
    """Microseconds an event, the best of some rounds; prints them as a table."""
    result: dict[str, float] = {}
    print(f"\n{'CPU us/event':>12}{'decode':>10}{'encode':>10}")
    for form in FORMATS:
        decode, encode = _spent_us(form)
        name = type(form).__name__.lower()
        print(f"{name:>12}{decode:>10.2f}{encode:>10.2f}", flush=True)
        result |= {f"format_decode_us_{name}": round(decode, 3), f"format_encode_us_{name}": round(encode, 3)}
    return result


def _spent_us(form) -> tuple[float, float]:
    shop = load_pipeline("purchase")
    pipeline = dataclasses.replace(shop, events=dataclasses.replace(shop.events, format=form), output_format=form)
    text = event_schema_text(shop.events, form.kind)
    schema = None if isinstance(form, Json) else RegisteredSchema(7, form.kind, text)
    batches = [RecordBatch(pack_records(*batch)) for batch in _batches(pipeline, schema)]
    decoder = EventDecoder(pipeline, lambda _: schema)
    output = prediction_schema(pipeline)
    encoder = PredictionEncoder(
        pipeline,
        model={"name": "m", "version": "1", "sha256": "ab"},
        feature_set_hash="cd",
        schema=output and output._replace(id=8),
    )
    decode, encode = [], []
    for _ in range(ROUNDS):
        started = time.thread_time_ns()
        decoded = [decoder.decode_batch(batch) for batch in batches]
        decode.append(time.thread_time_ns() - started)
        assert not any(each.refused for each in decoded)
        started = time.thread_time_ns()
        for batch, each in zip(batches, decoded, strict=True):
            zeros = np.zeros(len(each.events))
            encoder.predictions(
                each.events, zeros, keys=batch.keys, scored_at_ms=1, partitions=batch.partitions,
                offsets=batch.offsets, event_times_ms=batch.offsets,
            )  # fmt: skip
        encode.append(time.thread_time_ns() - started)
    return min(decode) / EVENTS / 1_000, min(encode) / EVENTS / 1_000


def _batches(pipeline, schema):
    write = _writer(schema)
    records = list(itertools.islice(as_records(shopper_events(300, 1, 1_700_000_000_000)), EVENTS))
    for first in range(0, EVENTS, BATCH):
        part = records[first : first + BATCH]
        keys = [key_of(pipeline.events, key.decode()) for key, _ in part]
        offsets = list(range(first, first + len(part)))
        yield keys, [write(value) for _, value in part], [0] * len(part), offsets, offsets


def _writer(schema):
    if schema is None:
        return lambda value: value
    head = head_of(schema.id)
    if schema.kind == "JSON":
        return lambda value: head + value
    if schema.kind == "PROTOBUF":
        make = message_factory.GetMessageClass(messages_of(compile_proto(schema.text))[0])
        return lambda value: head + b"\0" + make(**msgspec.json.decode(value)).SerializeToString()
    parsed = fastavro.parse_schema(json.loads(schema.text))

    def avro(value):
        content = io.BytesIO()
        fastavro.schemaless_writer(content, parsed, msgspec.json.decode(value))
        return head + content.getvalue()

    return avro
