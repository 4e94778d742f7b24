"""Durations as text ("90s", "10m", "1h", "7d") and as integer milliseconds; times as text."""

import re

import numpy as np

from udfs.errors import DefinitionError

UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PATTERN = re.compile(r"(\d+)(ms|s|m|h|d)")

LONGEST_MS = 3_660 * UNITS_MS["d"]
"""Ten years: keeps every sum of an event time and two windows far inside int64."""


def parse_duration(text: str, setting: str) -> int:
    """Milliseconds of a duration.

    Args:
        text: A whole number and a unit: ms, s, m, h or d.
        setting: What the duration is for, named in the error.

    Raises:
        DefinitionError: If the text is not such a duration, is 0, or is longer than ten years.
    """
    found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise DefinitionError(
            f"{setting} is {text!r}; write a whole number and a unit, like '90s', '10m', '1h' or '7d'"
        )
    duration_ms = int(found[1]) * UNITS_MS[found[2]]
    if not 0 < duration_ms <= LONGEST_MS:
        raise DefinitionError(f"{setting} is {text!r}; write a duration longer than 0 and at most 3660d")
    return duration_ms


def duration_text(duration_ms: int) -> str:
    """The shortest text of a duration in its largest whole unit: 3_600_000 is '1h', never '60m'."""
    for unit, unit_ms in UNITS_MS.items():
        if duration_ms % unit_ms == 0:
            return f"{duration_ms // unit_ms}{unit}"
    raise AssertionError("every duration is a whole number of milliseconds")


def time_text(time_ms: int) -> str:
    """A time in ms since 1970 as ISO text in UTC, like 2026-01-31T12:00:00.000Z."""
    return f"{np.datetime64(time_ms, 'ms')}Z"
