"""Rows of files are the events that `produce` would send, read as columns or one by one."""

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from properties import examples

from flink_jobs import history_files
from flink_jobs.event_files import EventFileError, file_events
from flink_jobs.file_reader import FileReader, sortable
from flink_jobs.history import Piece
from flink_jobs.history_files import file_pieces
from udfs.event_blocks import IdTooLargeError
from udfs.pipeline import Count, Distinct, Events, Mean, Model, OneHot, Pipeline, Value, field
from udfs.plan import FeaturePlan
from udfs.wire_formats import EventDecoder, Refused


class Order:
    order_id: int
    customer: str
    amount: float | None
    gift: bool | None = True
    channel: Literal["web", "shop"] | None = "shop"
    country: str | None
    at: int


def pipeline(time_unit="ms", **settings):
    events = Events(
        Order, topic="orders", partitions=3, entity="customer", time="at", id="order_id", time_unit=time_unit
    )
    features = [
        Value("amount"), OneHot("channel"), Count(where=field("gift") == True, window="1h"),  # noqa: E712
        Mean("amount", window="1h"), Distinct("country", window="1d"),
    ]  # fmt: skip
    return Pipeline("orders", events, features, Model("orders", 1), "score", **settings)


HEADER = ["order_id", "customer", "amount", "gift", "channel", "country", "at", "more"]
AT_MS = 1_767_323_045_678
ROW = {"order_id": 1, "customer": "7", "amount": 2.5, "gift": True, "channel": "web", "country": "DE", "at": AT_MS}


def assert_as_produced(path, pipe=None, *, rows=1_000, plain=None):
    """The blocks of a file equal its events as `produce` sends them and the job decodes them."""
    pipe = pipe or pipeline()
    plan = FeaturePlan.build(pipe)
    decode = EventDecoder(pipe).decode
    decoded = [decode(*record) for record in file_events(path, pipe)]
    events = [event for event in decoded if not isinstance(event, Refused)]
    refused = [event for event in decoded if isinstance(event, Refused)]
    reader = FileReader(plan, rows)
    blocks = [block for piece in file_pieces([path], pipe) for block in reader.blocks(piece)]
    times, columns, masks, direct = plan.columnise(events)
    joined = {
        name: np.concatenate([getattr(block.events, name) for block in blocks] or [np.empty(0)])
        for name in ("times_ms", "columns", "masks", "direct")
    }
    if events:
        assert joined["times_ms"].tolist() == times.tolist()
        assert joined["columns"].tobytes() == columns.tobytes()
        assert joined["masks"].tolist() == masks.tolist()
        assert joined["direct"].tobytes() == direct.tobytes()
    keys = [block.events.entities.values[code] for block in blocks for code in block.events.entities.codes.tolist()]
    assert keys == [event.customer for event in events]
    assert [value for block in blocks for value in block.events.ids.to_pylist()] == [e.order_id for e in events]
    letters = [letter for block in blocks for letter in block.letters]
    assert [(letter.reason, letter.detail) for letter in letters] == [(why.reason, why.detail) for why in refused]
    return blocks


def write_csv(path, rows, header=HEADER, **options):
    text = io.StringIO()
    writer = csv.writer(text, **options)
    writer.writerow(header)
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    return path


CELLS = st.one_of(
    st.sampled_from([
        "", "1", "0", "-1", "2.5", "1e3", " 7", "7 ", "17850.0", "007", "1_000", "nan", "inf", "-0", "-0.0", "TRUE",
        "no", "Yes", "maybe", "web", "shop", "DE", "käse", 'a"b', 'a,b', "a\nb", "a\r\nb", '"', "2026-01-02",
        "2026-01-02T03:04:05.678Z", "2026-01-02 03:04", "2024-02-29T23:59:59.999999+01:00", "2025-02-29", "1969-12-31",
        "2026-01-02T24:00:00", "20260102", "9999-12-31T23:59:59Z", "123456789012345678901234567890", "0.1",
    ]),
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=5),
    st.integers().map(str), st.floats().map(str), st.datetimes().map(datetime.isoformat),
)  # fmt: skip


def has_small_id(row):
    """Larger ids are refused; see the test of that."""
    try:
        return abs(float(row)) < 2**63
    except (TypeError, ValueError, OverflowError):
        return True


