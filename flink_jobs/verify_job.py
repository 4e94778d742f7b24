"""The replay check: answers that were served, against the same events computed again by the backfill.

The answers are read and kept on disk by the place of their event. The events are read from where the job began. Both
are compared stretch by stretch, so memory does not grow with the topic.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from flink_jobs.answer_comparison import AnswerComparison, Findings, Judged
from flink_jobs.backfill_job import NEVER_MS, BackfillReport, run_backfill
from flink_jobs.backfill_request import BackfillRequest
from flink_jobs.decoding import decode_message, event_decoder
from flink_jobs.hand_over import hand_over_folder
from flink_jobs.history_topic import topic_pieces
from flink_jobs.job_beginning import JobBeginning, detected_beginning, handed_over_beginning, said_beginning
from flink_jobs.kafka_admin import committed_offsets, topic_ends, topic_partitions, topic_starts
from flink_jobs.preflight import PreflightError, check_model
from flink_jobs.receipt_models import ReceiptModels
from flink_jobs.recomputed import recomputed_stretches
from flink_jobs.row_marks import RowMarks
from flink_jobs.served_answers import ServedAnswers, spans_of
from flink_jobs.served_rows import ServedPlaces
from flink_jobs.settings import Settings
from flink_jobs.topic_scan import Span, scan
from flink_jobs.topics import group_id, topic_specs
from flink_jobs.vector_comparison import VectorComparison, written_vectors
from models.onnx_model import OnnxModel
from udfs.pipeline import Pipeline
from udfs.wire_formats import Refused

SETTLE_S = 1.0  # a checkpoint's offsets and its transaction are committed by two operators, one after the other
FIRST_RECORDS = 1_000
Step = Callable[[str, float], None]


class VerifyError(RuntimeError):
    """Nothing can be verified; one line says why."""


@dataclass(frozen=True)
class VerifyRequest:
    """What is to be verified.

    Attributes:
        pipeline: Whose answers.
        settings: Where Kafka is, and the number of shards of the job.
        since_ms: Only events from this time on.
        until_ms: Only events before this time.
        job_began: What `--job-began` says; None asks the receipts.
        processes: How many compute.
        most: Findings of each kind to keep whole.
    """

    pipeline: Pipeline
    settings: Settings
    since_ms: int | None = None
    until_ms: int | None = None
    job_began: str | None = None
    processes: int = 1
    most: int = 3


@dataclass(frozen=True)
class VerifyReport:
    """What was verified.

    Attributes:
        findings: What is equal, and what is not.
        beginning: Where the job began.
        events: Read and computed again.
        answers: Read, of all times.
        foreign: Records of others in the topics of answers.
        elapsed_s: For all of it.
    """

    findings: Findings
    beginning: JobBeginning
    events: int
    answers: int
    foreign: int
    elapsed_s: float


def verify(request: VerifyRequest, step: Step = lambda _text, _share: None) -> VerifyReport:
    """Compute again what was served, and compare.

    Args:
        request: What.
        step: Told what is being done, and the share of that which is done.

    Raises:
        VerifyError: There is nothing to verify.
        KafkaAdminError: Kafka does not let us read.
    """
    began, pipeline, settings = time.monotonic(), request.pipeline, request.settings
    _check_topics(pipeline, settings)
    topic, properties = pipeline.events.topic, settings.kafka_properties
    covered = committed_offsets(settings.bootstrap, group_id(pipeline), topic, properties)
    with own_folder(settings) as folder:
        answers = read_answers(request, folder, step)
        if not answers.count.total():
            raise VerifyError(f"no committed answer of pipeline {pipeline.name} is in its topics: run it first")
        beginning = beginning_of(request, answers)
        report = recompute(request, beginning, answers, folder, step)
        judged = Judged(
            begins=beginning.offsets,
            ends=_ends(settings, covered, answers),
            full_from_ms=_full_from(request, beginning),
            since_ms=-NEVER_MS if request.since_ms is None else request.since_ms,
            until_ms=NEVER_MS if request.until_ms is None else request.until_ms,
            due_from=beginning.live,
        )
        vectors = _read_vectors(request, folder, step)
        findings = _compare(request, answers, vectors, judged, folder, report, step)
    elapsed_s = time.monotonic() - began
    return VerifyReport(findings, beginning, report.events, answers.count.total(), answers.foreign, elapsed_s)


def _check_topics(pipeline: Pipeline, settings: Settings) -> None:
    names = [spec.name for spec in topic_specs(pipeline)]
    missing = sorted(set(names) - set(topic_partitions(settings.bootstrap, names, settings.kafka_properties)))
    if missing:
        raise VerifyError(f"topic {', '.join(missing)} does not exist at {settings.bootstrap}")


@contextmanager
def own_folder(settings: Settings) -> Iterator[Path]:
    """A folder for what is read, gone afterwards."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=settings.home) as name:
        yield Path(name).absolute()


