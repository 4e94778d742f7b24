"""Why an event got its score: the events of its entity that its features were made of, and the score once more.

What comes out now is said in `flink_jobs.feature_origins`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flink_jobs.committed_reader import receipt
from flink_jobs.decoding import decode_message, event_decoder, prediction_reader
from flink_jobs.event_lookup import CLOCKS_APART_MS, Found, Looked, find_event
from flink_jobs.feature_origins import Computed, Stretch, compute
from flink_jobs.hand_over import hand_over_folder
from flink_jobs.job_beginning import JobBeginning, handed_over_beginning, said_beginning
from flink_jobs.kafka_admin import offsets_for_time, topic_starts
from flink_jobs.receipt_models import ReceiptModel, ReceiptModels
from flink_jobs.served_scores import scores_as_served
from flink_jobs.settings import Settings
from flink_jobs.verify_command import value_of
from flink_jobs.verify_job import VerifyRequest, beginning_of, own_folder, read_answers
from models.onnx_model import OnnxModel
from udfs.pipeline import Pipeline
from udfs.scoring import predict_each
from udfs.wire_formats import NOT_TRIED_AGAIN, Refused


@dataclass(frozen=True)
class Explanation:
    """One event explained.

    Attributes:
        found: The event and its answer.
        refused: Why the record is no event, if it is none.
        computed: What comes out now; None for a record that is no event.
        score: The outputs now, by name; None if there are none.
        model_problem: Why the receipt's model cannot score it, if so.
        differences: What differs from what was served, in words; () if nothing does or nothing was served.
        beginning: Where the job is taken to have begun; None if that did not matter.
        member: Which member of a cascade scores the event now; None if no cascade does.
        unsure: Why something is not compared with what was served; None if everything is.
    """

    found: Found
    refused: Refused | None
    computed: Computed | None
    score: dict[str, Any] | None
    model_problem: str | None
    differences: tuple[str, ...]
    beginning: JobBeginning | None
    member: str | None = None
    unsure: str | None = None

    @property
    def receipt(self) -> dict[str, str]:
        """The answer's receipt; {} if there is no answer."""
        return {} if self.found.answer is None else receipt(self.found.answer)


def explain(
    pipeline: Pipeline, settings: Settings, reference: str, job_began: str | None, looked: Looked
) -> Explanation:
    """Explain one event.

    The shard's events from one retention before the event on are enough, unless clocks were wild: if what comes out
    differs from what was served, everything since the job began is read.

    Args:
        pipeline: Whose.
        settings: Where Kafka is, and the number of shards of the job.
        reference: See `find_event`.
        job_began: What `--job-began` says; None asks the receipts, if need be.
        looked: See `Looked`.

    Raises:
        CommandError: There is no such event.
    """
    found = find_event(pipeline, settings, reference, looked)
    event = decode_message(event_decoder(pipeline, settings), found.record)
    if event is None:
        event = Refused("null_value", "the record has no value, and the pipeline ignores such records")
    if isinstance(event, Refused):
        told = {} if found.answer is None else receipt(found.answer)
        differs = () if told.get("reason") in (None, event.reason) else (f"served: {told['reason']}",)
        if found.answer is not None and "reason" not in told:
            differs = ("a prediction was served",)
        return Explanation(found, event, None, None, None, differs, None)
    events = pipeline.events
    time_ms = int(events.times_ms([getattr(event, events.time)])[0])
    place = settings.bootstrap, events.topic, settings.kafka_properties
    kept = topic_starts(*place)
    said = None if job_began is None else said_beginning(*place, job_began, kept)
    first = (said.offsets if said else kept)[found.place[0]]
    near_ms = min(time_ms, found.record.timestamp()[1]) - pipeline.retention_ms - CLOCKS_APART_MS
    near = first
    if near_ms > 0:
        near = offsets_for_time(place[0], place[1], near_ms, place[2])[found.place[0]]
    built = said or _handed_over(pipeline, settings, kept)
    stretch = Stretch(max(first, min(near, found.place[1])), max(0, near_ms - CLOCKS_APART_MS), built)
    explained = _explained(pipeline, settings, found, stretch, said, looked)
    if not explained.differences or (said is not None and near <= first):
        return explained
    if said is None:
        request = VerifyRequest(pipeline, settings)
        with own_folder(settings) as folder:
            answers = read_answers(request, folder, lambda text, share: looked(text, int(share * 1_000), 1_000))
            said = beginning_of(request, answers)
    stretch = Stretch(said.offsets[found.place[0]], 0, said)
    return _explained(pipeline, settings, found, stretch, said, looked)


def _handed_over(pipeline: Pipeline, settings: Settings, kept: Mapping[int, int]) -> JobBeginning | None:
    hand_over = hand_over_folder(pipeline, settings).hand_over()
    return None if hand_over is None else handed_over_beginning(hand_over, kept)


