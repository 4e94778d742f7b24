"""Records of a batch by the schema that they name: which begin with the same bytes."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from udfs.text_scan import Bytes

_MOST_HEADS = 16
_MOST_HEAD_BYTES = 1_000


def rows_by_head(
    data: Bytes, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], head_bytes: Callable[[bytes], int]
) -> Iterator[tuple[bytes, npt.NDArray[np.int64]]]:
    """Heads, and the rows of the records that begin with each; of a batch with very many heads, not all of them.

    Args:
        data: Where the n records are.
        begins: (n,) int64.
        ends: (n,) int64.
        head_bytes: How many bytes of a record its head has.
    """
    rows = np.arange(len(begins))
    for _ in range(_MOST_HEADS):
        if not len(rows):
            return
        begin, end = begins[rows[0]], ends[rows[0]]
        first = data[begin : min(end, begin + _MOST_HEAD_BYTES)].tobytes()
        head = first[: head_bytes(first)]
        alike = ends[rows] - begins[rows] >= len(head)
        for place, octet in enumerate(head):
            alike &= data[np.minimum(begins[rows] + place, len(data) - 1)] == octet
        yield head, rows[alike]
        rows = rows[~alike]
