"""The local Kafka: the real broker in KRaft mode, one node, as a process of its own that listens on 127.0.0.1 only.

Everything of it is in one folder: `server.properties`, `data/`, `broker.log` (Kafka's log), `broker.err` (what the Java
machine said), `broker.json` (process and ports, by which another shell finds it).
"""

import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from flink_jobs import kafka_admin
from flink_jobs.documents import write_document
from flink_jobs.local import processes
from flink_jobs.local.broker_files import (
    HEAP_MAX,
    HEAP_MIN,
    HOST,
    BrokerError,
    explanation,
    format_data,
    java_command,
)
from flink_jobs.local.broker_listeners import LockedListeners
from flink_jobs.local.log_lines import PORT_TAKEN, size
from flink_jobs.local.server_process import ServerProcess, port_of

START_ATTEMPTS = 3  # a free port that we chose may be taken before Kafka binds it


@dataclass(frozen=True)
class BrokerState:
    """What `broker.json` says; `identity` tells the process from a later one with the same number."""

    pid: int
    identity: str
    port: int
    controller_port: int


@dataclass(frozen=True)
class BrokerStatus:
    """The broker of a folder as it is now."""

    alive: bool
    bootstrap: str
    pid: int
    log_file: Path


class Broker(ServerProcess):
    """A local broker that runs, or ran; made by `Broker.start` or found by `Broker.find`."""

    name, error, stop_wait_s = "broker", BrokerError, 30.0
    state: BrokerState

    def __init__(
        self,
        folder: Path,
        state: BrokerState,
        *,
        die_with_parent: bool = False,
        listeners: LockedListeners | None = None,
    ) -> None:
        self.folder = folder
        self.listeners = listeners
        self.state = state
        self._die_with_parent = die_with_parent

    @classmethod
    def start(
        cls,
        folder: Path | str,
        port: int | None = None,
        *,
        wait_s: float = 60.0,
        die_with_parent: bool = False,
        listeners: LockedListeners | None = None,
    ) -> "Broker":
        """Start the broker of a folder, or return the one that already runs there.

        Args:
            folder: Where its data and logs are; made and formatted if it is new.
            port: Port for clients. By default the one it had last time in this folder, or a free one.
            wait_s: How long it may take until it answers.
            die_with_parent: End it (SIGKILL) when the thread that called this ends, for tests that die.
            listeners: More listeners, with TLS and passwords.

        Raises:
            BrokerError: It does not answer, or another port is asked for than the running one has.
        """
        folder = Path(folder).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with processes.locked(folder / "broker.lock"):
            found = cls.find(folder)
            if found and found.alive:
                if port not in (None, found.state.port):
                    raise BrokerError(f"the broker in {folder} already runs on port {found.state.port}, not {port}")
                try:
                    kafka_admin.wait_for_broker(found.bootstrap, timeout_s=wait_s)
                except kafka_admin.KafkaUnreachableError as error:
                    raise BrokerError(f"broker process {found.state.pid} runs but does not answer: {error}") from error
                return found
            port = port_of(port, found.state.port if found else None, BrokerError)
            for attempt in range(1, START_ATTEMPTS + 1):
                chosen = port or processes.free_port()
                controller_port = processes.free_port(avoid=chosen)
                try:
                    state = _launch(folder, chosen, controller_port, wait_s, die_with_parent, listeners)
                except _PortTakenError as error:
                    if attempt == START_ATTEMPTS:
                        raise BrokerError(f"ports {chosen} and {controller_port} were not free: {error}") from error
                else:
                    return cls(folder, state, die_with_parent=die_with_parent, listeners=listeners)
        raise AssertionError("unreachable")

    @classmethod
    def find(cls, folder: Path | str) -> "Broker | None":
        """The broker last started in the folder, alive or not; None when there never was one."""
        folder = Path(folder).expanduser().resolve()
        try:
            state = BrokerState(**json.loads((folder / "broker.json").read_text("utf-8")))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None
        return cls(folder, state)

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"{HOST}:{self.state.port}"

    @property
    def log_file(self) -> Path:
        """Kafka's log."""
        return self.folder / "broker.log"

    def restart(self, *, wait_s: float = 60.0) -> None:
        """Start it again on the same data and port; one that runs is stopped first."""
        self.stop()
        self.state = Broker.start(
            self.folder,
            self.state.port,
            wait_s=wait_s,
            die_with_parent=self._die_with_parent,
            listeners=self.listeners,
        ).state


def broker_status(folder: Path | str) -> BrokerStatus | None:
    """The broker of the folder as it is now; None when none was ever started there."""
    broker = Broker.find(folder)
    return None if broker is None else BrokerStatus(broker.alive, broker.bootstrap, broker.state.pid, broker.log_file)


class _PortTakenError(Exception):
    pass


def _launch(
    folder: Path,
    port: int,
    controller_port: int,
    wait_s: float,
    die_with_parent: bool,
    listeners: LockedListeners | None,
) -> BrokerState:
    java = java_command(folder, port, controller_port, listeners)
    log_start = size(folder / "broker.log")
    if not (folder / "data" / "meta.properties").exists():
        format_data(folder, java)
    with (folder / "broker.err").open("wb") as err:
        process = processes.launch(
            [*java, f"-Xms{HEAP_MIN}", f"-Xmx{HEAP_MAX}", "kafka.Kafka", str(folder / "server.properties")],
            folder,
            err,
            die_with_parent=die_with_parent,
        )
    identity = processes.identity(process.pid)
    if identity is None:
        raise BrokerError(f"the broker ended at once: {explanation(folder, log_start)}")
    state = BrokerState(process.pid, identity, port, controller_port)
    write_document(folder / "broker.json", asdict(state))
    try:
        _wait_until_it_answers(process, folder, f"{HOST}:{port}", wait_s, log_start)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return state


def _wait_until_it_answers(
    process: "subprocess.Popen[bytes]", folder: Path, bootstrap: str, wait_s: float, log_start: int
) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        if process.poll() is not None:
            why = explanation(folder, log_start)
            if PORT_TAKEN in why:
                raise _PortTakenError(why)
            raise BrokerError(f"the broker ended with status {process.returncode}: {why}")
        try:
            return kafka_admin.wait_for_broker(bootstrap, timeout_s=0, poll_s=0.5)
        except kafka_admin.KafkaUnreachableError as error:
            if time.monotonic() > deadline:
                why = explanation(folder, log_start)
                raise BrokerError(f"the broker did not answer within {wait_s:g} s: {why}") from error
