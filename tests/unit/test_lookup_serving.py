"""A subtask's tables begin with files, take in what they are told, and go on from Flink's state after a restart."""

import msgspec
import pytest
from shop_events import View, Weight, products, shop, users

from flink_jobs import lookup_serving
from flink_jobs.lookup_serving import ServedTables
from flink_jobs.lookup_tables import plan_tables
from flink_jobs.settings import Settings
from flink_jobs.state_files import StateFileError
from udfs.pipeline import Lookup, Value
from udfs.record_batch import lookups_command, pack_records


class Broadcast(dict):
    """A broadcast state: what is put is there once it is committed."""

    def __init__(self):
        self.waiting = {}

    def put(self, number, entry):
        self.waiting[number] = entry

    def remove(self, number):
        self.waiting[number] = None

    def commit(self):
        self.update(self.waiting)
        self.waiting = {}
        for number in [number for number, entry in self.items() if entry is None]:
            del self[number]


class Subtask:
    """The tables of a subtask, Flink's state and its gauges; topics are as they are said to be."""

    def __init__(self, monkeypatch, folder):
        weights = folder / "weights.csv"
        weights.write_text("item,grams\np1,5\n")
        self.lookups = [products(), users(), Lookup("weights", Weight, file=str(weights), key="item")]
        self.pipeline = shop(self.lookups, [Value("products.price"), Value("weights.grams")])
        self.states = {each.name: Broadcast() for each in self.lookups}
        monkeypatch.setattr(lookup_serving, "_broadcast_states", lambda *_: self.states)
        monkeypatch.setattr("flink_jobs.lookup_tables.topic_ends", lambda *_, **__: {0: 0})
        monkeypatch.setattr("flink_jobs.lookup_tables.topic_starts", lambda *_: {0: 0})
        self.planned = plan_tables(self.pipeline, Settings(home=folder))
        self.start()

    def start(self):
        self.gauges = {}
        self.tables = ServedTables(self.pipeline, self.planned.files, None, self)
        self.tables.read()

    def get_metrics_group(self):
        return self

    def gauge(self, name, value):
        self.gauges[name] = value

    def tell(self, topic, *rows, offset=0):
        values = [None if row is None else msgspec.json.encode(row) for row in rows]
        keys = [b"gone" if row is None else str(row.get("product", row.get("user"))).encode() for row in rows]
        offsets = list(range(offset, offset + len(rows)))
        times, command = [100 + each for each in offsets], lookups_command(topic)
        self.tables.take(pack_records(keys, values, [0] * len(rows), offsets, times, command=command))

    def seen(self, item, at):
        event = View()
        event.view_id, event.user, event.item, event.at = "v", "u1", item, at
        return self.tables.of([event]).places[0]


def row(product, price, changed_at):
    return {"product": product, "price": price, "kind": None, "taste": None, "changed_at": changed_at}


@pytest.fixture
def subtask(monkeypatch, tmp_path):
    return Subtask(monkeypatch, tmp_path)


def test_what_was_written_is_there_after_a_restart_and_what_was_not_is_told_again(subtask):
    subtask.tell(0, row("p1", 1.0, 10), row("p2", 2.0, 10))
    subtask.tell(1, {"user": "u1", "age": 3})
    subtask.tables.write()
    subtask.tell(0, row("p1", 4.0, 20), offset=2)
    assert subtask.seen("p1", 30) == "products=0/2,users=-,weights=-1/1"
    assert subtask.seen("p1", 200) == "products=0/2,users=0/0,weights=-1/1"
    subtask.start()
    assert subtask.seen("p1", 30) == "products=0/0,users=-,weights=-1/1"
    subtask.tell(0, row("p2", 2.0, 10), row("p1", 4.0, 20), offset=1)
    assert subtask.seen("p1", 30) == "products=0/2,users=-,weights=-1/1"
    assert subtask.seen("p2", 15) == "products=0/1,users=-,weights=-"


def test_a_table_is_in_the_state_from_the_start_on_and_its_file_never_looked_at_again(subtask):
    assert all(subtask.states[name] for name in ("products", "users"))
    subtask.tell(0, row("p1", 1.0, 10))
    subtask.tables.write()
    for name in ("products", "users"):
        subtask.planned.files[name].path.unlink()
    subtask.start()
    assert subtask.seen("p1", 30) == "products=0/0,users=-,weights=-1/1"
    assert not subtask.states["weights"]
    subtask.planned.files["weights"].path.write_bytes(b"")
    with pytest.raises(StateFileError, match="has not the bytes"):
        subtask.start()


def test_missing_rows_and_records_that_are_none_are_gauges(subtask, caplog):
    subtask.tell(0, row("p1", 1.0, 10), row("p1", "dear", 11), row("p1", "dear", 12))
    for item, at in (("p1", 5), ("p9", 5), (None, 5), ("p1", 15)):
        subtask.seen(item, at)
    told = {name: read() for name, read in subtask.gauges.items()}
    assert {name: told[name] for name in told if name.startswith("lookupProducts")} == {
        "lookupProductsNoRow": 1, "lookupProductsTooEarly": 1, "lookupProductsNoKey": 1, "lookupProductsRefused": 2,
    }  # fmt: skip
    assert told["lookupWeightsNoRow"] == 1
    assert "lookupWeightsRefused" not in told
    assert [each.getMessage() for each in caplog.records if "is no row" in each.getMessage()] == [
        "lookup products: a record of products is no row: wrong_type, Expected `float`, got `str` - at `$.price`"
    ]
