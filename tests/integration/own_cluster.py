"""A Flink cluster in processes of its own, with options of its own: of an application, or one that waits for jobs."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from flink_jobs.application import DRIVER, MODULE
from flink_jobs.local import processes
from flink_jobs.local.cluster_files import java_command, write_files
from flink_jobs.local.flink_lib import flink_home
from flink_jobs.settings import Settings

SESSION = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
APPLICATION = "org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint"
SLOTS = 2


@contextlib.contextmanager
def cluster_of(
    folder: Path, settings: Settings, arguments: list[str] | None = None, **options: object
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Processes until the end of the block; host and port of the REST interface, and the JobManager.

    Args:
        folder: Where their files are.
        settings: Of the application.
        arguments: Of the application; without, it is a session cluster that waits for jobs.
        options: More of Flink's.
    """
    ports: dict[str, int] = {}
    for name in ("rest", "rpc", "blob", "zookeeper"):
        ports[name] = processes.free_port(avoid=next(reversed(ports.values()), None))
    write_files(folder, ports, SLOTS)
    file = folder / "conf" / "config.yaml"
    python = {"python.executable": sys.executable, "python.client.executable": sys.executable}
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **python, **options}))
    environment = {
        "FLINK_CONF_DIR": str(folder / "conf"), "FLINK_LOG_DIR": str(folder / "log"),
        "FLINK_OPT_DIR": str(flink_home() / "opt"), "MILLRACE_RESTART_ATTEMPTS": "0",
        "MILLRACE_BOOTSTRAP": settings.bootstrap, "MILLRACE_HOME": str(settings.home),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []
    try:
        for role in ("zookeeper", "jobmanager", "taskmanager"):
            command = java_command(folder, role, role, SLOTS)
            if role == "jobmanager" and arguments is not None:
                command = [APPLICATION if word == SESSION else word for word in command]
                # it knows no --host, and takes what follows an unknown option for the program's
                command[command.index("--host") :] = ["--job-classname", DRIVER, "-pym", MODULE, *arguments]
            with (folder / "log" / f"{role}.out").open("wb") as out:
                running.append(
                    processes.launch(command, folder, out, die_with_parent=True, environment=environment)
                )
        yield f"127.0.0.1:{ports['rest']}", running[1]
    finally:
        for process in reversed(running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
