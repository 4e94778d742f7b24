"""How a job on a cluster is, at one moment: what Flink says and what Kafka says."""

import time
from dataclasses import dataclass

from flink_jobs.crash_guard import crash_folder, read_crashes
from flink_jobs.environment import prepare_process
from flink_jobs.job_run import JobRun
from flink_jobs.kafka_admin import KafkaAdminError
from flink_jobs.lost_commits import COUNTER, lost_commits, refused_commits
from flink_jobs.rest_client import CheckpointStats
from flink_jobs.topics import group_id

RUNNING = "RUNNING"


@dataclass(frozen=True)
class PartitionLag:
    """One partition of a topic that the job reads.

    Attributes:
        topic: Of the events, or a source of them.
        partition: Its number.
        end: Offset behind its last committed record.
        done: Offset up to which a completed checkpoint covers it.
    """

    topic: str
    partition: int
    end: int
    done: int

    @property
    def lag(self) -> int:
        """Records that no checkpoint covers yet."""
        return max(0, self.end - self.done)


@dataclass(frozen=True)
class JobHealth:
    """How a job is.

    Attributes:
        job_id: Flink's.
        state: RUNNING, RESTARTING, FAILED, …
        up_s: Since it was started; since its JobManager took it over, after that was lost.
        restarts: After failures, since then.
        failure: Root cause of the last failure in one line, also of one it recovered from.
        checkpoints: Its checkpoints.
        checkpoint_age_s: Since the last complete one began; None before the first.
        events_per_s: Read by the source, a mean over the last minute.
        lag: By partition, of sources first if there are any; None where Kafka does not answer.
        refused_commits: Transactions that Kafka refused to commit since the last restart, by Flink's counter, and at
            least those that are lost.
        crashes: Records on which the model killed a worker, a line each, as far as they are told where we reach it.
        lost_commits: Those refused that are not committed: their answers are lost. All that were refused, where no log
            names them.
    """

    job_id: str
    state: str
    up_s: float
    restarts: int
    failure: str | None
    checkpoints: CheckpointStats
    checkpoint_age_s: float | None
    events_per_s: float
    lag: list[PartitionLag] | None
    refused_commits: int
    crashes: list[str]
    lost_commits: list[str]

    @property
    def is_well(self) -> bool:
        """Whether it runs and has lost nothing."""
        return self.state == RUNNING and not self.lost_commits


def health_of(job: JobRun) -> JobHealth:
    """Ask Flink and Kafka.

    Raises:
        RestError: Flink does not answer.
    """
    rest, now_ms = job.rest, time.time() * 1_000
    state, stats, restarts, refused = rest.status(), rest.checkpoints(), rest.restarts(), rest.total(COUNTER)
    try:
        requests = [job.pipeline.requests_topic] if job.pipeline.requests_topic is not None else []
        lag = [each for topic in (*job.sources, *requests, None) for each in _lag(job, topic)]
    except KafkaAdminError:
        lag = None
    lost = _lost(job, refused, restarts)
    return JobHealth(
        job_id=rest.job_id,
        state=state,
        up_s=(now_ms - rest.started_ms()) / 1_000,
        restarts=restarts,
        failure=rest.root_cause(),
        checkpoints=stats,
        checkpoint_age_s=(now_ms - stats.last_triggered_ms) / 1_000 if stats.last_triggered_ms else None,
        events_per_s=rest.rate("numRecordsInPerSecond", of="Source"),
        lag=lag,
        refused_commits=max(refused, len(lost)),  # Flink shows its counter some seconds later than it logs
        crashes=[each.words() for each in read_crashes(crash_folder(job.pipeline, job.settings)) if each.again],
        lost_commits=lost,
    )


def _lag(job: JobRun, topic: str | None) -> list[PartitionLag]:
    done, ends = job.offsets(topic)
    name = topic or job.pipeline.events.topic
    return [PartitionLag(name, number, end, max(0, done.get(number, 0))) for number, end in sorted(ends.items())]


def _lost(job: JobRun, refused: int, restarts: int) -> list[str]:
    if not refused and not restarts:  # the counter has seen everything
        return []
    named = refused_commits(job.rest.cluster, group_id(job.pipeline, job.engine))
    if refused and not named:
        return [f"{refused} that no log names"]
    prepare_process(job.settings.logs)  # asking for transactions needs Kafka's Java client
    return lost_commits(job.settings, named)
