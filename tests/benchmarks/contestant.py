"""What every contestant's process is told on its command line, and how it learns that the run is over."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flink_jobs.settings import Settings


class Task(NamedTuple):
    """Read `events`, write predictions to `output`, transactionally, until told to stop."""

    bootstrap: str
    home: Path
    events: str
    output: str

    @classmethod
    def from_command_line(cls) -> "Task":
        bootstrap, home, events, output = sys.argv[1:5]
        return cls(bootstrap, Path(home), events, output)

    def settings(self, **overrides: object) -> "Settings":
        from flink_jobs.settings import load_settings  # not there in the environment of a peer

        return load_settings(bootstrap=self.bootstrap, home=self.home, **overrides)


def wait_for_the_end() -> None:
    """Return when the bench closes our standard input, or is gone."""
    sys.stdin.read()
