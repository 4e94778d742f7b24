"""Thin Flink functions: load the state, call the logic, store the state."""

import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, ProcessFunction, RuntimeContext
from pyflink.datastream.state import MapState, MapStateDescriptor, ValueStateDescriptor
from pyflink.metrics import MetricGroup

from flink_jobs.asked_models import AskedModels
from flink_jobs.bundle_sampling import stop_sampling_bundles
from flink_jobs.crash_guard import CrashGuard, crash_folder
from flink_jobs.decoding import schema_source
from flink_jobs.lookup_serving import ServedTables
from flink_jobs.model_serving import ModelServing, models_root
from flink_jobs.pipeline_model import named_model, open_model, open_others, other_folders, within_budget
from flink_jobs.pipelines import shipped_model
from flink_jobs.settings import Settings
from flink_jobs.state_files import StateFile
from flink_jobs.state_writes import send_state_writes_together
from flink_jobs.worker_end import end_with_taskmanager
from models.budget import TimedModel
from models.manifest import Manifest
from models.providers import use_providers
from udfs.answering import Answerer
from udfs.entity_state import ShardState
from udfs.feature_records import FeatureEncoder
from udfs.kernel_warm_up import warm_up
from udfs.ladder import Ladder
from udfs.pipeline import Pipeline
from udfs.plan import FeaturePlan
from udfs.positions import READ_TO, Positions
from udfs.predicting import Model
from udfs.receipts import NamedModel
from udfs.record_batch import LOOKUPS, MODELS, RECORDS, REQUESTS, TICK, WRITE, RecordBatch
from udfs.registered_schema import RegisteredSchema
from udfs.routing import Router
from udfs.scoring import Scorer
from udfs.session_records import SessionWatch
from udfs.wire_formats import PredictionEncoder

STATE_LOG = "shard-state-log"
MODEL_SCHEDULE = "model-schedule"
SHADOW_FAILURES = "shadowFailures"
"""Gauge: scores of shadows that could not be had or written."""
LAST_SCORES = "last-scores"
OPEN_SESSIONS = "open-sessions"
CIRCUIT = "modelCircuit"
"""Gauge: the worst circuit of the models that are open, 0 closed, 1 half-open, 2 open; with a `model_budget_ms`."""
REQUESTS_ANSWERED, REQUESTS_REFUSED = "requestsAnswered", "requestsRefused"
"""Gauges: requests that were answered with a score, and with an error or by a dead letter."""
SESSIONS_NOT_WRITTEN = "sessionsNotWritten"
"""Gauge: closed sessions that could not be written: too large, or an entity that the format has no place for."""
PASSED_OVER = "recordsPassedOver"
"""Counts records that are neither events nor dead letters."""


