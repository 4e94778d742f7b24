"""Parts of the engine that the property tests would reach only by luck."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from shard_driver import HOUR_MS, Shard, pipeline_of, purchase

from udfs import compiled
from udfs.columns import ValueTable, hash_text
from udfs.paged_array import PagedArray
from udfs.pipeline import Count, Distinct, Sum, field
from udfs.plan import FeaturePlan
from udfs.window_kernels import roundest


@examples(40)  # the first call compiles
@given(st.integers(-100, 1_000_000), st.integers(1, 3_000))
def test_anchor_is_the_time_of_a_window_that_the_highest_power_of_two_divides(after, width):
    until = max(after + width, 0)
    inside = range(max(after + 1, 0), until + 1)
    power = max(time & -time if time else math.inf for time in inside)
    assert [time for time in inside if (time & -time if time else math.inf) == power] == [roundest(after, until)]


def test_paged_array_keeps_its_content_as_it_grows_and_does_not_move_while_it_is_looked_at():
    paged = PagedArray(np.int64, 3)
    paged.array()[:] = [1, 2, 3]
    paged.grow(100_000)
    assert paged.array()[:5].tolist() == [1, 2, 3, 0, 0]
    view = paged.array()
    with pytest.raises(BufferError):
        paged.grow(200_000)
    assert view[2] == 3


def test_more_texts_than_a_table_has_room_for_are_read_right(monkeypatch):
    monkeypatch.setattr(ValueTable, "_MOST_VALUES", 5)
    plan = FeaturePlan.build(
        pipeline_of(Distinct("label", window="1h"), Count(window="1h", where=field("label") == "label-3"))
    )
    for begin in (0, 7, 14, 0):
        labels = [f"label-{number}" for number in range(begin, begin + 7)] + [None]
        _, columns, masks, _ = plan.columnise([purchase(1, label=label) for label in labels])
        np.testing.assert_array_equal(columns[:, 0], [*map(hash_text, labels[:-1]), math.nan])
        assert masks.tolist() == [label == "label-3" for label in labels]


def test_a_kernel_on_disk_is_not_used_once_anything_it_inlines_has_changed():
    """Contract: numba looks at the kernel's own file only, and would run the old code of another one."""
    source = "def inner(x): return x + {}\ninner = inlined(inner)\ndef outer(x): return inner(x)"
    stamps = []
    for number in (1, 2, 1):
        names = {"inlined": compiled.inlined}
        exec(source.format(number), names)
        stamps.append(compiled._stamp(names["outer"]))
    assert stamps[0] == stamps[2] != stamps[1]


def test_parcel_of_other_types_than_kernels_were_compiled_for_is_refused():
    memory = Shard(pipeline_of(Count(window="1h"))).state.memory
    with pytest.raises(TypeError, match="cannot be opened"):
        compiled.Parcel(memory.shard._replace(clocks_ms=np.zeros(1)), compiled.kind_of(memory.shard))


def test_heap_that_grows_in_step_stays_in_proportion_to_what_is_kept():
    shard = Shard(pipeline_of(Sum("amount", window="1h")))
    for second in range(60):
        for begin in range(0, 4_000, 500):
            shard.advance([purchase(HOUR_MS + second, user=f"u{user}") for user in range(begin, begin + 500)])
    rows = 4_000 * 60 * 16
    assert shard.state.memory_bytes() < 1.5 * rows
