"""The local schema registry: Apicurio Registry with the interface of Confluent's, as a process of its own.

It listens on 127.0.0.1 only. Everything of it is in one folder: `data/` (its database, H2, so that schemas and ids stay
between starts), `registry.log`, `registry.json` (process and port, by which another shell finds it).
"""

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from flink_jobs.documents import write_document
from flink_jobs.local import processes, registry_files
from flink_jobs.local.log_lines import PORT_TAKEN, size, telling_line
from flink_jobs.local.server_process import ServerProcess, port_of

HOST = "127.0.0.1"
DEFAULT_PORT = 8085
"""Not 8081, the usual one of registries: that is also the one of Flink's page."""
START_ATTEMPTS = 3
START_WAIT_S = 60.0
PROBE_WAIT_S = 5.0
HEAP_MIN, HEAP_MAX = "64m", "384m"
DEFAULT_COMPATIBILITY = "BACKWARD"
"""As Confluent's registry has it; Apicurio's own default is none."""
PORTS_TAKEN = (PORT_TAKEN, "seems to be in use")
JAVA_OPTIONS = (
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
)


class RegistryError(RuntimeError):
    """The local registry could not be started or stopped; the message names its log and the line that explains."""


@dataclass(frozen=True)
class RegistryState:
    """What `registry.json` says; `identity` tells the process from a later one with the same number."""

    pid: int
    identity: str
    port: int


class LocalRegistry(ServerProcess):
    """A local registry that runs, or ran; made by `LocalRegistry.start` or found by `LocalRegistry.find`."""

    name, error, stop_wait_s = "registry", RegistryError, 15.0
    state: RegistryState

    def __init__(self, folder: Path, state: RegistryState, *, die_with_parent: bool = False) -> None:
        self.folder, self.state = folder, state
        self._die_with_parent = die_with_parent

    @classmethod
    def start(
        cls,
        folder: Path | str,
        port: int | None = None,
        *,
        wait_s: float = START_WAIT_S,
        die_with_parent: bool = False,
        properties: Mapping[str, object] | None = None,
    ) -> "LocalRegistry":
        """Start the registry of a folder, or return the one that already runs there.

        Args:
            folder: Where its data and log are; made if it is new.
            port: Its port. By default the one it had last time in this folder, or a free one.
            wait_s: How long it may take until it answers.
            die_with_parent: End it (SIGKILL) when the thread that called this ends, for tests that die.
            properties: More of Quarkus's or Apicurio's, like a listener with TLS beside the plain one.

        Raises:
            RegistryError: It does not answer, or another port is asked for than the running one has.
        """
        folder = Path(folder).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with processes.locked(folder / "registry.lock"):
            found = cls.find(folder)
            if found and found.alive:
                if port not in (None, found.state.port):
                    raise RegistryError(f"the registry in {folder} already runs on port {found.state.port}, not {port}")
                if not found.answers():
                    raise RegistryError(f"registry process {found.state.pid} does not answer (see {found.log_file})")
                return found
            port = port_of(port, found.state.port if found else None, RegistryError)
            for attempt in range(1, START_ATTEMPTS + 1):
                try:
                    state = _launch(folder, port or processes.free_port(), wait_s, die_with_parent, properties or {})
                except _PortTakenError as error:
                    if attempt == START_ATTEMPTS:
                        raise RegistryError(f"the registry's port was not free: {error}") from error
                else:
                    return cls(folder, state, die_with_parent=die_with_parent)
        raise AssertionError("unreachable")

    @classmethod
    def find(cls, folder: Path | str) -> "LocalRegistry | None":
        """The registry last started in the folder, alive or not; None when there never was one."""
        folder = Path(folder).expanduser().resolve()
        try:
            return cls(folder, RegistryState(**json.loads((folder / "registry.json").read_text("utf-8"))))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None

    @property
    def url(self) -> str:
        """What clients of a Confluent registry are given."""
        return _url(self.state.port)

    @property
    def log_file(self) -> Path:
        """All that it says."""
        return self.folder / "registry.log"

    def answers(self) -> bool:
        """Whether it lists its subjects."""
        return _answers(self.state.port)

    def restart(self) -> None:
        """Start it again on the same data and port; one that runs is stopped first."""
        self.stop()
        self.state = LocalRegistry.start(
            self.folder, self.state.port, die_with_parent=self._die_with_parent
        ).state


