"""What crosses between the JVM and Python as bytes reads back as it was."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from udfs.byte_lines import Lines
from udfs.output_batch import OutputGroup, OutputRecord, read_outputs
from udfs.record_batch import RecordBatch, pack_records

STRINGS = st.none() | st.binary(max_size=12)


@examples(40)
@given(st.lists(st.tuples(STRINGS, STRINGS, st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1)), max_size=9))
def test_records_read_back(records):
    keys, values, partitions, offsets = map(list, zip(*records, strict=True)) if records else ([], [], [], [])
    batch = RecordBatch(pack_records(keys, values, partitions, offsets, offsets))
    assert len(batch) == len(records)
    assert (batch.keys.tolist(), batch.values.tolist()) == (keys, values)
    assert (batch.partitions.tolist(), batch.offsets.tolist()) == (partitions, offsets)
    assert batch.record_times_ms.tolist() == offsets
    assert all(array.flags.writeable for array in (batch.partitions, batch.offsets, batch.record_times_ms))


def test_a_value_that_is_not_whole_says_its_size():
    batch = RecordBatch(pack_records([b"k", None], [b"be", None], [0, 1], [2, 3], [4, 5], sizes={0: 2**31 - 1}))
    assert (batch.values.tolist(), batch.sizes) == ([b"be", None], {0: 2**31 - 1})


@examples(40)
@given(st.lists(st.binary(max_size=8).filter(lambda line: b"\n" not in line), max_size=8))
def test_a_text_of_lines_is_split_at_its_newlines(lines):
    split = Lines.split(b"".join(line + b"\n" for line in lines))
    assert split.tolist() == lines
    assert split.pick(range(0, len(lines), 2)).tolist() == lines[::2]


def test_groups_of_outputs_read_back_one_after_the_other():
    group = OutputGroup("t", {"c": "ä"}, ["n", "m"], ["x"])
    numbers = (np.array([1, -2]), np.array([3, 4], np.int32))
    first = group.pack(Lines.of([b"k", b"l"]), Lines.of([b"v\n", b""]), numbers, [Lines.of([b"one", None])])
    second = OutputGroup("u", {}, []).pack(Lines.of([b"k"]), Lines.of([b"w"]), ())
    assert read_outputs(first + second) == [
        OutputRecord("t", b"k", b"v\n", {"c": "ä", "n": "1", "m": "3", "x": "one"}),
        OutputRecord("t", b"l", b"", {"c": "ä", "n": "-2", "m": "4"}),
        OutputRecord("u", b"k", b"w", {}),
    ]
