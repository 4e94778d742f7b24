"""Contestant: PyFlink as its documentation teaches it, one record a call.

`KafkaSource -> key_by(user) -> KeyedProcessFunction with a ValueState -> KafkaSink`, exactly once, on the same Flink
with the same checkpoints and state backend; in process mode, or in thread mode where Python runs within the JVM.

In its favour: a state cache that holds every shopper, so that no state is read over the wire twice; pickled state in
process mode, JSON text in thread mode, where byte arrays cross one byte at a time; one subtask in thread mode, where
two share one interpreter lock (6,729 events/s, and 4,169 with two, once each); no receipts in the output. Bundles have
1,000 records: of PyFlink's own 100,000 all outputs come in one burst and checkpoints wait for it, so that no speed can
be told from the times of the outputs.
"""

import os
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from pyflink.common import Configuration, JobClient, SimpleStringSchema, TypeInformation, Types, WatermarkStrategy
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import (
    KafkaOffsetsInitializer,
    KafkaRecordSerializationSchema,
    KafkaSink,
    KafkaSource,
)
from pyflink.datastream.state import ValueStateDescriptor

from flink_jobs.environment import create_environment
from tests.benchmarks.contestant import Task, wait_for_the_end
from tests.benchmarks.visits import Prediction, PurchaseModel, Visit, decode_event, encode_prediction, features_of

CACHED_SHOPPERS = 1_000_000
PARALLELISM = {"process": {}, "thread": {"parallelism": 1}}

decode_visits = msgspec.json.Decoder(list[Visit]).decode
encode_visits = msgspec.json.Encoder().encode


class ScoreVisits(KeyedProcessFunction):
    """The documentation's job: a shopper's visits are a Python list, which Flink keeps pickled."""

    def open(self, runtime_context: RuntimeContext) -> None:
        self._visits = runtime_context.get_state(ValueStateDescriptor("visits", self.state_type()))
        self._model = PurchaseModel()

    def state_type(self) -> TypeInformation:
        return Types.PICKLED_BYTE_ARRAY()

    def read(self) -> list[Visit]:
        return self._visits.value() or []

    def write(self, visits: list[Visit]) -> None:
        self._visits.update(visits)

    def process_element(self, value: str, ctx: KeyedProcessFunction.Context) -> Iterator[str]:
        event = decode_event(value)
        visits = self.read()
        features = features_of(visits, event)
        self.write(visits)
        (score,) = self._model.predict([features])
        prediction = Prediction(event.event_id, event.user_id, score, time.time_ns() // 1_000_000)
        yield encode_prediction(prediction).decode()


class ScoreVisitsAsText(ScoreVisits):
    def state_type(self) -> TypeInformation:
        return Types.STRING()

    def read(self) -> list[Visit]:
        kept = self._visits.value()
        return decode_visits(kept) if kept else []

    def write(self, visits: list[Visit]) -> None:
        self._visits.update(encode_visits(visits).decode())


def user_of(value: str) -> str:
    return decode_event(value).user_id


def build(environment: Any, task: Task, score: KeyedProcessFunction) -> None:
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(task.bootstrap)
        .set_topics(task.events)
        .set_group_id("per-record")
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    serializer = (
        KafkaRecordSerializationSchema.builder()
        .set_topic(task.output)
        .set_value_serialization_schema(SimpleStringSchema())
        .build()
    )
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(task.bootstrap)
        .set_record_serializer(serializer)
        .set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .set_transactional_id_prefix("per-record")
        .set_property("transaction.timeout.ms", "600000")
        .set_property("linger.ms", "5")
        .set_property("batch.size", "131072")
        .set_property("compression.type", "lz4")
        .build()
    )
    events = environment.from_source(source, WatermarkStrategy.no_watermarks(), "events")
    scored = events.key_by(user_of, key_type=Types.STRING()).process(score, output_type=Types.STRING())
    scored.sink_to(sink)


def main() -> None:
    task, mode = Task.from_command_line(), sys.argv[5]
    if mode == "thread":
        # the interpreter within the JVM is the base one: it does not know the virtual environment
        paths = (os.environ["PYTHONPATH"], sysconfig.get_path("purelib"))
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    settings = task.settings(bundle_ms=1_000, bundle_size=1_000, restart_attempts=0, **PARALLELISM[mode])
    environment, _ = create_environment(settings, settings.checkpoints / "per-record")
    options = Configuration()
    options.set_string("python.state.cache-size", str(CACHED_SHOPPERS))
    options.set_string("python.execution-mode", mode)
    environment.configure(options)
    build(environment, task, ScoreVisitsAsText() if mode == "thread" else ScoreVisits())
    client = environment.execute_async("per-record")
    threading.Thread(target=end_with, args=(client,), daemon=True).start()
    wait_for_the_end()
    client.cancel().result()


def end_with(client: JobClient) -> None:
    """End this process when the job does: the bench does not wait for outputs that cannot come."""
    try:
        client.get_job_execution_result().result()
    except Exception as error:
        print(error, flush=True)
    os._exit(1)
