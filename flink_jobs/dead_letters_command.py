"""`millrace dead-letters ls`: the newest of them, and what its sisters say of one, too."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from flink_jobs.console import bar, next_steps, out, say, show, show_json
from flink_jobs.dead_letters import DeadLetter, Place, Wanted
from flink_jobs.dead_letters_reading import LetterBox, Looked, open_letter_box
from flink_jobs.local.home import connected
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline
from udfs.wire_formats import printable

KEY_CHARACTERS, DETAIL_CHARACTERS = 24, 60


def run_ls_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    wanted: Wanted,
    *,
    limit: int,
    unreplayed: bool,
    as_json: bool,
) -> None:
    """List the newest."""
    connected(settings)
    box = open_letter_box(pipeline, settings)
    with reading(f"reading {box.topic}") as looked:
        letters = box.newest(wanted, limit, looked, but_replayed=unreplayed)
    if as_json:
        documents = [as_document(box, each) for each in letters]
        show_json({"pipeline": pipeline.name, "topic": box.topic, "dead_letters": documents})
        return
    if not letters:
        show(f"no such dead letter is in {box.topic}")
        return
    out.print(_table(box, letters))
    if len(letters) == limit:
        say(f"the newest {limit}; --limit for more, `millrace dead-letters stats {name}` counts all")
    newest = letters[0].place
    next_steps(
        (f"millrace dead-letters show {name} {newest[0]}:{newest[1]}", "its bytes, and what becomes of them now"),
        (f"millrace dead-letters replay {name} --dry-run", "what would be scored today"),
    )


def _table(box: LetterBox, letters: list[DeadLetter]) -> Table:
    table = Table(box=None)
    for heading in ("letter", "written", "reason", "stage", "record", "key", "why", ""):
        table.add_column(heading, no_wrap=heading in ("letter", "reason", "record"))
    for each in letters:
        table.add_row(
            place_text(each.place), moment(each.written_ms), each.reason, each.stage, place_text(each.source),
            Text(_short(each.key)), Text(printable(each.detail)[:DETAIL_CHARACTERS]), replay_words(box, each),
        )  # fmt: skip
    return table


def _short(key: bytes | None) -> str:
    if key is None:
        return "null"
    text = key[: 4 * KEY_CHARACTERS].decode("utf-8", "backslashreplace")
    return printable(text if len(text) <= KEY_CHARACTERS else f"{text[: KEY_CHARACTERS - 1]}…")


def replay_words(box: LetterBox, letter: DeadLetter) -> str:
    """What a replay has to do with a letter, in a few words."""
    words = []
    if attempts := box.marks.attempts(letter.origin):
        words.append(f"failed again after {attempts} replay{'s' if attempts > 1 else ''}")
    if letter.place in box.marks.by_letter:
        words.append(f"replayed as {place_text(box.marks.by_letter[letter.place].fed_to)}")
    return ", ".join(words)


def place_text(place: Place) -> str:
    """Partition and offset."""
    return f"{place[0]}:{place[1]}"


def moment(time_ms: int) -> str:
    """A time for people."""
    try:
        return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"{time_ms} ms"


@contextmanager
def reading(text: str, unit: str = "records") -> Iterator[Looked]:
    """A progress bar on stderr while topics are read."""
    with bar(unit) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def as_document(box: LetterBox, letter: DeadLetter) -> dict[str, Any]:
    """A letter as plain data; bytes that are no UTF-8 stay out."""
    mark = box.marks.by_letter.get(letter.place)
    return {
        "letter": {"topic": box.topic, "partition": letter.place[0], "offset": letter.place[1]},
        "written_ms": letter.written_ms,
        "reason": letter.reason,
        "stage": letter.stage,
        "exception": letter.detail,
        "record": {"topic": letter.topic, "partition": letter.source[0], "offset": letter.source[1]},
        "record_time_ms": letter.record_time_ms,
        "key": as_text(letter.key),
        "value_bytes": None if letter.value is None else len(letter.value),
        "cut": letter.cut,
        "replays_before": box.marks.attempts(letter.origin),
        "replayed_as": None if mark is None else {"partition": mark.fed_to[0], "offset": mark.fed_to[1]},
    }


def as_text(content: bytes | None) -> str | None:
    """Bytes as text, for JSON; None if they are no UTF-8."""
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return None
