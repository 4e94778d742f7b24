"""Why a record is no event."""

from typing import NamedTuple


class Refused(NamedTuple):
    """A reason of `udfs.wire_formats.REASONS`, and what exactly was wrong, for people."""

    reason: str
    detail: str
