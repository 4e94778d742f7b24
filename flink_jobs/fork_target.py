"""Where the predictions of a fork go: a Parquet file, or a topic that nobody is served from."""

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from confluent_kafka import Message

from flink_jobs.decoding import decode_message, event_decoder, registered_schema
from flink_jobs.events_producer import RecordSender
from flink_jobs.kafka_admin import TopicSpec, create_topics, delete_topics, topic_ends, topic_partitions
from flink_jobs.output_columns import output_columns, output_type
from flink_jobs.pipeline_model import named_model
from flink_jobs.recomputed import Recomputed
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import scan
from models.onnx_model import OnnxModel
from models.outputs import Outputs
from udfs.byte_lines import Lines
from udfs.output_batch import read_outputs
from udfs.output_fields import predictions_of
from udfs.pipeline import Pipeline
from udfs.receipts import Receipt
from udfs.scoring import FLAG_NAMES
from udfs.wire_formats import PredictionEncoder, Refused

FORK = "fork"
"""The role that receipts of such predictions name."""
Floats = npt.NDArray[np.float64]
pa: Any = pyarrow
pc: Any = pyarrow.compute
pq: Any = pyarrow.parquet


class ForkTargetError(ValueError):
    """The predictions cannot go there; one line says why."""


class ForkTarget(Protocol):
    """What takes the predictions of a fork; leaving it after a failure leaves no half of a file."""

    def write(self, partition: int, now: Recomputed, scores: Floats, before: Floats) -> int:
        """Take the events of a stretch.

        Args:
            partition: Of the events' topic.
            now: The events.
            scores: (n, *shape) as of `models.outputs`; NaN for one that has none.
            before: The same of what it is compared with; NaN without.

        Returns:
            How many have a score.
        """

    def __enter__(self) -> "ForkTarget":
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""


class FileTarget:
    """Rows of `_partition`, `_offset`, `_event_time`, `before` and the pipeline's prediction, in the topic's order.

    Of a prediction of more than one number there is `before_<output>` for each output.

    Args:
        path: The Parquet file; replaced when all is there.
        outputs: Of the predictions.
    """

    def __init__(self, path: Path, outputs: Outputs) -> None:
        self._path, self._unfinished = path, path.with_name(f".{path.name}.unfinished")
        self._outputs = outputs
        before = [("before" if outputs.is_number else f"before_{one.name}", output_type(one)) for one in outputs.each]
        self._schema = pa.schema([
            ("_partition", pa.int32()), ("_offset", pa.int64()), ("_event_time", pa.timestamp("ms", "UTC")),
            *before, *((one.name, output_type(one)) for one in outputs.each),
        ])  # fmt: skip

    def __enter__(self) -> "FileTarget":
        self._writer = pq.ParquetWriter(self._unfinished, self._schema)
        return self

    def write(self, partition: int, now: Recomputed, scores: Floats, before: Floats) -> int:
        """As of `ForkTarget`."""
        kept = self._outputs.finite(scores)
        known = self._outputs.finite(before[kept])
        was = output_columns(self._outputs, np.where(known if before.ndim == 1 else known[:, None], before[kept], 0.0))
        columns = [
            np.full(int(kept.sum()), partition, np.int32), now.offsets[kept],
            pa.array(now.times_ms[kept]).cast(self._schema.field("_event_time").type),
            *(pc.if_else(pa.array(known), column, None) for column in was.values()),
            *output_columns(self._outputs, scores[kept]).values(),
        ]  # fmt: skip
        self._writer.write_table(pa.table(columns, schema=self._schema))
        return int(kept.sum())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if error is None:
            self._unfinished.replace(self._path)
        self._unfinished.unlink(missing_ok=True)


def fork_topic(pipeline: Pipeline, version: int) -> str:
    """The topic of a fork's predictions."""
    return f"{pipeline.predictions}-{FORK}-{version}"


class TopicTarget:
    """Predictions as the job writes them, with receipts whose role is `fork`, in a topic of their own.

    Args:
        pipeline: Whose.
        settings: Where Kafka is.
        model: What scored.
        replace: Whether a topic that holds records may be made anew.

    Raises:
        ForkTargetError: It holds records.
        KafkaAdminError: Kafka refuses.
    """

    def __init__(self, pipeline: Pipeline, settings: Settings, model: OnnxModel, *, replace: bool) -> None:
        manifest = model.manifest
        self.topic = fork_topic(pipeline, manifest.version)
        self._kafka = settings.bootstrap, settings.kafka_properties
        self._make(pipeline.events.partitions, replace=replace)
        named = named_model(manifest)
        self._receipt = Receipt.of(pipeline, named, role=FORK, topic=self.topic)
        schema = registered_schema(predictions_of(pipeline), settings)
        self._encoder = PredictionEncoder(pipeline, model=named, schema=schema)
        self._decoder, self._events = event_decoder(pipeline, settings), pipeline.events.topic

    def _make(self, partitions: int, *, replace: bool) -> None:
        bootstrap, properties = self._kafka
        if self.topic in topic_partitions(bootstrap, [self.topic], properties):
            if any(topic_ends(bootstrap, self.topic, properties).values()) and not replace:
                raise ForkTargetError(f"topic {self.topic} holds records already: give --replace to make it anew")
            delete_topics(bootstrap, [self.topic], properties)
        create_topics(bootstrap, [TopicSpec(self.topic, partitions)], properties)

    def __enter__(self) -> "TopicTarget":
        self._sender = RecordSender(self._kafka[0], self.topic, self._kafka[1])
        return self

    def write(self, partition: int, now: Recomputed, scores: Floats, before: Floats) -> int:
        """As of `ForkTarget`; the events are read again, for the fields of a prediction that no feature reads."""
        del before
        sent = self._sender.sent
        span = {partition: (int(now.offsets[0]), int(now.offsets[-1]) + 1)} if len(now.offsets) else {}
        for messages in scan(*self._kafka, self._events, span):
            self._send(partition, now, scores, messages)
        return self._sender.sent - sent

    def _send(self, partition: int, now: Recomputed, scores: Floats, messages: Iterable[Message]) -> None:
        events, keys, rows = [], [], []
        for message in messages:
            offset = int(message.offset() or 0)
            row = int(np.searchsorted(now.offsets, offset))
            if row == len(now.offsets) or now.offsets[row] != offset or not np.isfinite(scores[row]).all():
                continue
            event = decode_message(self._decoder, message)
            if event is not None and not isinstance(event, Refused):
                key: Any = message.key()
                events.append(event)
                keys.append(None if key is None else bytes(key))
                rows.append(row)
        if not events:
            return
        outputs = self._encoder.predictions(
            events,
            scores[rows],
            keys=Lines.of(keys),
            scored_at_ms=time.time_ns() // 1_000_000,
            partitions=np.full(len(rows), partition, np.int32),
            offsets=now.offsets[rows],
            event_times_ms=now.times_ms[rows],
            flags=[FLAG_NAMES[flag] for flag in now.flags[rows].tolist()],
            features=now.features[rows],
            receipt=self._receipt,
        )
        for record in read_outputs(outputs):
            headers = [(name, text.encode()) for name, text in record.headers.items()]
            self._sender.send(record.key, record.value, headers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._sender.flush()
