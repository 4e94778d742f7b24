"""Records of the shipped pipeline that must become dead letters, each with the reason it must get."""

import json
from dataclasses import dataclass

import numpy as np

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
    """One record of every kind, of a random shopper and with ids of its own.

    Args:
        rng: Where chance comes from.
        max_record_bytes: The pipeline's limit; the oversized record is just above it.
    """
    user = f"user-{int(rng.integers(1_000_000)):06d}"
    event = {
        "event_id": f"broken-{int(rng.integers(2**63)):016x}",
        "user_id": user,
        "page_id": "product",
        "dwell_time_sec": round(float(rng.uniform(1, 60)), 3),
        "timestamp": AN_EVENT_TIME_MS,
    }
    key = user.encode()
    good = json.dumps(event).encode()

    def changed(kind: str, reason: str, **fields: object) -> BrokenRecord:
        return BrokenRecord(kind, reason, key, json.dumps({**event, **fields}).encode())

    def without(field: str) -> BrokenRecord:
        value = json.dumps({name: value for name, value in event.items() if name != field}).encode()
        return BrokenRecord(f"no {field}", "missing_field", key, value)

    return [
        BrokenRecord("not JSON", "not_json", key, b"page=product&dwell=12"),
        BrokenRecord("cut off", "not_json", key, good[: len(good) // 2]),
        BrokenRecord("invalid UTF-8", "not_json", key, good.replace(b"broken-", b"broken\xff\xfe")),
        without("user_id"),
        without("timestamp"),
        changed("text for a number", "wrong_type", dwell_time_sec="long"),
        changed("null for a number", "wrong_type", dwell_time_sec=None),
        changed("a number for a text", "wrong_type", event_id=17),
        changed("unknown page", "unknown_category", page_id="wishlist"),
        changed("oversized", "too_large", event_id="x" * max_record_bytes),
        BrokenRecord("key of another shopper", "key_mismatch", b"another-" + key, good),
        BrokenRecord("no key", "key_mismatch", None, good),
        BrokenRecord("null value", "null_value", key, None),
        changed("time before 1970", "invalid_time", timestamp=-1),
        changed("time after the year 9999", "invalid_time", timestamp=253_402_300_800_000),
    ]
