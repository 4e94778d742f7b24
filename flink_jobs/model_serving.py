"""The models of one subtask: which score, which are being opened beside them, and what is answered about that."""

import hashlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flink_jobs.pipeline_model import named_model, within_budget
from flink_jobs.pipelines import model_root
from flink_jobs.settings import Settings
from models.budget import TimedModel
from models.circuit import CircuitState
from models.fetching import fetch_version
from models.manifest import MANIFEST_FILE, Manifest
from models.onnx_model import OnnxModel
from models.shelf import ModelShelf
from models.signing import check_signed_model
from models.trial import ROWS, try_out
from udfs.byte_lines import Lines
from udfs.model_guard import ModelWatch
from udfs.model_schedule import (
    ChangeAnswer,
    ModelChange,
    ModelRef,
    Period,
    Schedule,
    Serving,
    apply_changes,
    read_change,
)
from udfs.output_batch import OutputGroup
from udfs.pipeline import Pipeline
from udfs.predicting import Features, predict_batch
from udfs.receipts import NamedModel, Receipt
from udfs.refused import Refused
from udfs.served_models import SHADOW, Duties, Role, ServedModels

_ANSWERS_KEPT = 100
_WARM_CALLS = 3
_NO_SCORES: tuple[Features, Mapping[int, Refused]] = (np.empty(0), {})


class ModelNotSwappedError(RuntimeError):
    """A model that events have to be scored with cannot be opened."""


class WarmModel(NamedTuple):
    """An opened model that has scored already.

    Attributes:
        model: Scores events, within the pipeline's budget if it has one.
        named: What receipts say of it.
        load_ms: How long opening took.
        batch_ms: How long a batch of `ROWS` rows takes.
    """

    model: OnnxModel | TimedModel
    named: NamedModel
    load_ms: float
    batch_ms: float


def models_root(pipeline: Pipeline, settings: Settings | None) -> str:
    """Where a job looks for models that it is told to change to: a folder or a URL."""
    root = model_root(pipeline, None if settings is None else settings.models_root)
    return str(root.absolute() if isinstance(root, Path) else root)


def model_ref(folder: Path) -> ModelRef:
    """Which model a version folder holds."""
    content = (folder / MANIFEST_FILE).read_bytes()
    manifest = Manifest.from_json(content, where=str(folder / MANIFEST_FILE))
    return ModelRef(manifest.name, manifest.version, manifest.sha256, hashlib.sha256(content).hexdigest())


