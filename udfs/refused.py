"""Why a record is no event."""

from typing import NamedTuple


class Refused(NamedTuple):
    """A reason of `udfs.wire_formats.REASONS`, and what exactly was wrong, for people."""

    reason: str
    detail: str


NO_VALUE = Refused("null_value", "the record has no value")


def too_large(size: int, max_bytes: int) -> Refused:
    """A record above its pipeline's limit."""
    return Refused("too_large", f"{size} bytes; the limit is {max_bytes}")


def invalid_time(name: str, time: float) -> Refused:
    """An event whose time is before 1970 or after `last_time`."""
    return Refused("invalid_time", f"{name} is {time}; it must lie between 1970 and the year 9999")
