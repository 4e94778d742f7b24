"""Which dead letters are meant, what is fed again of them, and what of their bytes reaches a terminal."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shop_sources import shop_pipeline
from typer.testing import CliRunner
from wire_records import PURCHASE, START_MS, batch_of, encoder_of, shopper_records

from flink_jobs.cli import app
from flink_jobs.console import CommandError
from flink_jobs.dead_letter_marks import Mark, Marks, _marks, mark_record, marks_topic
from flink_jobs.dead_letters import Wanted, letter_of, parse_offsets_range, wanted_of
from flink_jobs.dead_letters_plan import COUNTED, GONE, IGNORED, REFUSED, REPLAYED, Replayable, chunks, plan_replay
from flink_jobs.dead_letters_reading import LetterBox
from flink_jobs.dead_letters_replay import _Feed, transactional_id
from flink_jobs.decoding import letter_decoder
from flink_jobs.readable_bytes import readable
from flink_jobs.settings import Settings
from flink_jobs.transactions import OpenTransaction
from udfs.output_batch import read_outputs
from udfs.raw_record import RecordParts
from udfs.wire_formats import Refused

DECODE = letter_decoder(PURCHASE, Settings())
GOOD = shopper_records(3)


class Message:
    """A record as confluent_kafka gives it."""

    def __init__(self, place, key, value, headers, time_ms=START_MS + 5_000):
        self._place, self._key, self._value, self._headers, self._time_ms = place, key, value, headers, time_ms

    def partition(self):
        return self._place[0]

    def offset(self):
        return self._place[1]

    def key(self):
        return self._key

    def value(self):
        return self._value

    def headers(self):
        return self._headers

    def timestamp(self):
        return 1, self._time_ms


def message_of(record, refused, place=(0, 7), *, stage="decode", source=40):
    """The dead letter of a record as the sink writes it."""
    packed = encoder_of().dead_letters(batch_of([record], source), {0: refused}, stage=stage)
    (letter,) = read_outputs(packed)
    headers = [(name, text.encode()) for name, text in letter.headers.items()]
    return Message(place, letter.key, letter.value, headers)


def letter(record=(b"u", b"{"), reason="not_json", place=(0, 7), **arguments):
    return letter_of(message_of(record, Refused(reason, "no"), place, **arguments), PURCHASE)


class Box(LetterBox):
    """Letters that are in no Kafka."""

    def fill(self, letters, originals=()):
        self.__dict__.update(letters=letters, kept=dict(originals))
        return self

    def all(self, wanted, looked):
        return iter(each for each in self.letters if wanted.has(each, PURCHASE.events, DECODE))

    def originals(self, letters):
        return {each.origin: self.kept[each.source] for each in letters if each.source in self.kept}


def box_of(letters, originals=(), marks=()):
    known = Marks()
    for mark in marks:
        known.add(mark)
    return Box(PURCHASE, Settings(), "id", known, DECODE).fill(letters, originals)


def planned(box, wanted=Wanted(), **options):  # noqa: B008
    options = {"also_refused": False, "also_counted": False, **options}
    plan = plan_replay(box, wanted, **options, looked=lambda *_: None)
    return [place for record in plan.records for place in record.letters], dict(plan.left_out)


@pytest.mark.parametrize("record", [(b"u", b"{"), (None, b""), (b"", None), (None, None), (b"\xff", b"\x00")])
def test_a_letter_gives_back_what_the_record_was(record):
    found = letter(record)
    assert (found.key, found.value) == record
    assert (found.source, found.place, found.topic) == ((2, 40), (0, 7), PURCHASE.events.topic)
    assert (found.reason, found.stage, found.detail) == ("not_json", "decode", "no")
    assert found.time_ms == batch_of([record], 40).record_times_ms[0]
    assert not found.cut


def test_records_of_others_in_the_topic_are_no_letters():
    message = message_of((b"u", b"{"), Refused("not_json", "no"))
    for name, content in (("pipeline", b"another"), ("partition", b"x"), ("reason", None), ("offset", None)):
        headers = [each for each in message.headers() if each[0] != f"millrace-{name}"]
        headers += [(f"millrace-{name}", content)] if content else []
        assert letter_of(Message((0, 7), b"", b"", headers), PURCHASE) is None
    assert letter_of(Message((0, 7), None, None, None), PURCHASE) is None


def test_letters_of_the_sql_engine_say_no_time_of_their_record():
    message = message_of((b"u", b"{"), Refused("not_json", "no"))
    headers = [each for each in message.headers() if each[0] != "millrace-record-time"]
    assert letter_of(Message((0, 7), b"u", b"{", headers), PURCHASE).time_ms == START_MS + 5_000


def test_letters_are_chosen_by_reason_stage_place_and_both_times():
    scored = letter(GOOD[0], "model_failed", stage="model")
    event_ms = json.loads(GOOD[0][1])["timestamp"]
    for said, chosen in (
        ({}, True), ({"reasons": ["model_failed", "late"]}, True), ({"reasons": ["late"]}, False),
        ({"stages": ["model"]}, True), ({"stages": ["decode"]}, False), ({"partitions": [2]}, True),
        ({"partitions": [0]}, False), ({"offsets": "40"}, True), ({"offsets": "41:"}, False),
        ({"offsets": ":40"}, False),
        ({"offsets": "40:41"}, True), ({"since": str(START_MS + 40)}, True), ({"since": str(START_MS + 41)}, False),
        ({"until": str(START_MS + 40)}, False), ({"event_since": str(event_ms)}, True),
        ({"event_until": str(event_ms)}, False),
    ):  # fmt: skip
        names = ("reasons", "stages", "partitions", "offsets", "since", "until", "event_since", "event_until")
        wanted = wanted_of(*(said.get(name) for name in names))
        assert wanted.has(scored, PURCHASE.events, DECODE) is chosen, said
    undecodable = letter()
    assert not Wanted(event_since_ms=0).has(undecodable, PURCHASE.events, DECODE)


@pytest.mark.parametrize("text", ["", "x", "1:2:3", "-1", "a:b"])
def test_offsets_that_are_none_are_said_to_be(text):
    with pytest.raises(CommandError, match="--offsets is"):
        parse_offsets_range(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--reason", "bad"], "--reason is 'bad': it is one of null_value"), (["--stage", "sink"], "--stage is 'sink'"),
     (["--since", "soon"], "--since is 'soon'"), (["--offsets", "?"], "--offsets is '?'")],
)  # fmt: skip
def test_wrong_options_fail_with_one_line(options, said):
    result = CliRunner().invoke(app, ["dead-letters", "ls", "purchase", *options])
    assert result.exit_code == 1
    assert said in result.stderr


def test_a_replay_does_not_begin_where_nobody_can_be_asked():
    result = CliRunner().invoke(app, ["dead-letters", "replay", "purchase", "--json"])
    assert result.exit_code == 1
    assert "give --yes where nobody can answer" in result.stderr


def test_what_would_be_refused_again_or_count_twice_is_left_out_unless_asked_for():
    mended, garbage = letter(GOOD[0], "unknown_category"), letter(place=(0, 8), source=41)
    failed = letter(GOOD[1], "model_failed", (0, 9), source=42)
    box = box_of([mended, garbage, failed])
    assert planned(box) == ([(0, 7)], {REFUSED: 1, COUNTED: 1})
    assert planned(box, also_refused=True, also_counted=True) == ([(0, 7), (0, 8), (0, 9)], {})


def test_a_letter_that_has_a_mark_is_never_fed_again():
    box = box_of([letter(GOOD[0], "unknown_category")], marks=[Mark((0, 7), "user-events", (2, 99), 1, START_MS)])
    assert planned(box, also_refused=True, also_counted=True) == ([], {REPLAYED: 1})


def test_a_cut_letter_takes_its_record_from_the_events_topic_or_says_that_it_is_gone():
    large = b" " * 1_000_001 + GOOD[0][1]
    cut = letter((GOOD[0][0], large), "too_large")
    assert cut.cut
    assert planned(box_of([cut])) == ([], {GONE: 1})
    original = Message((2, 40), GOOD[0][0], GOOD[0][1], None)
    assert planned(box_of([cut], {(2, 40): original})) == ([(0, 7)], {})


def test_what_was_refused_on_the_way_from_a_source_is_decoded_as_that_source_says():
    shop = shop_pipeline("shop")
    decode, parts = letter_decoder(shop, Settings()), RecordParts(1, 7, START_MS)
    click = b'{"user": {"id": "ann"}, "at": 5}'
    event = decode("shop-clicks", None, click, parts)
    assert (event.event_id, event.kind, event.customer) == ("shop-clicks/1/7", "click", "ann")
    assert decode("shop-orders", None, click, parts).reason == "missing_field"
    assert decode("shop-addresses", b"a1", None, parts) is None
    assert decode("shop-events", None, click, parts).reason == "missing_field"


def test_tombstones_that_are_ignored_by_now_are_not_fed_again():
    found = letter((b"u", None), "null_value")
    ignoring = dataclasses.replace(PURCHASE, events=dataclasses.replace(PURCHASE.events, tombstones="ignore"))
    box = Box(ignoring, Settings(), "id", Marks(), letter_decoder(ignoring, Settings())).fill([found])
    assert planned(box_of([found]), also_refused=True) == ([(0, 7)], {})
    assert planned(box, also_refused=True) == ([], {IGNORED: 1})


def test_without_its_headers_a_record_is_not_fed_again():
    places = {"dwell_time_sec": "@header.dwell"}
    told = dataclasses.replace(PURCHASE, events=dataclasses.replace(PURCHASE.events, fields=places))
    found = letter(GOOD[0], "missing_field")
    box = Box(told, Settings(), "id", Marks(), letter_decoder(told, Settings()))
    assert planned(box.fill([found])) == ([], {GONE: 1})
    original = Message((2, 40), *GOOD[0], [("dwell", b"1.5")])
    assert planned(box.fill([found], {(2, 40): original})) == ([(0, 7)], {})


def test_letters_that_a_repeating_job_wrote_twice_are_one_record():
    twice = [letter(GOOD[0], "unknown_category", place=(0, at)) for at in (7, 9)]
    plan = plan_replay(box_of(twice), Wanted(), also_refused=False, also_counted=False, looked=lambda *_: None)
    assert [record.letters for record in plan.records] == [[(0, 7), (0, 9)]]


def test_records_are_fed_in_the_order_in_which_they_came():
    letters = [letter(GOOD[0], "unknown_category", (0, at), source=source) for at, source in ((1, 9), (2, 3), (3, 5))]
    assert planned(box_of(letters))[0] == [(0, 2), (0, 3), (0, 1)]


@examples(50)
@given(st.lists(st.integers(0, 50)), st.integers(1, 5), st.integers(1, 100))
def test_chunks_hold_all_records_in_order_and_are_bounded(sizes, most, most_bytes):
    records = [Replayable(("user-events", (0, number)), [], size, START_MS) for number, size in enumerate(sizes)]
    found = list(chunks(records, most, most_bytes))
    assert [each for chunk in found for each in chunk] == records
    assert all(len(chunk) <= most for chunk in found)
    assert all(len(chunk) == 1 or sum(each.size_bytes for each in chunk) <= most_bytes for chunk in found)


@pytest.mark.parametrize("topic_id", ["AAAAAAAAAAEAAAAAAAAAAg", "+/AA/AA/AAE//AAAAAAAA/"])
def test_a_mark_reads_as_it_was_written_and_only_for_the_topic_it_is_of(topic_id):
    mark = Mark((3, 7), "user-events", (2, 99), 2, START_MS)
    key, value = mark_record(mark, topic_id)
    message = Message((0, 0), key, value, None, START_MS)
    assert list(_marks([message], topic_id)) == [mark]
    assert list(_marks([message], "another-id")) == []
    known = Marks()
    known.add(mark)
    assert [known.attempts((topic, (2, 99))) for topic in ("user-events", "a-source")] == [2, 0]
    assert marks_topic(PURCHASE) == "purchase-dead-letters-replays"


def test_a_record_is_fed_as_it_was_with_its_own_headers_and_where_it_comes_from():
    headers = [("trace", b"1"), ("millrace-replayed-from", b"older"), ("trace", None)]
    original = Message((2, 40), None, b"v", headers, 123)
    feed = _Feed(letter(), original, [(0, 7)], 2)
    assert feed.content() == (None, b"v", 123)
    assert feed.headers("letters") == [
        ("trace", b"1"), ("trace", None), ("millrace-replayed-from", b"letters/0/7"), ("millrace-replays", b"2")
    ]  # fmt: skip
    assert _Feed(letter((None, b"{")), None, [(0, 7)], 1).content() == (None, b"{", START_MS + 40)


def test_a_replays_transaction_is_not_taken_for_one_of_a_jobs_sink():
    name = transactional_id(PURCHASE)
    assert OpenTransaction(name, 1, 0, "Ongoing", None, None).prefix is None


@pytest.mark.parametrize("content", [b"\x1b[2J", b"a\x07", "\u202egpj.exe".encode(), b"\xff", b"\x9b31m", b"\r\x00"])
def test_what_would_disturb_a_terminal_is_a_hex_dump(content):
    assert readable(content, 100)[0].startswith("00000000  ")
    assert all(line.isprintable() for line in readable(content, 100))


def test_text_is_shown_as_text_and_long_content_is_cut():
    assert readable(b'{"a":\t1}\r\n', 100) == ['{"a":   1}', ""]
    assert readable("ü".encode() * 10, 5) == ["üü", "… 15 more bytes"]
    assert readable(None, 5) == ["null"]
    assert readable(b"", 5) == ["(empty)"]


@examples(100)
@given(st.binary(max_size=100), st.integers(1, 60))
def test_nothing_that_is_not_printable_is_ever_shown(content, most):
    assert all(line.isprintable() for line in readable(content, most))
