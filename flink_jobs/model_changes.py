"""Tell a running job to score with other models, and hear what its subtasks answer.

In two steps, so that nothing is half done: first every subtask opens the models beside those that score (`prepare`);
only when all are ready, they are told from which event time on to score with them (`serve`).
"""

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
from confluent_kafka import Producer

from flink_jobs.kafka_admin import topic_ends
from flink_jobs.kafka_client import KafkaAdminError, client_config
from flink_jobs.model_serving import model_ref, models_root
from flink_jobs.model_topic import read_changes
from flink_jobs.pipelines import model_folder
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import scan
from models.fetching import fetch_version
from models.onnx_model import OnnxModel
from models.registry import retired_reason
from models.signing import check_signed_model
from models.trial import try_out
from udfs.model_schedule import (
    Challenger,
    ChangeAnswer,
    Guard,
    ModelChange,
    ModelRef,
    Schedule,
    Serving,
    apply_changes,
    rollbacks_of,
)
from udfs.pipeline import Pipeline

LEAD_MS = 5_000
"""How far ahead of the newest event a change is planned: the subtasks hear of it within a checkpoint or two."""
_LOOK_S = 0.2


class ChangeRefusedError(RuntimeError):
    """The job goes on with the models it has; the message says why."""


@dataclass(frozen=True)
class Changed:
    """A change that every subtask has taken.

    Attributes:
        serving: What scores.
        from_ms: From which event time on.
        answers: Of all subtasks, when they were ready and when they took it.
    """

    serving: Serving
    from_ms: int
    answers: tuple[ChangeAnswer, ...]

    @property
    def late_until_ms(self) -> int | None:
        """The newest event time that was scored before the change was heard of, if that is not before its time."""
        newest = [each.newest_ms for each in self.answers if each.state == "serving" and each.newest_ms is not None]
        return max((each for each in newest if each >= self.from_ms), default=None)


def serving_of(
    pipeline: Pipeline,
    settings: Settings,
    champion: int,
    challengers: Sequence[tuple[int, float]] = (),
    shadows: Sequence[int] = (),
) -> Serving:
    """Versions of the pipeline's model, opened and tried out here as the job will.

    Args:
        pipeline: Whose model it is.
        settings: Say where models are.
        champion: A version.
        challengers: Versions, each with its share of the entities.
        shadows: Versions.

    Raises:
        ModelRefusedError: One of them is nothing that Millrace opens.
        ModelMismatchError: One of them does not fit the pipeline.
        ChangeRefusedError: The shares are none.
    """
    shares = [share for _, share in challengers]
    if any(not 0 < share <= 1 for share in shares) or sum(shares) > 1:
        raise ChangeRefusedError("the challengers' shares must be above 0, and 1 at most together")
    return Serving(
        _checked(pipeline, settings, champion),
        tuple(Challenger(_checked(pipeline, settings, version), share) for version, share in challengers),
        tuple(_checked(pipeline, settings, version) for version in shadows),
    )


def _checked(pipeline: Pipeline, settings: Settings, version: int) -> ModelRef:
    root = models_root(pipeline, settings)
    reason = retired_reason(root, pipeline.model.name, version)
    if reason is not None:
        why = f": {reason}" if reason else ""
        raise ChangeRefusedError(f"{pipeline.model.name}/{version} is retired{why} (`millrace models retire --undo`)")
    signed_by = pipeline.model.signed_by
    folder = fetch_version(root, pipeline.model.name, version, signed=signed_by is not None)
    if signed_by is not None:
        check_signed_model(folder, signed_by)
    try_out(folder)
    OnnxModel.load(
        folder,
        feature_names=pipeline.feature_names,
        feature_set_hash=pipeline.feature_set_hash,
        prediction=pipeline.outputs,
        name=pipeline.model.name,
        version=version,
        signed_by=signed_by,
    )
    return model_ref(folder)


def planned(pipeline: Pipeline, settings: Settings) -> Schedule:
    """What the control topic says: which model is valid when.

    Raises:
        KafkaAdminError: Kafka does not answer, or has no such topic.
    """
    return planned_and_rolled_back(pipeline, settings)[0]


def planned_and_rolled_back(pipeline: Pipeline, settings: Settings) -> tuple[Schedule, list[ModelChange]]:
    """As `planned`, and what guards of models have undone."""
    contents, _ = read_changes(pipeline, settings)
    base = Schedule.of(model_ref(model_folder(pipeline)))
    return apply_changes(base, contents), rollbacks_of(base, contents)


