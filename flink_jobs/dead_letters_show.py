"""`millrace dead-letters show`: one of them in full, and what becomes of it today."""

import re
from typing import Any

from confluent_kafka import Message
from rich.table import Table
from rich.text import Text

from flink_jobs.console import CommandError, next_steps, out, show, show_json
from flink_jobs.dead_letters import DeadLetter, Wanted
from flink_jobs.dead_letters_command import as_document, as_text, moment, reading, replay_words
from flink_jobs.dead_letters_plan import decoded_now
from flink_jobs.dead_letters_reading import LetterBox, open_letter_box
from flink_jobs.local.home import connected
from flink_jobs.readable_bytes import readable
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline
from udfs.wire_formats import Refused, printable

_PLACE = re.compile(r"(?:(?P<topic>[a-zA-Z0-9._-]+)/)?(?P<partition>\d{1,9})[:/@](?P<offset>\d{1,18})")


def run_show_command(
    pipeline: Pipeline, name: str, settings: Settings, reference: str, *, most: int, as_json: bool
) -> None:
    """Show one in full."""
    connected(settings)
    box = open_letter_box(pipeline, settings)
    letter = _find(box, reference)
    original = box.originals([letter]).get(letter.origin)
    decoded = None if letter.cut and original is None else decoded_now(box, letter, original)
    verdict = _verdict(letter, decoded)
    if as_json:
        value = letter.value if original is None else original.value()
        told = {"value": as_text(None if value is None else bytes(value)), "headers": _headers(original)}
        show_json({**as_document(box, letter), **told, "original_kept": original is not None, "now": verdict})
        return
    _show_letter(box, letter, original, verdict, most)
    if letter.place not in box.marks.by_letter:
        again = f"millrace dead-letters replay {name} --partition {letter.source[0]} --offsets {letter.source[1]}"
        next_steps((again, "score it, once what was wrong is mended"))


def _find(box: LetterBox, reference: str) -> DeadLetter:
    """The letter at `PARTITION:OFFSET` of its topic, or of the record at `TOPIC/PARTITION/OFFSET`."""
    match = _PLACE.fullmatch(reference)
    if match is None:
        raise CommandError(f"{reference!r} is no place: write PARTITION:OFFSET, as `ls` shows it, or {box.topic}/0/12")
    place, events = (int(match["partition"]), int(match["offset"])), box.pipeline.events.topic
    if match["topic"] in (None, box.topic):
        found = box.at([place]).get(place)
        if found is None:
            raise CommandError(f"no dead letter of {box.pipeline.name} is at {reference} in {box.topic}")
        return found
    if match["topic"] != events:
        raise CommandError(f"{reference}: {box.pipeline.name} has topics {events} and {box.topic}")
    wanted = Wanted(partitions=frozenset({place[0]}), offsets=(place[1], place[1] + 1))
    with reading(f"searching {box.topic}") as looked:
        letters = box.newest(wanted, 1, looked)
    if not letters:
        raise CommandError(f"the record at {reference} has no dead letter in {box.topic}")
    return letters[0]


def _verdict(letter: DeadLetter, decoded: Any) -> dict[str, Any]:
    if decoded is None:
        return {"decodes": None, "why": "the letter is cut, and its record is no longer in its topic"}
    if isinstance(decoded, Refused):
        return {"decodes": False, "reason": decoded.reason, "why": decoded.detail}
    if letter.is_counted:
        return {"decodes": True, "why": "as it did then: the event is in the state, and failed later"}
    return {"decodes": True, "why": "a replay would score it"}


def _headers(message: Message | None) -> dict[str, str]:
    found: Any = (message.headers() if message is not None else None) or []
    return {name: (content or b"").decode("utf-8", "replace") for name, content in found}


def _show_letter(
    box: LetterBox, letter: DeadLetter, original: Message | None, verdict: dict[str, Any], most: int
) -> None:
    table = Table(box=None, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    kept = "still there" if original is not None else "no longer there, or another one by now"
    rows = {
        "letter": f"{box.topic}/{letter.place[0]}/{letter.place[1]}, written {moment(letter.written_ms)} UTC",
        "record": f"{letter.topic}/{letter.source[0]}/{letter.source[1]}, of {moment(letter.time_ms)} UTC, {kept}",
        "reason": f"{letter.reason}, at stage {letter.stage}",
        "why": letter.detail,
        "replays": replay_words(box, letter) or "none",
        "now": _verdict_words(verdict),
        **{f"header {name}": content for name, content in _headers(original).items()},
    }
    for name, content in rows.items():
        table.add_row(Text(printable(name)), Text(printable(content)))
    out.print(table)
    key: Any = letter.key if original is None else original.key()
    value: Any = letter.value if original is None else original.value()
    for title, content in (("key", key), ("value", value)):
        size = "" if content is None else f" ({len(content):,} bytes)"
        show(f"{title}{size}{', cut' if letter.cut and original is None else ''}:", style="bold")
        for line in readable(None if content is None else bytes(content), most):
            show(f"  {line}")


def _verdict_words(verdict: dict[str, Any]) -> str:
    if verdict["decodes"] is None:
        return f"unknown: {verdict['why']}"
    if not verdict["decodes"]:
        return f"refused today, too: {verdict['reason']}: {verdict['why']}"
    return f"decodes: {verdict['why']}"
