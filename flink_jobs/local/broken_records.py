"""Records that must become dead letters, each with the reason it must get: of any pipeline, or of the shipped one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flink_jobs.pipelines.purchase import pipeline
from udfs.pipeline import Events
from udfs.record_reader import Readable

MAX_RECORD_BYTES = 1_000_000
AN_EVENT_TIME_MS = 1_760_000_000_000


@dataclass(frozen=True)
class BrokenRecord:
    """A Kafka record that cannot be scored.

    Attributes:
        kind: What is wrong, for people.
        reason: The dead letter's reason, one of `udfs.wire_formats.REASONS`.
        key: Kafka key.
        value: Kafka value.
    """

    kind: str
    reason: str
    key: bytes | None
    value: bytes | None


def broken_records(rng: np.random.Generator, *, max_record_bytes: int = MAX_RECORD_BYTES) -> list[BrokenRecord]:
    """One record of the shipped pipeline of every kind, of a random shopper and with ids of its own.

    Args:
        rng: Where chance comes from.
        max_record_bytes: The pipeline's limit; the oversized record is just above it.
    """
    event = {
        "event_id": f"broken-{int(rng.integers(2**63)):016x}",
        "user_id": f"user-{int(rng.integers(1_000_000)):06d}",
        "page_id": "product",
        "dwell_time_sec": round(float(rng.uniform(1, 60)), 3),
        "timestamp": AN_EVENT_TIME_MS,
    }
    return broken_variants(pipeline, event, max_record_bytes=max_record_bytes)


def broken_variants(owner: Readable, event: dict[str, Any], *, max_record_bytes: int) -> list[BrokenRecord]:
    """An event made wrong in every way that its class allows, or a row of a table of lookups.

    Args:
        owner: Whose event or row.
        event: A good one, all fields there.
        max_record_bytes: The limit; the oversized record is just above it.
    """
    events, key, good = owner.events, str(event[owner.events.entity]).encode(), json.dumps(event).encode()
    a_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[events.time_unit]

    def changed(kind: str, reason: str, /, **fields: object) -> BrokenRecord:
        return BrokenRecord(kind, reason, key, json.dumps({**event, **fields}).encode())

    def without(name: str) -> BrokenRecord:
        value = json.dumps({other: value for other, value in event.items() if other != name}).encode()
        return BrokenRecord(f"no {name}", "missing_field", key, value)

    found = [
        BrokenRecord("not JSON", "not_json", key, b"page=product&dwell=12"),
        BrokenRecord("cut off", "not_json", key, good[: len(good) // 2]),
        BrokenRecord("empty", "not_json", key, b""),
        BrokenRecord("an array", "wrong_type", key, b"[1, 2]"),
        without(events.entity),
        without(events.time),
        changed("oversized", "too_large", padding="x" * max_record_bytes),
        BrokenRecord("key of another entity", "key_mismatch", b"another-" + key, good),
        BrokenRecord("no key", "key_mismatch", None, good),
        BrokenRecord("null value", "null_value", key, None),
        changed("time before 1970", "invalid_time", **{events.time: -1}),
        changed("time after the year 9999", "invalid_time", **{events.time: 253_402_300_800 * a_second}),
    ]
    return found + _wrong_fields(events, event, key, good, changed)


def _wrong_fields(
    events: Events, event: dict[str, Any], key: bytes, good: bytes, changed: Callable[..., BrokenRecord]
) -> list[BrokenRecord]:
    """Values of the wrong type, where there is a field to have one."""
    found = []
    for field in events.schema:
        if field.categories is not None and field.kind == "str":
            found.append(changed(f"unknown {field.name}", "unknown_category", **{field.name: "no such one"}))
        elif field.kind == "str":
            found.append(changed(f"a number for a text in {field.name}", "wrong_type", **{field.name: 17}))
            text = str(event[field.name]).encode()
            if text.isalnum() and good.count(text) == 1:
                value = good.replace(text, b"\xff\xfe")
                found.append(BrokenRecord(f"invalid UTF-8 in {field.name}", "not_json", key, value))
        elif field.kind in ("int", "float") and field.categories is None:
            found.append(changed(f"a text for a number in {field.name}", "wrong_type", **{field.name: "long"}))
        elif field.size is not None:
            ones = [1.0] * field.size
            found.append(changed(f"a number for a vector in {field.name}", "wrong_type", **{field.name: 1.0}))
            found.append(changed(f"a vector too long in {field.name}", "wrong_type", **{field.name: [*ones, 1.0]}))
            found.append(changed(f"a text in the vector {field.name}", "wrong_type", **{field.name: [*ones[1:], "1"]}))
            found.append(changed(f"null in the vector {field.name}", "wrong_type", **{field.name: [*ones[1:], None]}))
        if field.kind == "int" and field.categories is None:
            found.append(changed(f"half a number in {field.name}", "wrong_type", **{field.name: 2.5}))
        if not field.nullable:
            found.append(changed(f"null for {field.name}", "wrong_type", **{field.name: None}))
    return found
