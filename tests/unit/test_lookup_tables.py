"""Tables of lookups against their definition: versions of rows, what is kept of them, and restarts at any time."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shop_events import products, users, version

from udfs import lookup_table
from udfs.errors import StateCorruptError, StateVersionError
from udfs.lookup_entries import EntryCodec, RowVersion, row_type
from udfs.lookup_join import LookupHistory
from udfs.lookup_table import LookupTable
from udfs.lookups import LEAST_HISTORY_MS
from udfs.pipeline import Lookup

HISTORY_MS, MOST = 6, 3
LOOKUP = products(most_versions=MOST)
KEYS = ("a", "b", "c")
changes = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 40), st.none() | st.integers(1, 9)), max_size=30)


def versions_of(changed):
    """Versions in two partitions, each in order."""
    ends, found = defaultdict(int), []
    for key, time_ms, price in changed:
        partition = KEYS.index(key) % 2
        found.append(version(key, time_ms, ends[partition], price, partition=partition))
        ends[partition] += 1
    return found


class NaiveTable:
    """The definition: all versions of each row, and the floor below which nothing is told."""

    def __init__(self, history_ms=HISTORY_MS, most=MOST):
        self.history_ms, self.most = history_ms, most
        self.lives, self.clocks = {}, {}

    def put(self, each):
        if self.is_forgotten(each.key):
            del self.lives[each.key]
        self.lives.setdefault(each.key, []).append(each)
        self.lives[each.key].sort(key=lambda one: one.time_ms)
        self.clocks[each.partition] = max(self.clocks.get(each.partition, -1), each.time_ms)

    def is_forgotten(self, key):
        newest = self.lives[key][-1] if key in self.lives else None
        is_deleted = newest is not None and newest.row is None
        return is_deleted and newest.time_ms + self.history_ms <= self.clocks[newest.partition]

    def find(self, key, as_of_ms):
        life = self.lives.get(key)
        if life is None or self.is_forgotten(key):
            return "no_row"
        times = [one.time_ms for one in life]
        floor_ms = max(times[-1] - self.history_ms, times[-self.most] if len(life) > self.most else -1)
        seen = [one for one in life if one.time_ms <= max(as_of_ms, floor_ms)]
        if not seen:
            return "too_early"
        return "no_row" if seen[-1].row is None else seen[-1]


def place_of(found):
    return found if isinstance(found, str) else found[:4]


@examples(150)
@given(changed=changes, restarts=st.sets(st.integers(0, 30)), writes=st.sets(st.integers(0, 30)))
def test_a_table_tells_what_its_records_say_whatever_restarts_there_were(changed, restarts, writes):
    table, naive, log = LookupTable(LOOKUP, HISTORY_MS), NaiveTable(), {}
    least, lookup_table._LEAST_LOGGED = lookup_table._LEAST_LOGGED, 4
    try:
        for number, each in enumerate(versions_of(changed)):
            table.put([each])
            naive.put(each)
            if number in writes | restarts:
                put, removed = table.take_changes()
                log |= put
                for gone in removed:
                    del log[gone]
            if number in restarts:
                table = LookupTable.restore(LOOKUP, HISTORY_MS, log.items())
                table.put(versions_of(changed)[: number + 1])  # told again, it takes nothing in twice
            for key in (*KEYS, "nobody"):
                for as_of_ms in range(-1, 42, 3):
                    assert place_of(table.find(key, as_of_ms)) == place_of(naive.find(key, as_of_ms))
    finally:
        lookup_table._LEAST_LOGGED = least


@examples(100)
@given(changed=changes)
def test_a_history_has_every_version_as_a_table_that_keeps_all(changed):
    versions = versions_of(changed)
    table, naive = LookupTable(products(most_versions=1_000), 10_000), NaiveTable(10_000, 1_000)
    table.put(versions)
    for each in versions:
        naive.put(each)
    asked = [(key, as_of) for key in (*KEYS, "nobody", None) for as_of in range(-1, 42)]
    keys, times = [key for key, _ in asked], np.array([as_of for _, as_of in asked])
    found = list(map(place_of, LookupHistory(versions).find_all(keys, times)))
    assert found == list(map(place_of, table.find_all(keys, times)))
    told = [naive.find(key, as_of) if key else "no_key" for key, as_of in asked]
    assert found == list(map(place_of, told))


def test_a_full_table_refuses_further_keys_and_takes_them_again_when_rows_are_forgotten():
    table = LookupTable(products(most_rows=2), HISTORY_MS)
    table.put([version("a", 1, 0), version("b", 1, 1), version("c", 1, 2)])
    assert (len(table), table.refused, table.find("c", 5)) == (2, 1, "no_row")
    table.put([version("a", 2, 3, None), version("b", 50, 4, 2.0)])
    table.take_changes()
    table.put([version("c", 51, 5)])
    assert (len(table), table.refused) == (2, 1)
    assert table.find("c", 51).offset == 5


def test_rows_are_the_same_behind_a_restart():
    table = LookupTable(LOOKUP, HISTORY_MS)
    table.put([version("a", 1, 0, 2.5, taste=(1, -0.0, 1e300)), version("b", 2, 1, kind=None, taste=None)])
    restored = LookupTable.restore(LOOKUP, HISTORY_MS, table.entries())
    for key in "ab":
        was, now = table.find(key, 9).row, restored.find(key, 9).row
        assert (was.product, was.price, was.kind, was.changed_at) == (now.product, now.price, now.kind, now.changed_at)
    assert restored.find("a", 9).row.taste.tobytes() == np.array([1, -0.0, 1e300]).tobytes()
    assert restored.find("b", 9).row.taste is None
    assert restored.ends == {0: 2}


def test_a_state_of_other_fields_is_refused_and_one_more_that_may_be_missing_is_not():
    table = LookupTable(users(), HISTORY_MS)
    table.put([RowVersion("u", 1, 0, 0, row_type(users())("u", 30, 1))])
    entries = list(table.entries())
    with pytest.raises(StateVersionError, match="lookup users: the state has no field 'city'"):
        LookupTable.restore(users_of({"user": str, "age": int | None, "city": str, "at": int}), 1, entries)
    with pytest.raises(StateVersionError, match="another type of 'age'"):
        LookupTable.restore(users_of({"user": str, "age": float | None, "at": int}), 1, entries)
    more = LookupTable.restore(users_of({"user": str, "age": int | None, "city": str | None, "at": int}), 1, entries)
    row = more.find("u", 5).row
    assert (row.user, row.age, row.city, row.at) == ("u", 30, None, 1)


def users_of(annotations):
    made = type("User", (), {"__annotations__": annotations})
    return Lookup("users", made, topic="users", key="user", time="at")


@pytest.mark.parametrize("content", [b"", b"\x93\x01", b"\x98\x01\x90\x91\xa1a\x90\x90\x90\x90\xc2"])
def test_an_entry_that_is_none_is_refused(content):
    with pytest.raises(StateCorruptError, match="lookup products: an entry"):
        LookupTable.restore(LOOKUP, 1, [(0, content)])


def test_a_version_of_the_state_that_is_newer_is_refused():
    (entry,) = EntryCodec(LOOKUP).packed([version("a", 1, 0)])
    with pytest.raises(StateVersionError, match="has version 9, this Millrace reads 1"):
        LookupTable.restore(LOOKUP, 1, [(0, entry[:1] + b"\x09" + entry[2:])])


def test_versions_are_kept_as_long_as_events_may_be_late_and_an_hour_at_least():
    assert products().history_ms(10) == LEAST_HISTORY_MS
    assert products().history_ms(LEAST_HISTORY_MS + 1) == LEAST_HISTORY_MS + 1
    assert products(history="5s").history_ms(LEAST_HISTORY_MS) == 5_000
