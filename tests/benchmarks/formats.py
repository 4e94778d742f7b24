"""Cost of formats: decoding events and encoding predictions, without Flink; and whole jobs, in and out in each format.

Whole jobs score the same events on one broker, each format twice and in the opposite order the second time; before
them is a run that does not count, for a broker that has just begun is slower. Speed is taken as the ratios take it,
after the first three tenths, so start-up is out. No number is printed before the scores agree with those of JSON.
"""

import dataclasses
import io
import itertools
import json
import tempfile
import time
from pathlib import Path

import fastavro
import msgspec
import numpy as np
from google.protobuf import message_factory

from flink_jobs.local.shoppers import as_records, shopper_events
from flink_jobs.pipelines import load_pipeline
from tests.benchmarks.contest import EVENTS_TOPIC, Contestant, contest
from tests.benchmarks.outcomes import Outcome, Scored, check_agreement, decode_scored
from udfs.confluent_wire import head_of
from udfs.event_keys import key_of
from udfs.formats import Avro, Json, JsonSchema, Protobuf
from udfs.output_fields import predictions_of
from udfs.output_values import value_schema
from udfs.proto_text import compile_proto, messages_of
from udfs.receipts import NamedModel
from udfs.record_batch import RecordBatch, pack_records
from udfs.registered_schema import RegisteredSchema
from udfs.schema_texts import event_schema_text, prediction_schema_text
from udfs.wire_formats import EventDecoder, PredictionEncoder

EVENTS, BATCH, ROUNDS = 20_000, 500, 3
FORMATS = (Json(), JsonSchema(), Avro(), Protobuf())
JOB_EVENTS, QUICK_JOB_EVENTS = 1_000_000, 600_000
JOB_FORMATS = {"json": Json, "avro": Avro, "protobuf": Protobuf}


def measure(quick):
    """Both; prints a table of each."""
    return profile_formats() | measure_jobs(QUICK_JOB_EVENTS if quick else JOB_EVENTS)


def profile_formats() -> dict[str, float]:
    """CPU microseconds an event in batches of 500, the best of some rounds; prints them as a table."""
    result: dict[str, float] = {}
    print(f"\n{'CPU us/event':>12}{'decode':>10}{'encode':>10}")
    for form in FORMATS:
        decode, encode = _spent_us(form)
        name = type(form).__name__.lower()
        print(f"{name:>12}{decode:>10.2f}{encode:>10.2f}", flush=True)
        result |= {f"format_decode_us_{name}": round(decode, 3), f"format_encode_us_{name}": round(encode, 3)}
    return result


def measure_jobs(events: int) -> dict[str, float]:
    """Events a second of a whole job by format, and its ratio to JSON's; prints a row for each run."""
    shop = load_pipeline("purchase")
    outcomes: dict[str, list[Outcome]] = {name: [] for name in JOB_FORMATS}
    with tempfile.TemporaryDirectory(prefix="millrace-formats-") as folder, contest(Path(folder)) as field:
        for name in JOB_FORMATS:
            field.fill(events, f"{EVENTS_TOPIC}-{name}", _writer(_event_schema(shop, name), b""))
        print(f"\n{events:,} events\n{'':12}{'events/s':>10}{'others use':>13}   CPU us an event", flush=True)
        for number, name in enumerate(("json", *JOB_FORMATS, *reversed(JOB_FORMATS))):
            outcome = field.run(
                Contestant(
                    f"{name}-{number}",
                    "tests.benchmarks.formats_job",
                    events,
                    (name,),
                    topic=f"{EVENTS_TOPIC}-{name}",
                    decode=_reader(value_schema(predictions_of(in_format(shop, name)))),
                )
            )
            if number == 0:
                reference = outcome
                continue
            check_agreement(outcome, reference)
            outcome.scores.clear()
            outcomes[name].append(outcome)
            spent = ", ".join(f"{kind} {outcome.cpu_us.get(kind, 0):.1f}" for kind in ("jvm", "python", "broker"))
            others = f"{outcome.other_cores:.2f} cores"
            print(f"{name:>12}{outcome.events_per_s:>10,.0f}{others:>13}   {spent}", flush=True)
    return as_results(outcomes)