@st.composite
def csv_rows(draw):
    row = [
        str(draw(st.integers(0, 99))), draw(st.sampled_from(["7", "8", "käse"])), "2.5", "true", "web", "DE",
        draw(st.sampled_from([str(AT_MS), "2026-01-02T03:04:05Z", "2026-01-02"])), "x",
    ]  # fmt: skip
    for place in draw(st.lists(st.integers(0, 7), max_size=3)):
        row[place] = draw(CELLS)
    assume(has_small_id(row[0]))
    return row[: draw(st.sampled_from([8, 8, 8, 7, 0]))] + draw(st.sampled_from([[], [], [], ["too much"]]))


UNITS = st.sampled_from(["s", "ms", "us", "ns"])
LOOSE = examples(30)


@LOOSE
@given(st.lists(csv_rows(), max_size=8), UNITS, st.sampled_from(["\n", "\r\n"]))
def test_any_csv_file_gives_the_events_that_are_produced_from_it(tmp_path, rows, unit, line_end):
    path = write_csv(tmp_path / "orders.csv", rows, lineterminator=line_end)
    assert_as_produced(path, pipeline(unit), rows=3)


@pytest.mark.parametrize("text", [
    '1,7,2.5,1,web,"D""E",{at},\n', '1,7,2.5,1,web,"D,\nE",{at},\n2,8,1,1,web,DE,{at},\n', '1,7,2.5,1,web,D"E,{at},\n',
    '1,7,2.5,1,web,"DE"x,{at},\n', '\n\n1,7,2.5,1,web,DE,{at},', "1,7\n", "1,7,2.5,1,web,DE,{at},a,b,c\n",
    '"1","7","2.5","1","web","DE","{at}",\n', "1,7,2.5,1,web,\xff,{at},\n", '1,7,2.5,1,web,"DE\n', "",
])  # fmt: skip
def test_csv_is_cut_as_pythons_reader_cuts_it(tmp_path, text):
    path = tmp_path / "orders.csv"
    path.write_bytes((",".join(HEADER) + "\n" + text.format(at=AT_MS)).encode("latin-1"))
    assert_as_produced(path)


def test_the_last_of_two_columns_with_one_name_counts(tmp_path):
    path = write_csv(tmp_path / "o.csv", [["1", "7", "2.5", "1", "web", "DE", AT_MS, "9"]], [*HEADER[:-1], "customer"])
    blocks = assert_as_produced(path)
    assert blocks[0].events.entities.values == ["9"]


@st.composite
def json_rows(draw):
    row = dict(ROW)
    for name in draw(st.lists(st.sampled_from(HEADER), max_size=3)):
        row[name] = draw(st.one_of(st.none(), st.booleans(), CELLS, st.integers(), st.floats(), st.just([1])))
    for name in draw(st.lists(st.sampled_from(HEADER), max_size=1)):
        row.pop(name, None)
    assume(has_small_id(row.get("order_id")))
    return json.dumps(row, ensure_ascii=draw(st.booleans()))


@LOOSE
@given(st.lists(st.one_of(json_rows(), st.sampled_from(["", " ", "{", "[1]", "null", "\ufeff{}"])), max_size=8), UNITS)
@example(['{"order_id": 1, "customer": "7", "at": "2026-01-02", "more": 1e999}'], "ms")
def test_any_jsonl_file_gives_the_events_that_are_produced_from_it(tmp_path, lines, unit):
    path = tmp_path / "orders.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert_as_produced(path, pipeline(unit), rows=3)


