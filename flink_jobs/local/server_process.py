"""A local server that is a process of its own, started by this shell or another: its port, its life and its end."""

import os
import signal
from typing import ClassVar, Protocol

from flink_jobs.local import processes


class ServerState(Protocol):
    """What a server's file says of its process; `identity` tells it from a later one with the same number."""

    @property
    def pid(self) -> int:
        """The process."""

    @property
    def identity(self) -> str:
        """See `processes.identity`."""


class ServerProcess:
    """The process of a local server; servers say their `name`, their `error`, and how long their end may take.

    Attributes:
        state: Its process.
    """

    name: ClassVar[str]
    error: ClassVar[type[Exception]]
    stop_wait_s: ClassVar[float]
    state: ServerState

    @property
    def alive(self) -> bool:
        """Whether the process is there; a frozen one is."""
        return processes.is_alive(self.state.pid, self.state.identity)

    def stop(self, *, wait_s: float | None = None) -> None:
        """End it in order; after `wait_s` by force. Nothing happens when it does not run."""
        self._signal(signal.SIGTERM)
        self.thaw()  # a frozen process would take the signal only after it
        if not self._is_gone_within(self.stop_wait_s if wait_s is None else wait_s):
            self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        self._signal(signal.SIGKILL)
        if not self._is_gone_within(self.stop_wait_s):
            told = f"{self.name} process {self.state.pid} is still there {self.stop_wait_s:g} s after SIGKILL"
            raise self.error(told)

    def freeze(self) -> None:
        """Halt it (SIGSTOP): connections stay open and nothing answers, like a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self._signal(signal.SIGCONT)

    def _is_gone_within(self, wait_s: float) -> bool:
        return processes.wait_until_gone(self.state.pid, self.state.identity, wait_s)

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.state.pid, number)


def port_of(asked: int | None, last: int | None, error: type[Exception]) -> int | None:
    """The port that a start is asked for, or had last time in its folder if that is free; None: any free one.

    Args:
        asked: What the user says.
        last: Of the last start.
        error: Raised with one line if the port asked for is taken.
    """
    if asked is None:
        return last if last is not None and processes.is_port_free(last) else None
    if not processes.is_port_free(asked):
        raise error(f"port {asked} of {processes.HOST} is taken by another process: name another one, or none")
    return asked


def first_port(asked: int | None, before: ServerProcess | None, usual: int) -> int | None:
    """The port to ask for: of a folder's very first start the usual one, if that is free."""
    return usual if asked is None and before is None and processes.is_port_free(usual) else asked