class ModelServing:
    """Chooses the models of a subtask's events, as of `udfs.duty_scores.ModelChoice`, and takes changes of them.

    Args:
        pipeline: Has a `models_topic`.
        model: Its own model.
        named: What receipts say of it.
        folder: That model's.
        root: Where others are.
        changes: What the control topic said before the job began.
        tasks: Which subtask this is, of how many.
        limit_ms: A model that takes longer for `ROWS` rows is refused.

    Attributes:
        served: The schedules of the shards.
        on_use: Told name/version and sha256 of each model before it scores.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        model: OnnxModel | TimedModel,
        named: NamedModel,
        folder: Path,
        root: str,
        changes: Sequence[bytes | None],
        tasks: tuple[int, int],
        limit_ms: float,
    ) -> None:
        self.on_use: Callable[[str, str], None] = lambda *_: None
        self._pipeline, self._root, self._changes = pipeline, root, changes
        self._tasks, self._limit_ms = tasks, limit_ms
        self._base = model_ref(folder)
        self._shelf = ModelShelf[ModelRef, WarmModel](self._opened)
        self._shelf.put(self._base, WarmModel(model, named, 0.0, 0.0))
        self.served = ServedModels(self._shelf)
        self._receipts: dict[Role, Receipt] = {}
        self._group = OutputGroup(str(pipeline.models_status_topic), {}, [])
        self._control = OutputGroup(str(pipeline.models_topic), {}, [])
        self._watches: dict[ModelRef, ModelWatch] = {}
        self._watched: Period | None = None
        self._before: Serving | None = None
        self._rollbacks: list[ModelChange] = []
        self._decided: dict[str, str] = {}
        self._preparing: dict[str, ModelChange] = {}
        self._answers: list[ChangeAnswer] = []
        self._newest_ms = -1

    def knows(self, shard: int) -> bool:
        """Whether a shard has its schedule."""
        return self.served.knows(shard)

    def begin(self, shard: int, stored: bytes | None) -> bytes:
        """Take in the schedule of a shard.

        Args:
            shard: Its key.
            stored: As it was checkpointed; None in a job that begins anew, where what the control topic said counts.

        Returns:
            The schedule to store.
        """
        schedule = Schedule.of(self._base)
        if stored is None:
            schedule = apply_changes(schedule, self._changes)
        elif Schedule.from_bytes(stored).base == self._base:
            schedule = Schedule.from_bytes(stored)
        # else the pipeline was deployed with another model: that is a change, too, and the newest
        self.served.change(shard, schedule)
        newest = schedule.periods[-1].serving
        for each in newest.models:
            self._shelf.prepare(each)
        self.served.use(newest)
        self._watch_over(schedule)
        return schedule.to_bytes()

    def change(self, shard: int, content: bytes) -> bytes | None:
        """What a record of the control topic says to a shard.

        Returns:
            The schedule to store; None if it is as it was.
        """
        change = read_change(content)
        if change is None or change.id in self._preparing:
            return None
        is_new = change.id not in self._decided
        if is_new:
            self._decided[change.id] = self._decision(change, self.served.of_shard(shard))
            self._decided = dict(list(self._decided.items())[-_ANSWERS_KEPT:])
        before = self.served.of_shard(shard)
        schedule = before if self._decided[change.id] else before.after(change)
        if schedule is before:
            return None
        self.served.change(shard, schedule)
        self._watch_over(schedule)
        return schedule.to_bytes()

    def _decision(self, change: ModelChange, schedule: Schedule) -> str:
        """Do what can be done at once, and say why it cannot be; "" if it can."""
        if change.base != self._base:
            why = f"it was asked for a pipeline whose own model is {change.base}, this one's is {self._base}"
            self._answer(change, "refused", why)
            return why
        if change.kind == "release":
            self._preparing.clear()
            self.served.prepare(None)
            self._answer(change, "released")
            return ""
        if change.kind == "rollback" and schedule.after(change) is schedule:
            return "the newest change is another one"
        self.served.prepare(change.serving)
        for each in change.serving.models:
            self._shelf.prepare(each)
        if change.kind == "prepare":
            self._preparing[change.id] = change
            return ""
        why = self._problem(change.serving)
        if why:
            self.served.prepare(None)
            self._answer(change, "refused", why)
            return why
        self._preparing = {id_: each for id_, each in self._preparing.items() if each.serving != change.serving}
        self._answer(change, "serving" if change.kind == "serve" else "rolled_back", change.why)
        return ""

    def take_answers(self) -> bytes:
        """Answers that are due, as output records."""
        for id_, change in list(self._preparing.items()):
            if all(map(self._shelf.is_done, change.serving.models)):
                del self._preparing[id_]
                why = self._problem(change.serving)
                if why:
                    self.served.prepare(None)
                self._decided[id_] = why
                self._answer(change, "refused" if why else "ready", why)
        answers, self._answers = self._answers, []
        keys, values = [each.id.encode() for each in answers], [each.to_bytes() for each in answers]
        packed = self._group.pack(Lines.of(keys), Lines.of(values), ()) if answers else b""
        rollbacks, self._rollbacks = self._rollbacks, []
        if rollbacks:
            name = self._pipeline.name.encode()
            values = [each.to_bytes() for each in rollbacks]
            packed += self._control.pack(Lines.of([name] * len(values)), Lines.of(values), ())
        return packed

    def _answer(self, change: ModelChange, state: str, why: str = "") -> None:
        is_open = state in ("ready", "serving", "rolled_back")
        warm = [self._shelf.get(each) for each in change.serving.models] if is_open else []
        self._answers.append(
            ChangeAnswer(
                change.id,
                state,  # type: ignore[arg-type]  # one of its literals
                *self._tasks,
                at_ms=time.time_ns() // 1_000_000,
                why=why,
                load_ms=round(sum(each.load_ms for each in warm), 1),
                batch_ms=round(max((each.batch_ms for each in warm), default=0.0), 3),
                rows=ROWS if warm else 0,
                newest_ms=self._newest_ms if self._newest_ms >= 0 else None,
            )
        )

    def _problem(self, serving: Serving) -> str:
        """Why one of the models cannot score; "" if all can."""
        for each in serving.models:
            try:
                self._shelf.get(each)
            except Exception as error:  # whatever a model's opening raises, the one that scores goes on
                return f"{each}: {' '.join(str(error).split()) or type(error).__name__}"
        return ""

    def _opened(self, ref: ModelRef) -> WarmModel:
        """Open a model in whatever thread this is, and let it score before any event needs it."""
        began = time.perf_counter()
        signed_by = self._pipeline.model.signed_by
        is_signed, manifest_sha256 = signed_by is not None, ref.manifest_sha256
        folder = fetch_version(
            self._root, ref.name, ref.version, ref.sha256, manifest_sha256=manifest_sha256, signed=is_signed
        )
        if signed_by is not None:  # before anything opens it
            check_signed_model(folder, signed_by)
        try_out(folder)
        model = OnnxModel.load(
            folder,
            feature_names=self._pipeline.feature_names,
            feature_set_hash=self._pipeline.feature_set_hash,
            prediction=self._pipeline.outputs,
            name=ref.name,
            version=ref.version,
            signed_by=signed_by,
        )
        rows = np.tile(model.example_row(), (ROWS, 1))
        calls_ms = []
        for _ in range(_WARM_CALLS):
            call = time.perf_counter()
            model.predict(rows)
            calls_ms.append((time.perf_counter() - call) * 1e3)
        if min(calls_ms) > self._limit_ms:
            message = (
                f"it takes {min(calls_ms):,.0f} ms for {ROWS} rows, more than model_batch_limit_ms = {self._limit_ms:g}"
            )
            raise ModelNotSwappedError(message)
        opened_ms = (time.perf_counter() - began) * 1e3
        return WarmModel(within_budget(self._pipeline, model), named_model(model.manifest), opened_ms, min(calls_ms))

    def duties(
        self, shards: Sequence[int], ends: Sequence[int], times_ms: npt.NDArray[np.int64], entities: Sequence[str]
    ) -> Duties:
        """See `udfs.served_models.ServedModels.duties`."""
        self._newest_ms = max(self._newest_ms, int(times_ms.max()))
        return self.served.duties(shards, ends, times_ms, entities)

    def predict(self, role: Role, features: Features) -> tuple[Features, dict[int, Refused]]:
        """See `udfs.duty_scores.ModelChoice`; a model that is watched over is looked at.

        Raises:
            ModelNotSwappedError: As of `model`.
        """
        watch = None if role.name == SHADOW else self._watches.get(role.model)
        if watch is None:
            return predict_batch(self.model(role), features, self._pipeline.outputs)
        began = time.perf_counter()
        scores, failed = predict_batch(self.model(role), features, self._pipeline.outputs)
        elapsed_s = time.perf_counter() - began
        why = watch.take(scores, failed, elapsed_s, self._scores_before(features) if watch.needs_before else _NO_SCORES)
        if watch.is_over:
            del self._watches[role.model]
        if why:
            self._roll_back(why)
        return scores, failed

    def _scores_before(self, features: Features) -> tuple[Features, Mapping[int, Refused]]:
        """What the champion before says; nothing where it is not open any more, as after a restart."""
        opened = None if self._before is None else self._shelf.opened().get(self._before.champion)
        return _NO_SCORES if opened is None else predict_batch(opened.model, features, self._pipeline.outputs)

    def _watch_over(self, schedule: Schedule) -> None:
        """Look at the first events of the models that are new in the newest period, if it has a guard."""
        newest = schedule.periods[-1]
        if newest == self._watched:
            return
        self._watched, self._watches = newest, {}
        if newest.guard is None or len(schedule.periods) == 1:
            return
        self._before = schedule.periods[-2].serving
        served = [newest.serving.champion, *(each.model for each in newest.serving.challengers)]
        new = [each for each in served if each not in self._before.models]
        self._watches = {each: ModelWatch(each, newest.guard, self._pipeline.outputs) for each in new}

    def _roll_back(self, why: str) -> None:
        """Ask all subtasks, this one among them, to go back to what served before the newest period."""
        assert self._watched is not None
        assert self._before is not None
        from_ms, failed = self._watched.from_ms, self._watched.serving
        now_ms = time.time_ns() // 1_000_000
        change = ModelChange(
            uuid.uuid4().hex, "rollback", self._base, self._before, from_ms, now_ms, failed=failed, why=why
        )
        self._watches = {}
        self._rollbacks.append(change)
        self._answer(change, "breached", why)

    @property
    def has_answers(self) -> bool:
        """Whether there is something to say at once; other answers wait for the next command."""
        return bool(self._rollbacks)

    def circuit(self) -> CircuitState:
        """The worst of the models that are open."""
        timed = [each.model for each in self._shelf.opened().values() if isinstance(each.model, TimedModel)]
        return max((each.circuit.state for each in timed), default=CircuitState.CLOSED)

    def model(self, role: Role) -> OnnxModel | TimedModel:
        """The model of a role.

        Raises:
            ModelNotSwappedError: It scored before a restart, and cannot be opened now; the job must not go on without.
        """
        self.on_use(str(role.model), role.model.sha256)
        try:
            return self._shelf.get(role.model).model
        except Exception as error:
            message = f"model {role.model} has to score events and cannot be opened: {error}"
            raise ModelNotSwappedError(message) from error

    def receipt(self, role: Role) -> Receipt:
        """The receipt of a role's predictions."""
        if role not in self._receipts:
            topic = self._pipeline.shadow_topic if role.name == SHADOW else None
            self._receipts[role] = Receipt.of(self._pipeline, self.named(role), role=role.name, topic=topic)
        return self._receipts[role]

    def named(self, role: Role) -> NamedModel:
        """What receipts say of a role's model."""
        return self._shelf.get(role.model).named
