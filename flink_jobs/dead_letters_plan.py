"""Which dead letters a replay feeds again, and why it leaves out the others."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from confluent_kafka import Message

from flink_jobs.dead_letters import DeadLetter, Origin, Place, Wanted
from flink_jobs.dead_letters_reading import LetterBox, Looked
from flink_jobs.decoding import parts_of
from udfs.requests import STAGE as REQUEST
from udfs.wire_formats import Refused

REPLAYED = "replayed before"
COUNTED = "in the state already: fed again, later events would count them twice"
REFUSED = "refused by today's decoder, too"
GONE = "cut or without their headers, and their records are no longer in their topic"
IGNORED = "without a value, and ignored by now"
ASKED = "requests: whoever asked waits no more"
_BLOCK = 1_000


@dataclass
class Replayable:
    """A record to feed again.

    Attributes:
        origin: Its topic, the events' or a source, and its place there.
        letters: Places of its dead letters: several where a job with at-least-once repeated itself.
        size_bytes: Of key and value as the first letter has them.
        time_ms: When it came, as it will say again.
    """

    origin: Origin
    letters: list[Place]
    size_bytes: int
    time_ms: int


@dataclass
class ReplayPlan:
    """What is to be done.

    Attributes:
        records: To feed again, in the order in which they came.
        reasons: How many of each reason.
        left_out: How many letters are not fed again, by why.
    """

    records: list[Replayable] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def plan_replay(
    box: LetterBox, wanted: Wanted, *, also_refused: bool, also_counted: bool, looked: Looked
) -> ReplayPlan:
    """Look at every letter that is wanted.

    Args:
        box: The letters.
        wanted: Which.
        also_refused: Feed again what today's decoder refuses.
        also_counted: Feed again what is in the state already.
        looked: See `Looked`.
    """
    events = box.pipeline.events
    has_headers = bool(events.headers or events.source_headers)
    plan, known = ReplayPlan(), dict[tuple[Any, ...], Replayable]()
    letters = iter(box.all(wanted, looked))
    while block := list(islice(letters, _BLOCK)):
        originals = box.originals(letter for letter in block if letter.cut or has_headers)
        for letter in block:
            same = letter.topic, letter.source, letter.record_time_ms
            if same in known:
                known[same].letters.append(letter.place)
                continue
            why = _left_out(box, letter, originals.get(letter.origin), also_refused, also_counted)
            if why is not None:
                plan.left_out[why] += 1
                continue
            size = len(letter.key or b"") + len(letter.value or b"")
            known[same] = Replayable(letter.origin, [letter.place], size, letter.time_ms)
            plan.reasons[letter.reason] += 1
    plan.records = sorted(known.values(), key=lambda record: record.origin)
    return plan


def _left_out(
    box: LetterBox, letter: DeadLetter, original: Message | None, also_refused: bool, also_counted: bool
) -> str | None:
    if letter.place in box.marks.by_letter:
        return REPLAYED
    if letter.stage == REQUEST:
        return ASKED
    if letter.is_counted and not also_counted:
        return COUNTED
    events = box.pipeline.events
    if original is None and (letter.cut or (events.source_headers if events.sources else events.headers)):
        return GONE
    found = decoded_now(box, letter, original)
    if found is None:
        return IGNORED
    return REFUSED if isinstance(found, Refused) and not also_refused else None


def decoded_now(box: LetterBox, letter: DeadLetter, original: Message | None) -> Any:
    """What today's decoder makes of a letter's record; see `DecodeNow`."""
    if original is None:
        return box.decode(letter.topic, letter.key, letter.value, letter.parts)
    key: Any = original.key()
    value: Any = original.value()
    raw = [None if each is None else bytes(each) for each in (key, value)]
    return box.decode(letter.topic, raw[0], raw[1], parts_of(original))


def chunks(records: Iterable[Replayable], most: int, most_bytes: int) -> Iterator[list[Replayable]]:
    """The records in parts that are fed in one transaction each."""
    chunk, size = list[Replayable](), 0
    for record in records:
        if chunk and (len(chunk) == most or size + record.size_bytes > most_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += record.size_bytes
    if chunk:
        yield chunk