TIMES = [datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC), None, datetime(1969, 1, 1, tzinfo=UTC)]
COLUMNS = {
    "order_id": [
        pa.array([1, 2, 3]), pa.array([1.0, 2.5, 2.0**60]), pa.array(["1", "x", None]), pa.array([1, None, 3]),
    ],
    "customer": [
        pa.array(["7", "", "käse"]), pa.array([7.0, None, 8.5]), pa.array([7, 8, 9]), pa.array([7.0, 8.0, -0.0]),
        pa.array(["7", None, "7"]).dictionary_encode(), pa.array(["7", "8", "9"], pa.large_string()),
    ],
    "amount": [
        pa.array([2.5, None, float("nan")]), pa.array([0.1, float("inf"), -0.0], pa.float32()), pa.array([1, 2**60, 3]),
        pa.array(["2.5", "x", ""]), pa.array([True, False, None]),
    ],
    "gift": [pa.array([True, None, False]), pa.array([1, 0, 2]), pa.array(["yes", "no", "maybe"])],
    "channel": [pa.array(["web", None, "shop"]), pa.array(["web", "mail", ""]), None],
    "country": [pa.array(["DE", None, ""]), None],
    "at": [
        pa.array([AT_MS, -1, 0]), pa.array([float(AT_MS), 0.5, None]), pa.array(TIMES, pa.timestamp("us", tz="UTC")),
        pa.array(TIMES, pa.timestamp("ns")), pa.array(TIMES[:1] * 3, pa.timestamp("s", tz="America/New_York")),
        pa.array([each and each.date() for each in TIMES], pa.date32()), pa.array(["2026-01-02", "x", ""]),
        pa.array([2**63 - 1, 1, 2], pa.uint64()),
    ],
}  # fmt: skip


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize(("name", "place"), [(name, at) for name, found in COLUMNS.items() for at in range(len(found))])
def test_any_parquet_column_gives_the_events_that_are_produced_from_it(tmp_path, name, place, unit):
    table = {each: arrays[0] for each, arrays in COLUMNS.items()}
    table["at"] = pa.array([AT_MS, 1, 0])
    table[name] = COLUMNS[name][place]
    table = pa.table({each: array for each, array in table.items() if array is not None})
    path = tmp_path / "orders.parquet"
    pq.write_table(table, path)
    assert_as_produced(path, pipeline(unit), rows=2)


def test_parquet_of_the_usual_types_needs_no_slow_way(tmp_path, monkeypatch):
    count = 100
    table = pa.table({
        "order_id": np.arange(count), "customer": [str(place % 7) for place in range(count)],
        "amount": np.arange(count) / 10, "gift": [None, True] * (count // 2), "channel": ["web", None] * (count // 2),
        "at": pa.array(np.arange(count), pa.timestamp("ns")), "more": ["x"] * count,
    })  # fmt: skip
    path = tmp_path / "orders.parquet"
    pq.write_table(table, path, row_group_size=30)
    monkeypatch.setattr("flink_jobs.file_reader.record_of", None)
    assert sum(len(events.rows) for events in read([path])) == count


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_text_of_the_usual_forms_needs_no_slow_way(tmp_path, monkeypatch, kind):
    times = [AT_MS, "2026-01-02T03:04:05.678Z", "2026-01-02 03:04:05", "2026-01-02T03:04:05+02:00", "2026-01-02"]
    rows = [[place, "käse 7", 0.1 * place, "", "web", "D, E", time, "x"] for place, time in enumerate(times)]
    path = tmp_path / f"orders.{kind}"
    if kind == "csv":
        write_csv(path, rows)
    else:
        dicts = [{**dict(zip(HEADER, row, strict=True)), "gift": None} for row in rows]
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in dicts), encoding="utf-8")
    monkeypatch.setattr("flink_jobs.file_reader.record_of", None)
    assert sum(len(events.rows) for events in read([path])) == len(rows)