class ScoreBatches(KeyedProcessFunction):
    """(shard key, batch of raw records) -> the batch's output records, both as bytes.

    The states of this subtask's shards live in this process. Each is written behind to Flink as a log of events
    (`ShardState`), under its own key, when told to: before each checkpoint, because every write is a round trip to the
    JVM. With several sources each tells, and the last one to do so has sent its last records before the checkpoint. At
    the start all states are read back before the first record or checkpoint barrier comes.

    Args:
        pipeline: What to compute.
        model_folder: The model's; None where it was shipped with this code.
        states: By shard key, what a shard begins with that is not in Flink's state yet.
        settings: Say where the schema registry is, for formats that need one.
        prediction_schema: What predictions name, as it was registered.
        changes: What the control topic of models said before the job, if the pipeline has one.
        features_schema: What feature vectors name, as it was registered.
        sessions_schema: What closed sessions name, as it was registered.
        tables: By lookup, what its table begins with that is not in Flink's state yet.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        model_folder: Path | None,
        states: Mapping[int, StateFile] | None = None,
        settings: Settings | None = None,
        prediction_schema: RegisteredSchema | None = None,
        changes: Sequence[bytes | None] = (),
        features_schema: RegisteredSchema | None = None,
        sessions_schema: RegisteredSchema | None = None,
        tables: Mapping[str, StateFile] | None = None,
    ) -> None:
        self._pipeline, self._model_folder, self._states = pipeline, model_folder, states or {}
        self._table_files = tables or {}
        self._prediction_schema, self._features_schema, self._changes = prediction_schema, features_schema, changes
        self._sessions_schema = sessions_schema
        self._crashes = None if settings is None else crash_folder(pipeline, settings)
        # where models are that the job is told to change to
        self._root = models_root(pipeline, settings)
        self._other_folders = {} if model_folder is None else other_folders(pipeline)
        self._settings = _for_worker(settings)

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open the model and load the compiled kernels, so that the first batch does not wait for them."""
        self._log = runtime_context.get_map_state(
            MapStateDescriptor(STATE_LOG, Types.LONG(), Types.PRIMITIVE_ARRAY(Types.BYTE()))
        )
        end_with_taskmanager()
        stop_sampling_bundles()
        send_state_writes_together()
        warm_up()
        if self._settings is not None and "onnx_providers" in self._settings.model_fields_set:
            use_providers(self._settings.onnx_providers)
        folder = self._model_folder or shipped_model(self._pipeline)
        opened = open_model(self._pipeline, folder)
        manifest, model = opened.manifest, within_budget(self._pipeline, opened)
        metrics = runtime_context.get_metrics_group()
        self._serving: ModelServing | None = None
        if self._pipeline.models_topic is not None:
            self._schedules = runtime_context.get_state(
                ValueStateDescriptor(MODEL_SCHEDULE, Types.PRIMITIVE_ARRAY(Types.BYTE()))
            )
            tasks = runtime_context.get_index_of_this_subtask(), runtime_context.get_number_of_parallel_subtasks()
            limit_ms = self._settings.model_batch_limit_ms if self._settings else math.inf
            self._serving = ModelServing(
                self._pipeline, model, named_model(manifest), folder, self._root, self._changes, tasks, limit_ms
            )
            metrics.gauge(SHADOW_FAILURES, lambda: self._scorer.shadow_failures)
        if isinstance(model, TimedModel):
            circuit, serving = model.circuit, self._serving
            metrics.gauge(CIRCUIT, lambda: int(circuit.state if serving is None else serving.circuit()))
        self._ladder = self._open_ladder(runtime_context)
        self._lookups: ServedTables | None = None
        if self._pipeline.lookups:
            self._lookups = ServedTables(self._pipeline, self._table_files, self._settings, runtime_context)
        encoder = PredictionEncoder(self._pipeline, model=named_model(manifest), schema=self._prediction_schema)
        vectors = FeatureEncoder(self._pipeline, self._features_schema) if self._pipeline.features_topic else None
        self._sessions = self._open_sessions(runtime_context)
        self._scorer = Scorer(
            FeaturePlan.build(self._pipeline),
            model,
            encoder,
            _now_ms,
            schema_source(self._settings, self._pipeline.events.format),
            self._serving,
            self._ladder,
            vectors,
            self._sessions,
            self._lookups,
        )
        self._shards: dict[int, ShardState] = {}
        self._headers = self._pipeline.events.headers
        self._passed_over = metrics.counter(PASSED_OVER)
        scores = self._guard(runtime_context, manifest)
        self._score, self._answer = functools.partial(scores, self._scorer), self._scorer.score
        self._positions: Positions | None = None
        if self._pipeline.requests is not None:
            self._positions = Positions()
            answerer = self._open_answerer(metrics, model, named_model(manifest))
            self._answer = functools.partial(scores, answerer)

    def _open_sessions(self, runtime_context: RuntimeContext) -> SessionWatch | None:
        """What follows the sessions of entities, if they have a topic."""
        if self._pipeline.sessions is None:
            return None
        self._session_log = runtime_context.get_map_state(
            MapStateDescriptor(OPEN_SESSIONS, Types.LONG(), Types.PRIMITIVE_ARRAY(Types.BYTE()))
        )
        watch = SessionWatch(self._pipeline, _now_ms, self._sessions_schema)
        runtime_context.get_metrics_group().gauge(SESSIONS_NOT_WRITTEN, lambda: watch.not_written)
        return watch

    def _open_ladder(self, runtime_context: RuntimeContext) -> Ladder | None:
        """The pipeline's fallbacks, if it has some, each with a gauge of how many events it scored."""
        if not self._pipeline.fallbacks:
            return None
        ladder = Ladder(self._pipeline, open_others(self._pipeline, self._other_folders))
        if ladder.remembers:
            self._last_scores = runtime_context.get_map_state(
                MapStateDescriptor(LAST_SCORES, Types.LONG(), Types.PRIMITIVE_ARRAY(Types.BYTE()))
            )
        for label in ladder.counts:
            count = functools.partial(ladder.counts.__getitem__, label)
            runtime_context.get_metrics_group().gauge(fallback_metric(label), count)
        return ladder

    def _open_answerer(self, metrics: MetricGroup, model: Model, named: NamedModel) -> Answerer:
        """What answers requests, with a gauge of how many it scored and how many not."""
        choice = None if self._serving is None else AskedModels(self._serving, self._pipeline.outputs)
        clock_ms = self._scorer.clock_ms
        scores = model, named, clock_ms, choice, self._ladder
        answerer = Answerer(self._scorer.plan, *scores, self._positions, self._lookups)
        metrics.gauge(REQUESTS_ANSWERED, lambda: answerer.answered)
        metrics.gauge(REQUESTS_REFUSED, lambda: answerer.refused)
        return answerer

    def _guard(self, runtime_context: RuntimeContext, manifest: Manifest) -> Callable[..., bytes]:
        """What scores batches, and tells the next worker if this one is killed by it; see `CrashGuard`."""
        if self._crashes is None:
            return _unguarded
        subtask, name = runtime_context.get_index_of_this_subtask(), f"{manifest.name}/{manifest.version}"
        try:
            guard = CrashGuard(self._crashes, subtask, name, manifest.sha256)
        except OSError as error:
            logging.getLogger(__name__).warning("crashes of the model are not told: %s", error)
            return _unguarded
        if self._serving is not None:
            self._serving.on_use = guard.scores_with
        if self._ladder is not None:
            self._ladder.on_use = guard.scores_with
        return guard.score

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[bytes]:
        """Score a batch of records, or read or write the state of the shard whose key this came under."""
        records = RecordBatch(value, self._headers)
        if records.command == REQUESTS:
            yield self._answer(records, self._shards)
            return
        if records.command == RECORDS:
            outputs = self._score(records, self._shards)
            if self._positions is not None:
                self._positions.note(records)
            if self._scorer.passed_over:
                self._passed_over.inc(self._scorer.passed_over)
            if self._serving is not None and self._serving.has_answers:
                outputs += self._serving.take_answers()
            if outputs:
                yield outputs
            return
        if records.command == LOOKUPS:
            assert self._lookups is not None
            self._lookups.take(value)
            return
        shard: int = ctx.get_current_key()
        if records.command == WRITE:
            self._write(shard)
        elif records.command == MODELS:
            yield from self._change_models(shard, records.change)
        elif records.command == TICK:
            if self._sessions is not None and (outputs := self._sessions.pass_time()):
                yield outputs
        elif shard not in self._shards:
            self._shards[shard] = ShardState.restore(self._scorer.plan, self._read(shard))
            if self._lookups is not None:
                self._lookups.read()
            self._read_schedule(shard)
            if self._positions is not None and (read_to := self._log.get(READ_TO)) is not None:
                self._positions.restore(shard, bytes(read_to))
            if self._ladder is not None and self._ladder.remembers:
                entries = {number: bytes(entry) for number, entry in self._last_scores.items()}
                self._ladder.last_scores[shard] = self._ladder.restored(entries)
            if self._sessions is not None:
                self._sessions.restore(shard, [(number, bytes(entry)) for number, entry in self._session_log.items()])

    def _read(self, shard: int) -> list[tuple[int, bytes]]:
        """The shard's log. One that begins with a file is in Flink's state from now on, and so in every checkpoint."""
        entries = [(number, bytes(entry)) for number, entry in self._log.items() if number != READ_TO]
        if not entries and shard in self._states:
            entries = self._states[shard].entries()
            for number, entry in entries:
                self._log.put(number, entry)
        return entries

    def _read_schedule(self, shard: int) -> None:
        if self._serving is not None and not self._serving.knows(shard):
            stored = self._schedules.value()
            begun = self._serving.begin(shard, None if stored is None else bytes(stored))
            if begun != stored:
                self._schedules.update(begun)

    def _change_models(self, shard: int, change: bytes) -> Iterator[bytes]:
        """What a record of the control topic says; without one, what was asked for and is done by now."""
        assert self._serving is not None
        if change:
            self._read_schedule(shard)
            schedule = self._serving.change(shard, change)
            if schedule is not None:
                self._schedules.update(schedule)
        answers = self._serving.take_answers()
        if answers:
            yield answers

    def _write(self, shard: int) -> None:
        _put(self._log, self._shards[shard].take_changes())
        if self._lookups is not None:
            self._lookups.write()
        if self._positions is not None:
            self._log.put(READ_TO, self._positions.packed(shard))
        if self._ladder is not None and self._ladder.remembers:
            _put(self._last_scores, self._ladder.last_scores[shard].take_changes())
        if self._sessions is not None:
            _put(self._session_log, self._sessions.take_changes(shard))


