"""Where live begins after history: an offset of every partition, fixed before anything of history is read."""

from datetime import UTC, datetime
from typing import NamedTuple

from flink_jobs.console import CommandError
from flink_jobs.kafka_admin import committed_offsets, offsets_for_time, topic_ends, topic_starts
from flink_jobs.savepoint_offsets import kept_offsets
from flink_jobs.settings import Settings
from flink_jobs.start_position import moment_text, parse_start
from flink_jobs.topics import COMMITTED, EARLIEST, LATEST, group_id
from udfs.pipeline import Pipeline


class LiveStart(NamedTuple):
    """Where live begins.

    Attributes:
        offsets: Of the first live record in each partition.
        text: Says so to the user.
    """

    offsets: dict[int, int]
    text: str


def live_start(
    pipeline: Pipeline, settings: Settings, asked: str | None, last_run: str | None, *, from_topic: bool
) -> LiveStart:
    """Where live begins, by `--from`, or by default.

    By default the history of a topic ends where the last run stopped, so that what it has not answered is live; without
    a last run at the topic's end. Files come before everything in the topic.

    Args:
        pipeline: Says the topic.
        settings: Says the broker.
        asked: `--from`: earliest, committed, latest, a time, or None.
        last_run: The newest checkpoint or savepoint.
        from_topic: Whether history is in the topic, too.

    Raises:
        CommandError: History would be empty by definition, or it is not known where the last run ended.
    """
    topic = pipeline.events.topic
    place = settings.bootstrap, topic, settings.kafka_properties
    starts = topic_starts(*place)
    ends = topic_ends(*place, isolation="read_committed")
    start = None if asked is None else parse_start(asked)
    if start == EARLIEST and from_topic:
        raise CommandError("--from earliest leaves no history in the topic: leave it out, or name files")
    if start == EARLIEST or (start is None and not from_topic):
        return LiveStart(starts, f"with the first record in {topic}")
    if start == COMMITTED or (start is None and last_run is not None):
        found = _end_of_last_run(pipeline, settings, last_run if start is None else None)
        offsets = {each: min(max(found.get(each, 0), starts[each]), ends[each]) for each in starts}
        return LiveStart(offsets, "where the last run ended" if start is None else "at the committed offsets")
    if start in (None, LATEST):
        return LiveStart(ends, f"at the end of {topic}, as of {datetime.now(UTC).isoformat(timespec='seconds')}")
    found = offsets_for_time(place[0], topic, int(start or 0), place[2])
    offsets = {each: min(found.get(each, end), end) for each, end in ends.items()}
    return LiveStart(offsets, f"with the first record that came at or after {moment_text(start or '')}")


def _end_of_last_run(pipeline: Pipeline, settings: Settings, last_run: str | None) -> dict[int, int]:
    """Where a run ended; None: as far as Kafka was told.

    A run that was killed may have answers that only its restart commits: where those end nobody knows before.
    """
    kept = None if last_run is None else kept_offsets(last_run)
    if kept is not None:
        return kept
    if last_run is not None and settings.guarantee == "exactly-once":
        raise CommandError(
            f"the last run of {pipeline.name} did not stop in order, and its last answers may not be committed yet: "
            f"start it once more and let it stop (`millrace run {pipeline.name} --until-caught-up`), or say with "
            "--from where live begins"
        )
    place = settings.bootstrap, group_id(pipeline), pipeline.events.topic
    found = committed_offsets(*place, settings.kafka_properties)
    if not any(found.values()):
        raise CommandError(f"no run of {pipeline.name} has committed anything in {pipeline.events.topic} yet")
    return found


def check_live_start(pipeline: Pipeline, settings: Settings, offsets: dict[int, int]) -> None:
    """Whether a job may begin at these offsets now.

    Raises:
        CommandError: Records there are gone, or the topic is another one.
    """
    place = settings.bootstrap, pipeline.events.topic, settings.kafka_properties
    starts, ends = topic_starts(*place), topic_ends(*place)
    for partition, offset in sorted(offsets.items()):
        where = f"partition {partition} of {pipeline.events.topic}"
        if partition not in starts or offset > ends[partition]:
            raise CommandError(f"live begins at offset {offset} in {where}, which ends before: it is another topic now")
        if offset < starts[partition]:
            raise CommandError(
                f"live begins at offset {offset} in {where}, but retention removed what came before "
                f"{starts[partition]}: --fresh builds the state anew"
            )
