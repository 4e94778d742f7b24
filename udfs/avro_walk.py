"""Goes through an Avro record without reading it, with limits: what could make fastavro recurse or loop without an end.

Only for the few schemas that allow it (`WriterPlan.needs_walk`): it takes microseconds a field.
"""

from typing import Any

from udfs.confluent_wire import read_zigzag

MOST_DEPTH = 64
MOST_ITEMS = 1_000_000
_SIZES = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class AvroWalk:
    """Walks over records of one schema.

    Args:
        schema: Parsed by fastavro.
        named: Its named types.
    """

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._named: dict[str, Any] = {}
        self._items = 0
        self._collect(schema)

    def _collect(self, kind: Any) -> None:
        if isinstance(kind, list):
            for option in kind:
                self._collect(option)
        elif isinstance(kind, dict):
            if "name" in kind:
                self._named[kind["name"]] = kind
            for one in kind.get("fields", ()):
                self._collect(one["type"])
            self._collect(kind.get("items"))
            self._collect(kind.get("values"))

    def check(self, data: bytes, at: int) -> None:
        """Raises ValueError if a record that begins here is nested too deeply, holds too much or does not end."""
        self._items = 0
        self._after(self._schema, data, at, 0)

    def _after(self, kind: Any, data: bytes, at: int, depth: int) -> int:
        if depth > MOST_DEPTH:
            raise ValueError(f"nested more than {MOST_DEPTH} deep")
        if isinstance(kind, list):
            branch, at = read_zigzag(data, at)
            if not 0 <= branch < len(kind):
                raise ValueError(f"branch {branch} of a union of {len(kind)}")
            return self._after(kind[branch], data, at, depth + 1)
        if isinstance(kind, str) and kind in self._named:
            kind = self._named[kind]
        form = kind if isinstance(kind, str) else kind["type"]
        if form in ("record", "error"):
            for one in kind["fields"]:
                at = self._after(one["type"], data, at, depth + 1)
            return at
        if form in ("array", "map"):
            return self._after_blocks(kind, data, at, depth + 1)
        if form in ("int", "long", "enum"):
            return read_zigzag(data, at)[1]
        if form in ("string", "bytes"):
            size, at = read_zigzag(data, at)
        else:
            size = kind["size"] if form == "fixed" else _SIZES[form]
        if size < 0 or at + size > len(data):
            raise ValueError(f"{size} bytes are said to follow, there are {len(data) - at}")
        return at + int(size)

    def _after_blocks(self, kind: Any, data: bytes, at: int, depth: int) -> int:
        while True:
            count, at = read_zigzag(data, at)
            if count == 0:
                return at
            if count < 0:
                count = -count
                _, at = read_zigzag(data, at)
            self._items += count
            if self._items > MOST_ITEMS:
                raise ValueError(f"more than {MOST_ITEMS:,} items")
            for _ in range(count):
                if "values" in kind:
                    at = self._after("string", data, at, depth)
                at = self._after(kind.get("values", kind.get("items")), data, at, depth)