def answer_spans(pipeline: Pipeline, settings: Settings) -> dict[str, dict[int, Span]]:
    """All that is committed in the topics of predictions and of dead letters."""
    return {topic: committed_span(settings, topic) for topic in (pipeline.predictions, str(pipeline.dead_letters))}


def committed_span(settings: Settings, topic: str) -> dict[int, Span]:
    """All that is committed in a topic."""
    place = settings.bootstrap, topic, settings.kafka_properties
    return spans_of(topic_starts(*place), topic_ends(*place, isolation="read_committed"))


def read_answers(request: VerifyRequest, folder: Path, step: Step) -> ServedAnswers:
    """All committed answers."""
    pipeline, settings = request.pipeline, request.settings
    (folder / "answers").mkdir()
    answers = ServedAnswers(pipeline, folder / "answers", request.settings)
    time.sleep(SETTLE_S)
    _read(answers, settings, answer_spans(pipeline, settings), step, "reading what was served")
    return answers


def _read_vectors(request: VerifyRequest, folder: Path, step: Step) -> ServedAnswers | None:
    """All committed feature vectors; None without a topic of them."""
    topic, settings = request.pipeline.features_topic, request.settings
    if topic is None:
        return None
    (folder / "vectors").mkdir()
    vectors = written_vectors(request.pipeline, folder / "vectors", settings)
    _read(vectors, settings, {topic: committed_span(settings, topic)}, step, "reading feature vectors")
    return vectors


def _read(
    answers: ServedAnswers, settings: Settings, spans: dict[str, dict[int, Span]], step: Step, text: str
) -> None:
    total = max(1, sum(end - begin for each in spans.values() for begin, end in each.values()))
    answers.read(
        settings.bootstrap, settings.kafka_properties, spans, lambda done: step(text, min(1.0, done / total))
    )


def beginning_of(request: VerifyRequest, answers: ServedAnswers) -> JobBeginning:
    """Where the job began, as the user says, as its state from history does, or as the receipts tell."""
    settings, topic = request.settings, request.pipeline.events.topic
    place = settings.bootstrap, topic, settings.kafka_properties
    kept = topic_starts(*place)
    if request.job_began is not None:
        return said_beginning(*place, request.job_began, kept)
    hand_over = hand_over_folder(request.pipeline, settings).hand_over()
    if hand_over is not None:
        return handed_over_beginning(hand_over, kept)
    ends = topic_ends(*place, isolation="read_committed")
    return detected_beginning(kept, answers.first, ends, answers_deleted=answers.beginning_deleted)


def recompute(
    request: VerifyRequest, beginning: JobBeginning, answers: ServedAnswers, folder: Path, step: Step
) -> BackfillReport:
    """The features of the events again, as the training set `now.parquet` in the folder.

    Events see the rows of lookups that their answers say they saw.
    """
    pipeline, settings = request.pipeline, request.settings
    topic, start = pipeline.events.topic, beginning.as_start
    return run_backfill(
        BackfillRequest(
            pipeline,
            {"topic": topic, "start": start},
            lambda: topic_pieces(settings.bootstrap, topic, settings.kafka_properties, start),
            folder / "now.parquet",
            since_ms=request.since_ms,
            until_ms=request.until_ms,
            shards=settings.shards,
            processes=request.processes,
            bootstrap=settings.bootstrap,
            properties=settings.kafka_properties,
            served=_served_places(request, beginning, answers, folder),
        ),
        lambda now: step(f"computing again: {now.step}", now.share),
    )


def _served_places(
    request: VerifyRequest, beginning: JobBeginning, answers: ServedAnswers, folder: Path
) -> ServedPlaces | None:
    if not request.pipeline.lookups:
        return None
    (folder / "rows").mkdir()
    return ServedPlaces(answers.files, beginning.live, beginning.row_ends, folder / "rows")