def change_models(
    pipeline: Pipeline,
    settings: Settings,
    serving: Serving,
    *,
    at_ms: int | None = None,
    guard: Guard | None = None,
    wait_s: float = 120.0,
    step: Callable[[str], None] = lambda _line: None,
) -> Changed:
    """Have a running job score with other models.

    Args:
        pipeline: Has a `models_topic`.
        settings: Where Kafka is.
        serving: From `serving_of`.
        at_ms: Event time from which they score; None means `LEAD_MS` after the newest event.
        guard: Limits, over which the job goes back by itself to what serves now.
        wait_s: For how long to wait for all subtasks, in each of the two steps.
        step: Told what is being waited for.

    Raises:
        ChangeRefusedError: A subtask refused it, or not all answered; the job goes on as it was.
        KafkaAdminError: Kafka does not answer.
    """
    line = _Line(pipeline, settings)
    base = model_ref(model_folder(pipeline))
    step("every subtask opens the model and warms it, beside the one that scores")
    asked = ModelChange(uuid.uuid4().hex, "prepare", base, serving, asked_at_ms=_now_ms())
    try:
        ready = line.ask(asked, wait_s)
    except BaseException:
        line.send(ModelChange(uuid.uuid4().hex, "release", base, serving, asked_at_ms=_now_ms()))
        raise
    newest = [each.newest_ms for each in ready if each.newest_ms is not None]
    from_ms = at_ms if at_ms is not None else max(newest, default=_now_ms()) + LEAD_MS
    step("all are ready; they are told from when on to score with it")
    taken = line.ask(ModelChange(uuid.uuid4().hex, "serve", base, serving, from_ms, _now_ms(), guard), wait_s)
    return Changed(serving, from_ms, (*ready, *taken))


class _Line:
    """The control topic, and the answers to it."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._kafka = settings.bootstrap, settings.kafka_properties
        self._producer = Producer(client_config(*self._kafka, enable_idempotence=True, linger_ms=0))
        self._heard = self._end()

    def _end(self) -> int:
        topic = str(self._pipeline.models_status_topic)
        return topic_ends(self._kafka[0], topic, self._kafka[1], isolation="read_committed").get(0, 0)

    def send(self, change: ModelChange) -> None:
        """Write a change.

        Raises:
            KafkaAdminError: It was not taken.
        """
        failures: list[str] = []
        self._producer.produce(
            str(self._pipeline.models_topic),
            key=self._pipeline.name.encode(),
            value=change.to_bytes(),
            on_delivery=lambda error, _message: failures.append(error.str()) if error else None,
        )
        if self._producer.flush(10.0) or failures:
            raise KafkaAdminError(f"{self._pipeline.models_topic} does not take records: {' '.join(failures)}".strip())

    def ask(self, change: ModelChange, wait_s: float) -> list[ChangeAnswer]:
        """Write a change and wait for every subtask's answer.

        Raises:
            ChangeRefusedError: One refused it, or not all answered in time.
        """
        self.send(change)
        answers: dict[int, ChangeAnswer] = {}
        deadline = time.monotonic() + wait_s
        while len(answers) < max((each.subtasks for each in answers.values()), default=1):
            for each in self._new_answers():
                if each.id == change.id and each.state == "refused":
                    raise ChangeRefusedError(f"{each.why} (subtask {each.subtask}); nothing has changed")
                if each.id == change.id:
                    answers[each.subtask] = each
            if time.monotonic() > deadline:
                raise ChangeRefusedError(self._silence(change, list(answers.values()), wait_s))
            time.sleep(_LOOK_S)
        return list(answers.values())

    def _silence(self, change: ModelChange, answers: Sequence[ChangeAnswer], wait_s: float) -> str:
        who = f"{len(answers)} of {answers[0].subtasks} subtasks" if answers else "no subtask"
        if change.kind == "serve":
            return (
                f"{who} answered within {wait_s:g} s; the change is in {self._pipeline.models_topic} and holds "
                "as soon as the job reads it"
            )
        return f"{who} answered within {wait_s:g} s: does the job run? Nothing has changed"

    def _new_answers(self) -> Iterable[ChangeAnswer]:
        begin, self._heard = self._heard, max(self._heard, self._end())
        topic = str(self._pipeline.models_status_topic)
        for messages in scan(*self._kafka, topic, {0: (begin, self._heard)}):
            for message in messages:
                try:
                    yield msgspec.json.decode(message.value() or b"", type=ChangeAnswer)
                except msgspec.DecodeError:  # somebody else's
                    continue


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
