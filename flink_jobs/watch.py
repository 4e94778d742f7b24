"""Predictions of a pipeline as they become visible: committed ones only, with what their receipts say."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from confluent_kafka import Message

from flink_jobs.committed_reader import CommittedReader, receipt
from flink_jobs.decoding import PredictionReader, prediction_reader
from flink_jobs.kafka_admin import TopicMissingError
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline

WAIT_S = 0.2
_NUMBERS_SHOWN = 4


@dataclass(frozen=True)
class SeenPrediction:
    """A prediction and its receipt."""

    value: dict[str, Any]
    receipt: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**self.value, "receipt": self.receipt}

    def as_line(self, pipeline: Pipeline) -> str:
        """For people: when, whom, what, by which model, from which event."""
        scored_at = datetime.fromtimestamp(self.value["scored_at"] / 1_000).astimezone().strftime("%H:%M:%S.%f")[:-3]
        entity = str(self.value.get(pipeline.events.entity))
        found = self.receipt
        source = f"{found.get('topic')}-{found.get('partition')}@{found.get('offset')}"
        flags = f"  {found['flags']}" if found.get("flags") else ""
        model = f"{found.get('model')}/{found.get('model-version')}"
        shown = ", ".join(f"{name} {value_text(self.value[name])}" for name in pipeline.outputs.names)
        return f"{scored_at}  {entity:<16}  {shown}  {model}  from {source}{flags}"


def value_text(value: Any) -> str:
    """An output of a prediction; of a long vector only the beginning."""
    if isinstance(value, list):
        more = f", … {len(value):,} in all" if len(value) > _NUMBERS_SHOWN else ""
        return f"[{', '.join(f'{one:.4f}' for one in value[:_NUMBERS_SHOWN])}{more}]"
    return str(value) if isinstance(value, str | bool) else f"{value:.4f}" if isinstance(value, float) else str(value)


def parse_prediction(message: Message, pipeline: Pipeline, read: PredictionReader) -> SeenPrediction | None:
    """A record of the predictions topic; None when it is not one of this pipeline."""
    headers = receipt(message)
    if headers.get("pipeline") != pipeline.name:
        return None
    try:
        value = read(message.value() or b"")
    except ValueError:
        return None
    try:
        pipeline.outputs.numbers(value)
    except ValueError:
        return None
    return SeenPrediction(value, headers) if isinstance(value.get("scored_at"), int) else None


def follow_predictions(
    pipeline: Pipeline, settings: Settings, *, from_start: bool = False, limit: int | None = None
) -> Iterator[SeenPrediction]:
    """The pipeline's predictions, without end or up to `limit`.

    Raises:
        TopicMissingError: There is no topic of predictions.
    """
    try:
        reader = CommittedReader(
            settings.bootstrap, [pipeline.predictions], settings.kafka_properties, from_start=from_start
        )
    except TopicMissingError as error:
        raise TopicMissingError(f"{error}: `millrace topics create {pipeline.name}` makes it") from error
    seen, read_value = 0, prediction_reader(pipeline, settings)
    try:
        while limit is None or seen < limit:
            for message in reader.read(WAIT_S):
                found = parse_prediction(message, pipeline, read_value)
                if found is None:
                    continue
                yield found
                seen += 1
                if seen == limit:
                    return
    finally:
        reader.close()