class RouteRecords(ProcessFunction):
    """(shard key, batch of raw records of sources) -> the batch's events and dead letters, both as bytes.

    Args:
        pipeline: Whose sources they are.
        settings: Say where the schema registry is, for formats that need one.
    """

    def __init__(self, pipeline: Pipeline, settings: Settings | None = None) -> None:
        self._pipeline, self._settings = pipeline, _for_worker(settings)

    def open(self, runtime_context: RuntimeContext) -> None:
        """Prepare for the records of all sources."""
        end_with_taskmanager()
        stop_sampling_bundles()
        events = self._pipeline.events
        formats = [source.format for source in events.sources]
        self._router = Router(self._pipeline, schema_source(self._settings, *formats))
        self._headers = events.source_headers
        self._passed_over = runtime_context.get_metrics_group().counter(PASSED_OVER)

    def process_element(self, value: Row, ctx: ProcessFunction.Context) -> Iterator[bytes]:
        """Route a batch of records."""
        records = RecordBatch(value[1], self._headers)
        if records.command != RECORDS:
            return  # about the state of shards, of which there is none here
        routed = self._router.route(records)
        self._passed_over.inc(routed.passed_over)
        if routed.outputs:
            yield routed.outputs


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _unguarded(scores: "Scorer | Answerer", records: RecordBatch, shards: Mapping[int, ShardState]) -> bytes:
    return scores.score(records, shards)


def fallback_metric(label: str) -> str:
    """The gauge of how many events a rung of the ladder scored."""
    return "fallback" + "".join(word.capitalize() for word in label.replace("-", " ").split())


def _put(log: MapState[int, bytes], changes: tuple[Mapping[int, bytes], Sequence[int]]) -> None:
    put, removed = changes
    for number, entry in put.items():
        log.put(number, entry)
    for number in removed:
        log.remove(number)


def _for_worker(settings: Settings | None) -> Settings | None:
    """Only what a worker needs goes with the job."""
    return settings and settings.model_copy(update={"kafka_properties": {}})
