"""Where live begins after history: an offset of every partition, fixed before anything of history is read."""

from typing import NamedTuple

from flink_jobs.console import CommandError
from flink_jobs.kafka_admin import committed_offsets, offsets_for_time, topic_ends, topic_starts
from flink_jobs.settings import Settings
from flink_jobs.start_position import moment_text, parse_start
from flink_jobs.topics import COMMITTED, EARLIEST, LATEST, group_id
from udfs.pipeline import Pipeline


class LiveStart(NamedTuple):
    """Where live begins.

    Attributes:
        offsets: Of the first live record in each partition.
        text: Says so to the user.
        from_last_run: Whether that is where an earlier run of the job ended.
    """

    offsets: dict[int, int]
    text: str
    from_last_run: bool = False


def live_start(pipeline: Pipeline, settings: Settings, asked: str | None, *, from_topic: bool) -> LiveStart:
    """Where live begins, by `--from`, or by default.

    By default the history of a topic ends where an earlier run ended, so that what it has not answered is live, or else
    at the topic's end; files come before everything in the topic.

    Args:
        pipeline: Says the topic.
        settings: Says the broker.
        asked: `--from`: earliest, committed, latest, a time, or None.
        from_topic: Whether history is in the topic, too.

    Raises:
        CommandError: No run has committed anything, or history would be empty by definition.
    """
    place = settings.bootstrap, pipeline.events.topic, settings.kafka_properties
    starts = topic_starts(*place)
    ends = topic_ends(*place, isolation="read_committed")
    start = None if asked is None else parse_start(asked)
    if start == EARLIEST and from_topic:
        raise CommandError("--from earliest leaves no history in the topic: leave it out, or name files")
    if start in (None, COMMITTED):
        committed = committed_offsets(place[0], group_id(pipeline), place[1], place[2])
        if any(committed.values()) and (from_topic or start == COMMITTED):
            offsets = {each: min(max(committed.get(each, 0), starts[each]), ends[each]) for each in starts}
            return LiveStart(offsets, "where the last run ended", from_last_run=True)
        if start == COMMITTED:
            raise CommandError(f"no run of {pipeline.name} has committed anything in {pipeline.events.topic} yet")
    if start == EARLIEST or (start is None and not from_topic):
        return LiveStart(starts, f"with the first record in {pipeline.events.topic}")
    if start in (None, LATEST):
        return LiveStart(ends, f"at the end that {pipeline.events.topic} has now")
    found = offsets_for_time(place[0], place[1], int(start or 0), place[2])
    offsets = {each: min(found.get(each, end), end) for each, end in ends.items()}
    return LiveStart(offsets, f"with the first record that came at or after {moment_text(start or '')}")


def check_live_start(pipeline: Pipeline, settings: Settings, offsets: dict[int, int], *, from_last_run: bool) -> None:
    """Whether a job may begin at these offsets now.

    Raises:
        CommandError: Records there are gone, the topic is another one, or a job went on from there meanwhile.
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
    if from_last_run:
        committed = committed_offsets(place[0], group_id(pipeline), place[1], place[2])
        for partition, offset in sorted(offsets.items()):
            if committed.get(partition, 0) > offset:
                raise CommandError(
                    f"live begins at offset {offset} in partition {partition}, but a job has answered up to "
                    f"{committed[partition]} since: stop it, and build the state anew with --fresh"
                )

