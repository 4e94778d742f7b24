"""How many different values the rows of a window have.

A few rows are looked at anew for each event. For more, a tally remembers in a table how many of the window's rows have
each value, and moves along with the window: it costs the rows that enter and leave. It is exact at any time, so it may
be forgotten and made again. A NaN is no value; 0.0 and -0.0 are one.
"""

import math
from typing import Any

from udfs.compiled import called, inlined, opened
from udfs.heap import allocate, class_for, release, words_of
from udfs.indexes import BLOCK_CLASS, LINE_BLOCK, LINE_WORDS, line_of
from udfs.kernel_arrays import BLOCK, LOW, SHARD, WANTED, Shard
from udfs.partials import DISTINCT
from udfs.slabs import first_word, rows_of
from udfs.window_kernels import end_of, mask_of

BEGIN, STOP, FOUND, PLACES = 0, 1, 2, 5
"""Words of the operation's line: the rows counted, from the first kept one; how many values they have; places of the
table. It is a power of two of pairs (value, rows that have it), found by open addressing; no rows is a free place."""
_FEWEST_PLACES = 8


@inlined
def _value(shard: Shard, step: Any, row: int) -> float:
    """What a row counts as; NaN if it does not count."""
    needed = step.needed
    if needed != 0 and mask_of(shard, row) & needed != needed:
        return math.nan
    return float(shard.heap.numbers[row + step.column]) + 0.0  # -0.0 becomes 0.0


@inlined
def _hashed(shard: Shard, value: float) -> int:
    shard.number[0] = value
    bits = int(shard.bits[0])
    return ((bits ^ (bits >> 32)) * 0x2545F4914F6CDD1D) >> 32  # small whole numbers differ in the upper bits only


@inlined
def _place_of(shard: Shard, block: int, places: int, value: float) -> int:
    """The word of the value's place in the table, or of the free one it would take."""
    words, numbers = shard.heap.words, shard.heap.numbers
    place = _hashed(shard, value) & (places - 1)
    while words[block + 2 * place + 1] != 0 and numbers[block + 2 * place] != value:
        place = (place + 1) & (places - 1)
    return block + 2 * place


@inlined
def _grow(shard: Shard, line: int) -> bool:
    """Give the table twice the places; False if that cannot be."""
    words, numbers = shard.heap.words, shard.heap.numbers
    before, block_before = words[line + PLACES], words[line + LINE_BLOCK]
    places = max(2 * before, _FEWEST_PLACES)
    size_class = class_for(2 * places)
    block = allocate(shard.heap, size_class)
    if block == 0:
        shard.counts[WANTED] = words_of(size_class)
        return False
    for word in range(2 * places):
        words[block + word] = 0
    for place in range(before):
        if words[block_before + 2 * place + 1] != 0:
            target = _place_of(shard, block, places, numbers[block_before + 2 * place])
            words[target] = words[block_before + 2 * place]
            words[target + 1] = words[block_before + 2 * place + 1]
    release(shard.heap, block_before, words[line + BLOCK_CLASS])
    words[line + LINE_BLOCK] = block
    words[line + BLOCK_CLASS] = size_class
    words[line + PLACES] = places
    return True


@called
def _enter(address: int, line: int, value: float) -> bool:
    """Count a row; False if the table has no room for it."""
    shard = opened(address, SHARD)
    words = shard.heap.words
    if 2 * (words[line + FOUND] + 1) > words[line + PLACES] and not _grow(shard, line):
        return False
    place = _place_of(shard, words[line + LINE_BLOCK], words[line + PLACES], value)
    if words[place + 1] == 0:
        shard.heap.numbers[place] = value
        words[line + FOUND] += 1
    words[place + 1] += 1
    return True


@inlined
def _leave(shard: Shard, line: int, value: float) -> None:
    """Count a row no more; a value without rows frees its place, and others move up."""
    words, block, last = shard.heap.words, shard.heap.words[line + LINE_BLOCK], shard.heap.words[line + PLACES] - 1
    hole = _place_of(shard, block, last + 1, value)
    words[hole + 1] -= 1
    if words[hole + 1] > 0:
        return
    words[line + FOUND] -= 1
    free = (hole - block) >> 1
    place = free
    while True:
        place = (place + 1) & last
        word = block + 2 * place
        if words[word + 1] == 0:
            break
        wanted = _hashed(shard, shard.heap.numbers[word]) & last
        if (place - wanted) & last >= (place - free) & last:
            words[block + 2 * free] = words[word]
            words[block + 2 * free + 1] = words[word + 1]
            free = place
    words[block + 2 * free + 1] = 0


@inlined
def _forget(shard: Shard, line: int) -> None:
    words = shard.heap.words
    release(shard.heap, words[line + LINE_BLOCK], words[line + BLOCK_CLASS])
    for word in range(LINE_WORDS):
        words[line + word] = 0


