"""Rows of files become events of the pipeline, or are handed on as they are."""

import gzip
import json
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flink_jobs.event_files import EventFileError, FileCounts, file_events
from udfs.pipeline import Count, Events, Model, Pipeline


class Order:
    order_id: int
    customer: str
    amount: float
    gift: bool | None
    channel: Literal["web", "shop"]
    at: int


def pipeline(time_unit: str = "ms") -> Pipeline:
    events = Events(Order, topic="orders", entity="customer", time="at", id="order_id", time_unit=time_unit)
    return Pipeline("orders", events, [Count(window="1h")], Model("orders", 1), "score")


AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
AT_MS = round(AT.timestamp() * 1_000)
EVENT = {"order_id": 1, "customer": "7", "amount": 2.5, "gift": True, "channel": "web", "at": AT_MS}
HEADER = "order_id,customer,amount,gift,channel,at,note\n"


def read(path, pipe=None, **settings):
    counts = FileCounts()
    records = list(file_events(path, pipe or pipeline(), counts=counts, **settings))
    return [(key, json.loads(value)) for key, value in records], counts


def test_csv_cells_become_the_types_of_the_fields(tmp_path):
    file = tmp_path / "orders.csv"
    file.write_text(HEADER + "1,7,2.5,TRUE,web,2026-01-02T03:04:05.678Z,left out\n", encoding="utf-8-sig")
    assert read(file) == ([(b"7", EVENT)], FileCounts(rows=1))


def test_gzipped_csv_is_read(tmp_path):
    file = tmp_path / "orders.csv.gz"
    file.write_bytes(gzip.compress((HEADER + f"1,7,2.5,yes,web,{AT_MS},\n").encode()))
    assert read(file)[0] == [(b"7", EVENT)]


def test_jsonl_fields_are_converted_and_others_left_out(tmp_path):
    file = tmp_path / "orders.jsonl"
    row = {"note": 1, **EVENT, "order_id": "1", "customer": 7, "at": "2026-01-02 03:04:05.678"}
    file.write_text(json.dumps(row) + "\n\n")
    assert read(file)[0] == [(b"7", EVENT)]


def test_parquet_timestamps_and_float_ids_are_converted(tmp_path):
    file = tmp_path / "orders.parquet"
    table = pa.table({**{k: [v] for k, v in EVENT.items()}, "customer": [7.0], "order_id": [1.0], "at": [AT]})
    pq.write_table(table, file)
    assert read(file)[0] == [(b"7", EVENT)]


@pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_iso_times_become_the_pipelines_unit(tmp_path, unit, per_s):
    file = tmp_path / "orders.csv"
    file.write_text(HEADER + "1,7,2.5,1,web,2026-01-02T04:04:05.678+01:00,\n")
    ((_, event),), _ = read(file, pipeline(unit))
    assert event["at"] == AT_MS * per_s // 1_000


def test_empty_cell_of_an_optional_field_is_null(tmp_path):
    file = tmp_path / "orders.csv"
    file.write_text(HEADER + f"1,7,2.5,,web,{AT_MS},\n")
    assert read(file) == ([(b"7", {**EVENT, "gift": None})], FileCounts(rows=1))


@pytest.mark.parametrize(
    ("row", "changed", "key"),
    [
        ("x,7,2.5,1,web,{at},", {"order_id": "x"}, b"7"),
        ("1,7,much,1,web,{at},", {"amount": "much"}, b"7"),
        ("1,7,inf,1,web,{at},", {"amount": "inf"}, b"7"),
        ("1,,2.5,1,web,{at},", {"customer": None}, None),
        ("1,7,2.5,maybe,web,{at},", {"gift": "maybe"}, b"7"),
        ("1,7,2.5,1,web,yesterday,", {"at": "yesterday"}, b"7"),
        ("1.5,7,2.5,1,web,{at},", {"order_id": "1.5"}, b"7"),
    ],
)
def test_row_that_cannot_be_converted_is_sent_as_it_is_and_counted(tmp_path, row, changed, key):
    file = tmp_path / "orders.csv"
    file.write_text(HEADER + row.format(at=AT_MS) + "\n")
    assert read(file) == ([(key, {**EVENT, **changed})], FileCounts(rows=1, unconverted=1))


def test_line_that_is_not_json_is_sent_as_it_is(tmp_path):
    file = tmp_path / "orders.jsonl"
    file.write_bytes(b"not json\n[1]\n\xff\n")
    counts = FileCounts()
    assert list(file_events(file, pipeline(), counts=counts)) == [(None, b"not json"), (None, b"[1]"), (None, b"\xff")]
    assert counts == FileCounts(rows=3, unconverted=3)


def test_missing_column_is_named_before_anything_is_sent(tmp_path):
    file = tmp_path / "orders.csv"
    file.write_text("order_id,customer,channel,gift\n")
    with pytest.raises(EventFileError, match=r"orders\.csv has no column amount, at; it has order_id"):
        file_events(file, pipeline())


def test_unknown_kind_of_file_and_missing_file_are_refused(tmp_path):
    (tmp_path / "orders.xlsx").write_text("")
    with pytest.raises(EventFileError, match=r"write a \.jsonl"):
        file_events(tmp_path / "orders.xlsx", pipeline())
    with pytest.raises(EventFileError, match="is not a file"):
        file_events(tmp_path / "none.csv", pipeline())
    with pytest.raises(EventFileError, match="speedup is 0"):
        file_events(tmp_path / "orders.xlsx", pipeline(), speedup=0)


def test_speedup_keeps_the_files_own_pace(tmp_path):
    file = tmp_path / "orders.csv"
    file.write_text(HEADER + "".join(f"{i},7,1,1,web,{AT_MS + i * 1_000},\n" for i in range(4)))
    now = [0.0]
    taken_at = []
    for _ in file_events(
        file, pipeline(), 10, clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
    ):
        taken_at.append(round(now[0], 6))
    assert taken_at == [0.0, 0.1, 0.2, 0.3]
