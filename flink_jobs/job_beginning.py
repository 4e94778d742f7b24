"""Where a job began, in each partition: only events from there on are in its windows.

Receipts tell it, unless they are deleted: a job that began with the topic answered a partition's first record, and one
that began later, with empty state, answered none before. A job with a state from history began where that does, which
is noted beside its checkpoints. What neither can tell is said by `--job-began`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flink_jobs.hand_over import HandOver
from flink_jobs.history_topic import EARLIEST, begin_offsets
from flink_jobs.kafka_admin import Properties
from flink_jobs.topics import offsets_text


@dataclass(frozen=True)
class JobBeginning:
    """Where a job began.

    Attributes:
        offsets: First record of each partition that it read and that is still kept.
        older: Partitions of which it had read records that are deleted since: what its windows held of them cannot be
            known any more.
        text: For people.
        live: First record of each partition that it had to answer, if it only built its state from those before.
        row_ends: By topic of lookups and partition, where it ended when that state was built.
    """

    offsets: dict[int, int]
    older: frozenset[int]
    text: str
    live: Mapping[int, int] = field(default_factory=dict)
    row_ends: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    @property
    def as_start(self) -> str:
        """As `--start` and `--job-began` take it."""
        return offsets_text(self.offsets)


def said_beginning(
    bootstrap: str, topic: str, properties: Properties | None, text: str, kept: Mapping[int, int]
) -> JobBeginning:
    """The beginning that a user says: earliest, a time of arrival, or offsets.

    Args:
        bootstrap: Where the brokers are.
        topic: Of the events.
        properties: Client properties.
        text: What was said.
        kept: Offset of the first record kept in each partition.

    Raises:
        CommandError: It is no beginning.
    """
    said = begin_offsets(bootstrap, topic, properties, text, kept, "--job-began")
    offsets = {partition: max(first, said.get(partition, first)) for partition, first in kept.items()}
    begun_before = {p for p, first in kept.items() if first > 0 and (text == EARLIEST or _names_before(text, p, first))}
    return JobBeginning(offsets, frozenset(begun_before), f"the job began at {text} (--job-began)")


def handed_over_beginning(hand_over: HandOver, kept: Mapping[int, int]) -> JobBeginning:
    """The beginning of a job that was given a state from history.

    Args:
        hand_over: Says where that history is.
        kept: Offset of the first record kept in each partition.
    """
    begun = hand_over.begun
    in_topic = begun.begins is not None
    first = begun.live if begun.begins is None else begun.begins
    offsets = {partition: max(offset, first.get(partition, 0)) for partition, offset in kept.items()}
    older = {p for p, offset in kept.items() if not in_topic or first.get(p, 0) < offset}
    where = "the topic" if in_topic else "files, which are not read here"
    text = f"the job began with a state built from {where}"
    return JobBeginning(offsets, frozenset(older), text, begun.live, hand_over.row_ends)


def _names_before(text: str, partition: int, first: int) -> bool:
    """Whether offsets name a place of a partition that is deleted."""
    pairs = dict(pair.split(":", 1) for pair in text.split(",") if pair.count(":") == 1 and pair[0].isdecimal())
    said = pairs.get(str(partition))
    return said is not None and said.isdecimal() and int(said) < first


def detected_beginning(
    kept: Mapping[int, int], answered: Mapping[int, int], ends: Mapping[int, int], *, answers_deleted: bool
) -> JobBeginning:
    """The beginning that receipts tell.

    Args:
        kept: Offset of the first record kept in each partition.
        answered: Lowest offset with an answer; partitions without any are left out.
        ends: Offset after the last record.
        answers_deleted: Whether the first answers are no longer kept.
    """
    from_the_first = any(answered.get(partition, first + 1) <= first for partition, first in kept.items())
    if not answered or answers_deleted or from_the_first:
        older = {p for p, first in kept.items() if first > 0 and (answers_deleted or answered.get(p, first) < first)}
        if not older:
            return JobBeginning(dict(kept), frozenset(), "the job began with the topic's first record")
        text = "the job began before the first record that the topic still has"
        return JobBeginning(dict(kept), frozenset(older), text)
    offsets = {partition: answered.get(partition, ends[partition]) for partition in kept}
    place = offsets_text(offsets)
    text = f"the job began with empty state at {place}, by its first answers (--job-began says otherwise)"
    return JobBeginning(offsets, frozenset(), text)