def as_results(outcomes: dict[str, list[Outcome]]) -> dict[str, float]:
    """Flat, means of the runs: `format_job_events_per_s_NAME`, `…_cpu_us_NAME`, `…_ratio_NAME`, `…_cpu_ratio_NAME`."""

    def mean(numbers):
        return sum(numbers) / len(numbers)

    speeds = {name: mean([one.events_per_s for one in runs]) for name, runs in outcomes.items()}
    cpu = {
        name: mean([sum(one.cpu_us.get(kind, 0.0) for kind in ("jvm", "python", "broker")) for one in runs])
        for name, runs in outcomes.items()
    }
    result = {f"format_job_events_per_s_{name}": round(speed) for name, speed in speeds.items()}
    result |= {f"format_job_cpu_us_{name}": round(us, 2) for name, us in cpu.items()}
    for name in speeds:
        if name != "json":
            result[f"format_job_ratio_{name}"] = round(speeds[name] / speeds["json"], 3)
            result[f"format_job_cpu_ratio_{name}"] = round(cpu["json"] / cpu[name], 3)
            print(f"{name:>12} has {result[f'format_job_ratio_{name}']:.2f} of JSON's events/s", flush=True)
    return result


def in_format(pipeline, name: str):
    """The pipeline with bare records of a format, events and predictions."""
    form = JOB_FORMATS[name]
    if form is Json:
        return pipeline
    events = dataclasses.replace(pipeline.events, format=form(schema=event_schema_text(pipeline.events, form.kind)))
    return dataclasses.replace(
        pipeline, events=events, output_format=form(schema=prediction_schema_text(pipeline, form.kind))
    )


def _event_schema(pipeline, name):
    form = in_format(pipeline, name).events.format
    return None if isinstance(form, Json) else RegisteredSchema(0, form.kind, form.schema)


def _spent_us(form) -> tuple[float, float]:
    shop = load_pipeline("purchase")
    pipeline = dataclasses.replace(shop, events=dataclasses.replace(shop.events, format=form), output_format=form)
    text = event_schema_text(shop.events, form.kind)
    schema = None if isinstance(form, Json) else RegisteredSchema(7, form.kind, text)
    batches = [RecordBatch(pack_records(*batch)) for batch in _batches(pipeline, schema)]
    decoder = EventDecoder(pipeline, lambda _: schema)
    output = value_schema(predictions_of(pipeline))
    encoder = PredictionEncoder(
        pipeline,
        model=NamedModel("m", "1", "ab", "cd"),
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
    head = b"" if schema is None else head_of(schema.id) + (b"\0" if schema.kind == "PROTOBUF" else b"")
    write = _writer(schema, head)
    records = list(itertools.islice(as_records(shopper_events(300, 1, 1_700_000_000_000)), EVENTS))
    for first in range(0, EVENTS, BATCH):
        part = records[first : first + BATCH]
        keys = [key_of(pipeline.events, key.decode()) for key, _ in part]
        offsets = list(range(first, first + len(part)))
        yield keys, [write(value) for _, value in part], [0] * len(part), offsets, offsets


def _writer(schema, head: bytes):
    """JSON of an event -> a record, by the format's own library."""
    if schema is None or schema.kind == "JSON":
        return lambda value: head + value
    if schema.kind == "PROTOBUF":
        make = message_factory.GetMessageClass(messages_of(compile_proto(schema.text))[0])
        return lambda value: head + make(**msgspec.json.decode(value)).SerializeToString()
    parsed = fastavro.parse_schema(json.loads(schema.text))

    def avro(value):
        content = io.BytesIO()
        fastavro.schemaless_writer(content, parsed, msgspec.json.decode(value))
        return head + content.getvalue()

    return avro


def _reader(schema):
    """A bare prediction -> its score, by the format's own library."""
    if schema is None:
        return decode_scored
    if schema.kind == "PROTOBUF":
        message = message_factory.GetMessageClass(messages_of(compile_proto(schema.text))[0])
        return lambda value: _scored(message.FromString(value))
    parsed = fastavro.parse_schema(json.loads(schema.text))
    return lambda value: Scored(
        *map(fastavro.schemaless_reader(io.BytesIO(value), parsed, None).get, Scored.__struct_fields__)
    )


def _scored(message) -> Scored:
    return Scored(message.event_id, message.purchase_probability)
