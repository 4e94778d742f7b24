"""Where a job begins: from `--from`, `--fresh`, or where its last run ended."""

from dataclasses import dataclass
from datetime import UTC, datetime

from flink_jobs.console import CommandError
from flink_jobs.state_files import StateFile
from flink_jobs.topics import COMMITTED, EARLIEST, LATEST

WORDS = (EARLIEST, COMMITTED, LATEST)


@dataclass(frozen=True)
class StartPosition:
    """Either a restore point, or a place in the topic.

    Attributes:
        start_from: earliest, committed, latest, a time in ms since 1970, or offsets like 0:1200,1:900; without effect
            when `restore_from` is set.
        restore_from: Checkpoint or savepoint.
        text: Says it to the user.
        state_files: States to begin with, of every shard; none are empty states.
    """

    start_from: str
    restore_from: str | None
    text: str
    state_files: tuple[StateFile, ...] = ()


def parse_start(text: str) -> str:
    """`--from` as the job takes it: a word of `WORDS`, or ms since 1970 as text.

    Raises:
        CommandError: It is neither a word nor a time.
    """
    if text in WORDS:
        return text
    if text.isdecimal():
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--from is {text!r}: write earliest, committed, latest, a time like 2026-01-31T12:00:00Z, "
            "or milliseconds since 1970"
        ) from None
    in_zone = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return str(round(in_zone.timestamp() * 1_000))


def choose_start(asked: str | None, fresh: bool, restore_point: str | None, topic: str) -> StartPosition:
    """What `--from` and `--fresh` say; without them the last run's restore point, if there is one."""
    if asked is None and not fresh and restore_point is not None:
        return StartPosition(EARLIEST, restore_point, f"going on from {restore_point} (`--fresh` would begin anew)")
    start = parse_start(asked or EARLIEST)
    words = {
        EARLIEST: f"at the first event kept in {topic}",
        COMMITTED: f"at the offsets committed in {topic}",
        LATEST: f"with what comes into {topic} from now on",
    }
    where = words.get(start) or f"at the first event that came into {topic} at or after {moment_text(start)}"
    ignored = "" if restore_point is None else f", without the state of the last run ({restore_point})"
    none_there = " (no earlier run to go on from)" if restore_point is None and asked is None and not fresh else ""
    return StartPosition(start, None, f"beginning with empty state {where}{ignored}{none_there}")


def moment_text(time_ms: str) -> str:
    """A time in ms since 1970, for people."""
    try:
        return datetime.fromtimestamp(int(time_ms) / 1_000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, OSError, ValueError):
        raise CommandError(f"--from is {time_ms}: that is no time in milliseconds since 1970") from None
