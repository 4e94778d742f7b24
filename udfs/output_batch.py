"""The bytes in which output records cross to the JVM: `flink_jobs/jvm/OutputRecords.java` reads them.

Groups of records of one topic. A group is, little-endian: count (int32); topic; headers that all records share (their
number, then name and content of each); names of headers with numbers; names of headers with texts; the numbers (n
int64 a name); the texts, the keys and the values (n lengths, int32, -1 for none, then the contents, each with a newline
behind it). A text alone is its length (int32) and its UTF-8.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.byte_lines import Lines

_COUNT = struct.Struct("<i")
_LONG = np.dtype(np.int64)


class OutputRecord(NamedTuple):
    """A Kafka record to write."""

    topic: str
    key: bytes
    value: bytes
    headers: dict[str, str]


class OutputGroup:
    """What the records of one kind have in common.

    Args:
        topic: Where they go.
        constants: Headers with the same content in all of them.
        numbers: Names of headers whose content is a whole number.
        texts: Names of headers whose content is a text, or which a record may lack.
    """

    def __init__(
        self, topic: str, constants: Mapping[str, str], numbers: Sequence[str], texts: Sequence[str] = ()
    ) -> None:
        shared = [_COUNT.pack(len(constants))]
        for name, content in constants.items():
            shared += [_text(name), _text(content)]
        self._head = b"".join([_text(topic), *shared, _names(numbers), _names(texts)])
        self._numbers, self._texts = len(numbers), len(texts)

    def pack(
        self, keys: Lines, values: Lines, numbers: Sequence[npt.NDArray[Any]], texts: Sequence[Lines] = ()
    ) -> bytes:
        """The bytes of a group of n records.

        Args:
            keys: n keys.
            values: n values.
            numbers: (n,) of integers for each of the group's headers with numbers.
            texts: n texts for each of the group's headers with texts.
        """
        assert (len(numbers), len(texts)) == (self._numbers, self._texts)
        parts = [_COUNT.pack(len(keys)), self._head]
        parts += [column.astype(_LONG, copy=False).tobytes() for column in numbers]
        parts += [lines.to_bytes() for lines in (*texts, keys, values)]
        return b"".join(parts)


def _text(text: str) -> bytes:
    content = text.encode()
    return _COUNT.pack(len(content)) + content


def _names(names: Sequence[str]) -> bytes:
    return _COUNT.pack(len(names)) + b"".join(map(_text, names))


def read_outputs(data: bytes) -> list[OutputRecord]:
    """The records of some groups, as the JVM reads them."""
    reader = _Reader(data)
    records: list[OutputRecord] = []
    while not reader.at_end:
        records += reader.group()
    return records


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    @property
    def at_end(self) -> bool:
        return self._place == len(self._data)

    def group(self) -> list[OutputRecord]:
        count, topic = self._count(), self._text()
        constants = {self._text(): self._text() for _ in range(self._count())}
        number_names = self._names()
        text_names = self._names()
        columns = [[str(number).encode() for number in self._integers("<i8", count)] for _ in number_names]
        columns += [self._lines(count) for _ in text_names]
        keys, values = self._lines(count), self._lines(count)
        records = []
        for row in range(count):
            contents = zip([*number_names, *text_names], [column[row] for column in columns], strict=True)
            headers = constants | {name: content.decode() for name, content in contents if content is not None}
            records.append(OutputRecord(topic, keys[row] or b"", values[row] or b"", headers))
        return records

    def _take(self, size: int) -> bytes:
        self._place += size
        return self._data[self._place - size : self._place]

    def _count(self) -> int:
        return int(_COUNT.unpack(self._take(_COUNT.size))[0])

    def _text(self) -> str:
        return self._take(self._count()).decode()

    def _names(self) -> list[str]:
        return [self._text() for _ in range(self._count())]

    def _integers(self, kind: str, count: int) -> list[int]:
        numbers: list[int] = np.frombuffer(self._take(np.dtype(kind).itemsize * count), kind).tolist()
        return numbers

    def _lines(self, count: int) -> list[Any]:
        lengths = np.array(self._integers("<i4", count), np.int32)
        return Lines(lengths, self._take(int((lengths + 1).sum()))).tolist()
