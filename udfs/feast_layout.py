"""The bytes in which Feast's online stores keep entities and features, so that Feast reads what is written here.

Entity keys are those of `entity_key_serialization_version: 3`. All features are doubles: 9 bytes as a Protobuf `Value`
with `double_val`, none for a missing one.

https://github.com/feast-dev/feast/blob/v0.67.0/sdk/python/feast/infra/key_encoding_utils.py
https://github.com/feast-dev/feast/blob/v0.67.0/protos/feast/types/Value.proto
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mmh3

from udfs.confluent_wire import varint
from udfs.pipeline import Pipeline

VALUE_BYTES = 9
_STRING = 2  # of `ValueType`
_DOUBLE = struct.Struct("<Bd")
_DOUBLE_TAG = 5 << 3 | 1


@dataclass(frozen=True)
class FeastLayout:
    """Where the features of a pipeline are in a store of Feast's.

    Attributes:
        project: Feast's project.
        view: The feature view.
        join_key: What the entity is called.
        features: Names of the features, in order.
    """

    project: str
    view: str
    join_key: str
    features: tuple[str, ...]

    @classmethod
    def of(cls, pipeline: Pipeline) -> "FeastLayout":
        """That of a pipeline: its project is its name, its view has `_features` behind it."""
        project = pipeline.name.replace("-", "_")
        return cls(project, f"{project}_features", pipeline.events.entity, pipeline.feature_names)

    @cached_property
    def _packing(self) -> struct.Struct:
        return struct.Struct("<" + "Bd" * len(self.features))

    @property
    def table(self) -> str:
        """Name of the table in SQLite."""
        return f"{self.project}_{self.view}"

    @property
    def time_field(self) -> str:
        """Field of an entity's hash in Redis with the time of its values."""
        return f"_ts:{self.view}"

    @property
    def feature_fields(self) -> list[bytes]:
        """Fields of an entity's hash in Redis with the features, 4 bytes each."""
        return [mmh3.hash(f"{self.view}:{name}", signed=False).to_bytes(4, "little") for name in self.features]

    def entity_key(self, entity: str) -> bytes:
        """What an entity is known by; in Redis the project follows it. Entities are texts here, also whole numbers."""
        name, value = self.join_key.encode(), entity.encode()
        return struct.pack("<III", 1, _STRING, len(name)) + name + struct.pack("<II", _STRING, len(value)) + value

    def packed(self, features: Mapping[str, Any]) -> bytes:
        """All features one behind the other, `VALUE_BYTES` each; those of a missing one are zeros.

        Raises:
            ValueError: One is no number.
        """
        parts: list[Any] = []
        for value in map(features.get, self.features):
            parts += (0, 0.0) if value is None else (_DOUBLE_TAG, value)
        try:
            return self._packing.pack(*parts)
        except struct.error as error:
            raise ValueError("a feature is no number") from error


def read_value(content: bytes | None) -> float | None:
    """A feature as it was written; None for a missing one."""
    if not content:
        return None
    tag, value = _DOUBLE.unpack(content)
    if tag != _DOUBLE_TAG:
        raise ValueError(f"a feature's bytes begin with {tag}, where {_DOUBLE_TAG} says that it is a double")
    return None if math.isnan(value) else float(value)


def timestamp_bytes(time_ms: int) -> bytes:
    """A time as Protobuf's `Timestamp`."""
    seconds, millis = divmod(time_ms, 1_000)
    parts = [(1, seconds & 2**64 - 1), (2, millis * 1_000_000)]  # negative numbers are written as 64 bits
    return b"".join(bytes([number << 3]) + varint(bits) for number, bits in parts if bits)