def test_records_above_the_limit_are_refused_whatever_the_format(tmp_path):
    pipe = pipeline(max_record_bytes=400)
    rows = [["1", "7", "2.5", "1", "web", "D" * length, AT_MS, ""] for length in (10, 200, 300, 500)]
    assert_as_produced(write_csv(tmp_path / "orders.csv", rows), pipe)
    dicts = [{**ROW, "country": "D" * length} for length in (10, 200, 300, 500)]
    (tmp_path / "o.jsonl").write_text("\n".join(map(json.dumps, dicts)))
    assert_as_produced(tmp_path / "o.jsonl", pipe)
    pq.write_table(pa.Table.from_pylist(dicts), tmp_path / "o.parquet")
    assert_as_produced(tmp_path / "o.parquet", pipe)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(history_files, "PIECE_BYTES", 100)
    monkeypatch.setattr(history_files, "PIECE_ROWS", 3)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_in_pieces_is_the_whole_file(tmp_path, small_pieces, kind, packed):
    path = tmp_path / f"orders.{kind}"
    rows = [[place, "7", "2.5", "1", "web", 'D\n"E' * (place % 3), AT_MS + place, ""] for place in range(40)]
    if kind == "csv":
        write_csv(path, rows)
    else:
        path.write_text("\n".join(json.dumps(dict(zip(HEADER, row, strict=True))) for row in rows))
    if packed:
        (tmp_path / f"orders.{kind}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / f"orders.{kind}.gz"
    assert len(file_pieces([path], pipeline())) == 1 if packed else len(file_pieces([path], pipeline())) > 10
    blocks = assert_as_produced(path, rows=2)
    assert sum(block.records for block in blocks) == 40


def test_parquet_pieces_are_whole_row_groups(tmp_path, small_pieces):
    path = tmp_path / "orders.parquet"
    pq.write_table(pa.Table.from_pylist([{**ROW, "order_id": place} for place in range(20)]), path, row_group_size=2)
    pieces = file_pieces([path], pipeline())
    assert [(piece.begin, piece.end) for piece in pieces] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert_as_produced(path)


def read(paths, pipe=None):
    reader = FileReader(FeaturePlan.build(pipe or pipeline()), 1_000)
    return [block.events for piece in file_pieces(paths, pipe or pipeline()) for block in reader.blocks(piece)]


def test_folders_are_read_in_natural_order_and_their_names_give_fields(tmp_path):
    for number, country in ((10, "AT"), (2, "D%20E"), (1, "__HIVE_DEFAULT_PARTITION__")):
        for channel in ("shop", "web"):
            folder = tmp_path / f"day={number}" / f"country={country}" / f"channel={channel}"
            folder.mkdir(parents=True)
            row = {name: cell for name, cell in ROW.items() if name not in ("country", "channel")}
            pq.write_table(pa.Table.from_pylist([{**row, "order_id": number}]), folder / "part-0.parquet")
            (folder / "_SUCCESS.csv").write_text("no file of events")
    found = read([tmp_path])
    assert [events.ids.to_pylist() for events in found] == [[1], [1], [2], [2], [10], [10]]
    assert [events.direct[0, 1:3].tolist() for events in found[:2]] == [[0, 1], [1, 0]]
    plan = FeaturePlan.build(pipeline())
    country = [column.field for column in plan.columns].index("country")
    expected = pipeline_column(plan, ["D E"])
    assert np.isnan(found[0].columns[0, country])
    assert found[2].columns[0, country] == expected[0]


def pipeline_column(plan, countries):
    column = next(column for column in plan.columns if column.field == "country")
    return column.read(countries)


def test_a_folders_field_that_cannot_be_one_makes_its_rows_dead_letters(tmp_path):
    folder = tmp_path / "channel=mail"
    folder.mkdir()
    (folder / "orders.jsonl").write_text(json.dumps(ROW))
    reader = FileReader(FeaturePlan.build(pipeline()), 1_000)
    (piece,) = file_pieces([tmp_path], pipeline())
    (block,) = reader.blocks(piece)
    assert [letter.reason for letter in block.letters] == ["unknown_category"]
    assert json.loads(block.letters[0].value) == ROW


def test_patterns_match_files_in_natural_order(tmp_path):
    for number in (10, 9):
        (tmp_path / f"orders-{number}.jsonl").write_text(json.dumps({**ROW, "order_id": number}))
    assert [events.ids.to_pylist() for events in read([tmp_path / "orders-*.jsonl"])] == [[9], [10]]


@pytest.mark.parametrize(("name", "said"), [
    ("none.csv", "no file, no folder"), ("none-*.csv", "no file, no folder"), ("folder", "holds no"),
    ("x.xlsx", "write a"), ("x.parquet.gz", "write a"),
])  # fmt: skip
def test_what_is_no_history_is_refused_in_one_line(tmp_path, name, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.xlsx").write_text("")
    (tmp_path / "x.parquet.gz").write_text("")
    with pytest.raises(EventFileError, match=said):
        file_pieces([tmp_path / name], pipeline())


def test_a_broken_file_is_refused_with_its_name(tmp_path):
    (tmp_path / "orders.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode())[:-9])
    with pytest.raises(EventFileError, match=r"orders\.jsonl\.gz cannot be read"):
        read([tmp_path / "orders.jsonl.gz"])


def test_an_id_of_more_than_64_bits_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "orders.jsonl").write_text(json.dumps({**ROW, "order_id": 2**63}))
    with pytest.raises(IdTooLargeError, match=r"9223372036854775808 does not fit .* declare the id as str"):
        read([tmp_path / "orders.jsonl"])


def test_pieces_survive_being_stored():
    piece = Piece("csv", "a.csv", 1, 2, constants=(("country", "DE"),), weight=3, first_record=1)
    assert Piece.from_json(json.loads(json.dumps(piece.as_json()))) == piece


@given(st.lists(st.floats(allow_nan=False)))
def test_floats_sort_as_whole_numbers(values):
    order = np.argsort(sortable(np.array(values, np.float64)), kind="stable")
    assert order.tolist() == np.argsort(np.array(values), kind="stable").tolist()