class _PortTakenError(Exception):
    pass


def _url(port: int) -> str:
    return f"http://{HOST}:{port}/apis/ccompat/v7"


def _answers(port: int) -> bool:
    try:
        return requests.get(f"{_url(port)}/subjects", timeout=PROBE_WAIT_S).ok
    except requests.RequestException:
        return False


def _command(folder: Path, port: int, more: Mapping[str, object]) -> list[str]:
    registry_files.ensure_registry()
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    # Written at once and not half a second later: a schema whose id was given out survives a kill.
    database = f"jdbc:h2:file:{folder / 'data' / 'registry'};WRITE_DELAY=0;TRACE_LEVEL_FILE=0"
    properties = {
        "java.io.tmpdir": folder / "tmp",
        "apicurio.datasource.url": database,
        "apicurio.datasource.jdbc.initial-size": 1,
        "apicurio.datasource.jdbc.min-size": 1,
        "apicurio.datasource.jdbc.max-size": 10,
        "quarkus.http.host": HOST,
        "quarkus.http.port": port,
        "quarkus.management.host": HOST,
        "quarkus.management.port": 0,  # its health and metrics: any port, which nobody is told
        "quarkus.banner.enabled": "false",
        "quarkus.log.console.format": "%d{yyyy-MM-dd HH:mm:ss} %p %s (%c)%e%n",
        'quarkus.log.category."io.quarkus.http.access-log".level': "OFF",
        **more,
    }
    options = [f"-D{name}={value}" for name, value in properties.items()]
    java = registry_files.java21_home() / "bin" / "java"
    jar = registry_files.registry_home() / "quarkus-run.jar"
    return [str(java), *JAVA_OPTIONS, f"-Xms{HEAP_MIN}", f"-Xmx{HEAP_MAX}", *options, "-jar", str(jar)]


def _launch(
    folder: Path, port: int, wait_s: float, die_with_parent: bool, properties: Mapping[str, object]
) -> RegistryState:
    is_new = not (folder / "data" / "registry.mv.db").exists()
    command = _command(folder, port, properties)
    log = folder / "registry.log"
    log_start = size(log)
    with log.open("ab") as output:
        process = processes.launch(command, folder, output, die_with_parent=die_with_parent)
    identity = processes.identity(process.pid)
    if identity is None:
        raise RegistryError(f"the registry ended at once: {telling_line((log, log_start))}")
    state = RegistryState(process.pid, identity, port)
    write_document(folder / "registry.json", asdict(state))
    try:
        _wait_until_it_answers(process, port, wait_s, (log, log_start))
        if is_new:
            compatibility = {"compatibility": DEFAULT_COMPATIBILITY}
            requests.put(f"{_url(port)}/config", json=compatibility, timeout=PROBE_WAIT_S).raise_for_status()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return state


def _wait_until_it_answers(
    process: "subprocess.Popen[bytes]", port: int, wait_s: float, log: tuple[Path, int]
) -> None:
    deadline = time.monotonic() + wait_s
    while not _answers(port):
        if process.poll() is not None:
            why = telling_line(log)
            if any(text in why for text in PORTS_TAKEN):
                raise _PortTakenError(why)
            raise RegistryError(f"the registry ended with status {process.returncode}: {why}")
        if time.monotonic() > deadline:
            raise RegistryError(f"the registry did not answer within {wait_s:g} s: {telling_line(log)}")
        time.sleep(0.1)