def _explained(
    pipeline: Pipeline, settings: Settings, found: Found, stretch: Stretch, said: JobBeginning | None, looked: Looked
) -> Explanation:
    computed = compute(pipeline, settings, found, stretch, looked)
    told = {} if found.answer is None else receipt(found.answer)
    named = ReceiptModel.of(told)
    if "reason" in told or found.answer is None:  # it does not say by which model
        named = _own(pipeline)
    model: OnnxModel | str = "it killed its worker on this event"
    if not named.by_model:
        model = f"the fallback {named.fallback} scored it, in place of {named.model}/{named.version}"
    elif told.get("reason") != "model_crashed":
        model = ReceiptModels(pipeline).model(named)
    if isinstance(model, str):
        differ = _Differences(_feature_differences(pipeline, found, computed))
        unsure = differ.unsure(computed)
        return Explanation(found, None, computed, None, model, differ.known(computed), said, unsure=unsure)
    row = np.array([list(computed.features.values())])
    scores, failed = _scores(pipeline, model, row, found)
    score = None if failed else pipeline.outputs.values(scores)
    differ = _Differences() if found.answer is None else _differences(pipeline, found, computed, score, told)
    problem = failed[0].detail if failed else None
    members = None if failed else model.members(row)
    member = members[0] if members else None
    unsure = differ.unsure(computed)
    return Explanation(found, None, computed, score, problem, differ.known(computed), said, member, unsure)


def _scores(
    pipeline: Pipeline, model: OnnxModel, row: npt.NDArray[np.float64], found: Found
) -> tuple[npt.NDArray[np.float64], dict[int, Refused]]:
    """The score of a (1, F) row, and why there is none; what was served if the model says that in any batch."""
    served: Any = None if found.answer is None else value_of(found.answer, prediction_reader(pipeline))
    try:
        numbers = np.array([pipeline.outputs.numbers(served)], np.float64)
    except (KeyError, TypeError, ValueError, AttributeError):  # a dead letter, or no prediction of ours
        return predict_each(model, row, pipeline.outputs)
    again = scores_as_served(model, row, numbers[:, 0] if pipeline.outputs.is_number else numbers, pipeline.outputs)
    return again.scores, again.failed


def _own(pipeline: Pipeline) -> ReceiptModel:
    """What a receipt of the pipeline's own model would say."""
    from flink_jobs.preflight import check_model

    manifest = check_model(pipeline).manifest
    return ReceiptModel(
        pipeline.events.topic, manifest.name, str(manifest.version), manifest.sha256, manifest.feature_set_hash
    )


class _Differences(NamedTuple):
    """What of an answer is not what comes out now, in words.

    Attributes:
        of_features: That features make.
        of_event: That they do not.
    """

    of_features: tuple[str, ...] = ()
    of_event: tuple[str, ...] = ()

    def known(self, computed: Computed) -> tuple[str, ...]:
        """Those that are certain, with what is wrong with the rows that the answer names."""
        return *computed.wrong, *self.of_event, *(self.of_features if computed.unsure is None else ())

    def unsure(self, computed: Computed) -> str | None:
        """Why the others may be none; None if there are no others."""
        return computed.unsure if self.of_features else None


def _differences(
    pipeline: Pipeline, found: Found, computed: Computed, score: dict[str, Any] | None, told: Mapping[str, str]
) -> _Differences:
    """What of the answer is not what comes out now."""
    assert found.answer is not None
    if told.get("reason") in NOT_TRIED_AGAIN or (told.get("reason") == "feature_failed" and computed.failed):
        return _Differences()
    if "reason" in told:
        same = told["reason"] == "model_failed" and score is None
        text = f"a dead letter ({told['reason']}) was served, a prediction comes out now"
        return _Differences(() if same else (text,))
    served = value_of(found.answer, prediction_reader(pipeline))
    told_outputs = served if isinstance(served, dict) else {}
    outputs = []
    warming = "warming" in told  # its windows were not full, as all are here: its score may be another one
    for name in () if warming else pipeline.outputs.names:
        was, now = told_outputs.get(name), None if score is None else score[name]
        if was != now:
            outputs.append(f"{name} was {was!r:.200}, is {now!r:.200}")
    flags = ",".join(flag for flag in told.get("flags", "").split(",") if flag != "warming")
    of_event = () if flags == computed.flags else (f"flags were {flags!r}, are {computed.flags!r}",)
    incomplete = told.get("warming", "").split(",")
    return _Differences((*outputs, *_feature_differences(pipeline, found, computed, but=incomplete)), of_event)


def _feature_differences(
    pipeline: Pipeline, found: Found, computed: Computed, *, but: Collection[str] = ()
) -> tuple[str, ...]:
    served = value_of(found.answer, prediction_reader(pipeline)) if found.answer is not None else None
    told = served.get("features") if isinstance(served, dict) and pipeline.include_features else None
    if not isinstance(told, dict):
        return ()
    now = {name: value if np.isfinite(value) else None for name, value in computed.features.items()}
    differing = [name for name, value in now.items() if told.get(name) != value and name not in but]
    return tuple(f"{name} was {told.get(name)!r}, is {now[name]!r}" for name in differing)
