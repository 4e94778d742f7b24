"""The files of a state built from history, a shard each, on their way into a job."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from udfs.state_file import unpacked

_AGAIN = "build the state anew with --fresh --bootstrap-from"


class StateFileError(RuntimeError):
    """A file is not the one that was written; one line says what to do."""


@dataclass(frozen=True)
class StateFile:
    """The state of one shard.

    Attributes:
        path: Where it is, also for the workers.
        sha256: Of its bytes.
    """

    path: Path
    sha256: str

    def content(self) -> bytes:
        """The bytes.

        Raises:
            StateFileError: They are gone, or not those that were written.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise StateFileError(f"{self.path} cannot be read ({error.strerror}): {_AGAIN}") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise StateFileError(f"{self.path} has not the bytes that were written: {_AGAIN}")
        return content

    def entries(self) -> list[tuple[int, bytes]]:
        """The shard's log."""
        return unpacked(self.content())