def _ends(settings: Settings, covered: Mapping[int, int], answers: ServedAnswers) -> dict[int, int]:
    """Offsets before which each record must have its answer.

    Under exactly-once what is committed is all of a partition up to some record. Under at-least-once subtasks may be
    ahead of each other: only what a checkpoint covers counts.
    """
    answered = answers.ends if settings.guarantee == "exactly-once" else {}
    return {p: max(covered.get(p, 0), answered.get(p, 0)) for p in {*covered, *answers.ends}}


def _full_from(request: VerifyRequest, beginning: JobBeginning) -> dict[int, int]:
    """Event time from which no window of a partition reaches into what is deleted of it."""
    pipeline, settings = request.pipeline, request.settings
    decoder, events, found = event_decoder(pipeline, settings), pipeline.events, {}
    for partition in beginning.older:
        begin, latest_ms = beginning.offsets[partition], 0
        ends = topic_ends(settings.bootstrap, events.topic, settings.kafka_properties, isolation="read_committed")
        span = {partition: (begin, min(begin + FIRST_RECORDS, ends[partition]))}
        for messages in scan(settings.bootstrap, settings.kafka_properties, events.topic, span):
            for message in messages:
                event = decode_message(decoder, message)
                if event is not None and not isinstance(event, Refused):
                    time_ms = int(events.times_ms([getattr(event, events.time)])[0])
                    latest_ms = max(latest_ms, min(time_ms, message.timestamp()[1]))
        found[partition] = latest_ms + pipeline.longest_window_ms
    return found


def _compare(
    request: VerifyRequest,
    answers: ServedAnswers,
    vectors: ServedAnswers | None,
    judged: Judged,
    folder: Path,
    report: BackfillReport,
    step: Step,
) -> Findings:
    pipeline = request.pipeline
    own_model: OnnxModel | None = None
    try:
        own_model = check_model(pipeline)
    except PreflightError:  # receipts may name others that are there
        own_model = None
    comparison = AnswerComparison(pipeline, answers, ReceiptModels(pipeline), own_model, judged, request.most)
    rows, wanted, of_vectors = folder / "now.parquet", answers.buckets(), None
    marks = RowMarks(pipeline, folder / "rows") if pipeline.lookups else None
    if vectors is not None:
        of_vectors = VectorComparison(pipeline, vectors, judged, comparison.findings, request.most)
        wanted = sorted({*wanted, *vectors.buckets()})
    between = None if request.since_ms is None and request.until_ms is None else _offsets_in(rows)
    for number, (bucket, now) in enumerate(recomputed_stretches(pipeline, rows, report.letters, wanted)):
        if between is not None:
            now.letters = _letters_among(now.letters, *between.get(bucket[0], (0, -1)), request)
        if marks is not None:
            now.seen = marks.of(bucket, now.offsets, now.times_ms, now.entities)
        comparison.compare(bucket, now)
        if of_vectors is not None:
            of_vectors.compare(bucket, now)
        step("comparing", min(1.0, (number + 1) / max(1, len(wanted))))
    for topic, count in answers.elsewhere.items():
        why = f"of topic {topic}, the pipeline reads {pipeline.events.topic}"
        if topic in pipeline.events.source_topics:
            why = f"refused on the way from source {topic}"
        comparison.findings.unverifiable[why] += count
    return comparison.findings


def _letters_among(letters: dict[int, str], low: int, high: int, request: VerifyRequest) -> dict[int, str]:
    """The records that are no events among events of the range: they have no time, so their neighbours' counts."""
    if high < low:
        return {}
    while low - 1 in letters:
        low -= 1
    return {
        offset: reason
        for offset, reason in letters.items()
        if (request.since_ms is None or offset >= low) and (request.until_ms is None or offset <= high)
    }


def _offsets_in(rows: Path) -> dict[int, tuple[int, int]]:
    """First and last offset of each partition's rows."""
    found: dict[int, tuple[int, int]] = {}
    with pq.ParquetFile(rows) as file:  # type: ignore[no-untyped-call]
        if "_partition" not in file.schema_arrow.names:
            return found
        for batch in file.iter_batches(columns=["_partition", "_offset"]):
            partitions, offsets = batch.column("_partition").to_numpy(), batch.column("_offset").to_numpy()
            for partition in np.unique(partitions).tolist():
                mine = offsets[partitions == partition]
                low, high = found.get(partition, (int(mine[0]), int(mine[-1])))
                found[partition] = min(low, int(mine[0])), max(high, int(mine[-1]))
    return found