@inlined
def _move(shard: Shard, step: Any, line: int, row: int, width: int, low: int, end: int) -> bool:
    """Count the rows low..end-1 (from word `row` on), beginning with what is counted; False if there is no room."""
    words = shard.heap.words
    begin, stop = words[line + BEGIN], words[line + STOP]
    if abs(begin - low) + abs(stop - end) > end - low or stop <= low or begin >= end:
        _forget(shard, line)
        begin = stop = low
    words[line + BEGIN], words[line + STOP] = low, end
    for left in range(begin, low):
        value = _value(shard, step, row + left * width)
        if value == value:
            _leave(shard, line, value)
    for left in range(end, stop):
        value = _value(shard, step, row + left * width)
        if value == value:
            _leave(shard, line, value)
    for side in range(2):
        first, last = (low, begin) if side == 0 else (max(stop, low), end)
        for entered in range(first, last):
            value = _value(shard, step, row + entered * width)
            if value == value and not _enter(shard.address, line, value):
                _forget(shard, line)
                return False
    return True


@inlined
def _count_few(shard: Shard, step: Any, row: int, width: int, count: int) -> int:
    """Look at each of the rows."""
    places, found = len(shard.values), 0
    while places > 16 and places >= 4 * count:
        places >>= 1
    for place in range(places):
        shard.values[place] = math.nan
    for _ in range(count):
        value = _value(shard, step, row)
        row += width
        if value != value:
            continue
        place = _hashed(shard, value) & (places - 1)
        while shard.values[place] == shard.values[place] and shard.values[place] != value:
            place = (place + 1) & (places - 1)
        if shard.values[place] != value:
            shard.values[place] = value
            found += 1
    return found


@inlined
def _count_pairs(shard: Shard, step: Any, row: int, width: int, count: int) -> int:
    """Compare every row with all before it: needs no memory."""
    found = 0
    for later in range(count):
        value = _value(shard, step, row + later * width)
        earlier = 0
        while earlier < later and _value(shard, step, row + earlier * width) != value:
            earlier += 1
        if value == value and earlier == later:
            found += 1
    return found


@called
def count_distinct(address: int, slot: int, step: Any) -> int:
    """How many different values the rows of an operation's window have."""
    shard = opened(address, SHARD)
    operations, window = shard.operations, shard.windows[step.span]
    width = operations.stores[operations.spans[step.span].store].width
    block, low, end = window[BLOCK], window[LOW], end_of(shard, step)
    if end - low <= operations.limits.direct_rows:
        return _count_few(shard, step, block + low * width, width, end - low)
    line = line_of(shard, slot, step.line)
    if line > 0 and _move(shard, step, line, block, width, low, end):
        found: int = shard.heap.words[line + FOUND]
        return found
    return _count_pairs(shard, step, block + low * width, width, end - low)


@called
def row_inserted(address: int, slot: int, store: int, position: int) -> None:
    """Count a new row of a store where it lies among counted ones."""
    shard = opened(address, SHARD)
    entity, operations, words = shard.entities[slot], shard.operations, shard.heap.words
    if entity.index == 0:
        return
    width = operations.stores[store].width
    row = first_word(rows_of(shard, slot, store), width) + position * width
    for operation in range(len(operations.steps)):
        step = operations.steps[operation]
        if step.kind != DISTINCT or operations.spans[step.span].store != store:
            continue
        line = entity.index + step.line * LINE_WORDS
        if position >= words[line + STOP]:
            continue
        words[line + STOP] += 1
        if position < words[line + BEGIN]:
            words[line + BEGIN] += 1
            continue
        value = _value(shard, step, row)
        if value == value and not _enter(shard.address, line, value):
            _forget(shard, line)


@called
def rows_leave(address: int, slot: int, store: int, count: int) -> None:
    """Stop counting a store's first rows, which are about to be dropped."""
    shard = opened(address, SHARD)
    entity, operations, words = shard.entities[slot], shard.operations, shard.heap.words
    if entity.index == 0:
        return
    width = operations.stores[store].width
    row = first_word(rows_of(shard, slot, store), width)
    for operation in range(len(operations.steps)):
        step = operations.steps[operation]
        if step.kind != DISTINCT or operations.spans[step.span].store != store:
            continue
        line = entity.index + step.line * LINE_WORDS
        for gone in range(words[line + BEGIN], min(count, words[line + STOP])):
            value = _value(shard, step, row + gone * width)
            if value == value:
                _leave(shard, line, value)
        words[line + BEGIN] = max(words[line + BEGIN] - count, 0)
        words[line + STOP] = max(words[line + STOP] - count, 0)
