"""Flink's environment and configuration, in one place: the JVM, the mini-cluster, checkpoints, the Python worker."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from flink_jobs.flink_logs import write_log_configuration
from flink_jobs.kafka_security import java_system_properties
from flink_jobs.local.flink_lib import flink_home, flink_lib, flink_python_jar
from flink_jobs.local.jars import java_home, job_jars
from flink_jobs.local.processes import free_port
from flink_jobs.settings import Settings
from flink_jobs.tls_files import flink_client_options

if TYPE_CHECKING:
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import StreamTableEnvironment

_UID_FORMAT = "<id>_<transformation>"
"""Flink's default."""
MAX_PARALLELISM = 128
"""Flink's key groups. Fixed for the life of a savepoint."""

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def prepare_process(logs: Path) -> None:
    """Set what PyFlink reads from the process environment when its JVM starts; call before any pyflink import.

    `_python_worker_execution_mode=process` gives every subtask a Python process of its own (one GIL each) and keeps
    PyFlink's loopback worker pool, which listens on all interfaces, from starting.
    """
    logs.mkdir(parents=True, exist_ok=True)
    os.environ["JAVA_HOME"] = str(java_home())
    os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112  # PyFlink spells it so
    os.environ["FLINK_LOG_DIR"] = str(logs)
    # without the first, PyFlink sets the second itself
    os.environ["FLINK_HOME"], os.environ["FLINK_LIB_DIR"] = str(flink_home()), str(flink_lib())
    quiet = write_log_configuration(flink_home() / "conf" / "log4j-cli.properties", logs)
    os.environ["LOG4J_PROPERTIES"] = str(quiet)
    os.environ.setdefault("JVM_ARGS", "-Xmx1536m")
    paths = [str(PROJECT_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))


LEAVE_UNCLAIMED = {"execution.state-recovery.ignore-unclaimed-state": "true"}
"""State of a restore point that no operator of the job takes is left, whatever it is."""


def flink_options(settings: Settings, checkpoints: Path, restore_from: str | None) -> dict[str, str]:
    """Flink's options of one job.

    Args:
        settings: Millrace's settings.
        checkpoints: Folder of the pipeline's checkpoints and savepoints.
        restore_from: Checkpoint or savepoint to start from.
    """
    folder = checkpoints.absolute().as_uri()
    options = {
        # batches reach Python as soon as they are made: the default of 1,000 ms is a second of latency for nothing
        "python.fn-execution.bundle.time": str(settings.bundle_ms),
        "python.fn-execution.bundle.size": str(settings.bundle_size),
        "python.execution-mode": "process",
        # PyFlink would keep a copy of each written entry of a map
        "python.map-state.read-cache-size": "0",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "pipeline.object-reuse": "true",
        # what crosses between tasks are batches, gathered already: the default would hold each for up to 100 ms
        "execution.buffer-timeout.interval": "0 ms",
        "pipeline.max-parallelism": str(MAX_PARALLELISM),
        # added operators find their state only if the others are named from the first release on
        "table.exec.uid.generation": "ALWAYS",
        "execution.checkpointing.interval": f"{settings.checkpoint_interval_ms} ms",
        "execution.checkpointing.timeout": f"{settings.checkpoint_timeout_ms} ms",
        # the default storage, the JobManager's memory, fails past 5 MB and the job restarts for ever
        "execution.checkpointing.storage": "filesystem",
        "execution.checkpointing.dir": folder,
        "execution.checkpointing.savepoint-dir": f"{folder}/savepoints",
        "execution.checkpointing.incremental": "true",
        "execution.checkpointing.num-retained": "3",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.tolerable-failed-checkpoints": "3",
        "state.backend.type": settings.state_backend,
        # not fixed-delay: it counts over a job's whole life, and ends one that fails once a week
        "restart-strategy.type": "exponential-delay" if settings.restart_attempts else "none",
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": str(settings.restart_attempts),
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
        "restart-strategy.exponential-delay.initial-backoff": f"{settings.restart_delay_ms} ms",
        "restart-strategy.exponential-delay.max-backoff": f"{max(5_000, settings.restart_delay_ms)} ms",
        "restart-strategy.exponential-delay.backoff-multiplier": "1.2",
    }
    if restore_from is not None:
        options["execution.state-recovery.path"] = restore_from
    return options


def create_environment(
    settings: Settings, checkpoints: Path, restore_from: str | None = None, options: Mapping[str, str] | None = None
) -> tuple["StreamExecutionEnvironment", str]:
    """A mini-cluster's environment.

    Args:
        settings: Millrace's settings.
        checkpoints: Folder of the pipeline's checkpoints and savepoints.
        restore_from: Checkpoint or savepoint to start from.
        options: Flink's, instead of those of `flink_options`.

    Returns:
        The environment, and the address of its REST interface (on loopback).
    """
    prepare_process(settings.logs)
    from pyflink.datastream import StreamExecutionEnvironment

    port = str(free_port())
    configuration = configuration_of({
        **flink_options(settings, checkpoints, restore_from),
        "taskmanager.numberOfTaskSlots": str(settings.parallelism),
        "taskmanager.memory.managed.size": "256m",
        "jobmanager.bind-host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": port,
        "rest.bind-port": port,
        "web.submit.enable": "false",
        **(options or {}),
    })
    environment = StreamExecutionEnvironment.get_execution_environment(configuration)
    return _prepared(environment, settings), f"http://127.0.0.1:{port}"


def create_remote_environment(
    settings: Settings,
    address: str,
    checkpoints: Path,
    restore_from: str | None,
    *,
    python: str,
    files: Path,
    options: Mapping[str, str] | None = None,
) -> "StreamExecutionEnvironment":
    """The environment of a job that is submitted to a cluster.

    Args:
        settings: Millrace's settings.
        address: Of the cluster's REST interface.
        checkpoints: Folder of the pipeline's checkpoints and savepoints, there.
        restore_from: Checkpoint or savepoint to start from.
        python: The workers' interpreter, there.
        files: A folder of code that is shipped to the workers.
        options: Flink's, instead of those of `flink_options`.
    """
    prepare_process(settings.logs)
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.java_gateway import get_gateway

    place = urlparse(address)
    gateway: Any = get_gateway()
    configuration = configuration_of({
        **flink_options(settings, checkpoints, restore_from),
        "python.executable": python,
        **(flink_client_options(settings) if place.scheme == "https" else {}),
        **(options or {}),
    })
    remote = gateway.jvm.org.apache.flink.streaming.api.environment.RemoteStreamEnvironment(
        place.hostname, place.port or 8081, configuration._j_configuration, gateway.new_array(gateway.jvm.String, 0)
    )
    environment = _prepared(StreamExecutionEnvironment(remote), settings)
    environment.add_python_file(str(files))
    # a cluster need not have them in its lib folder; those that it has there win
    shipped = [flink_python_jar(flink_home()), *job_jars(login=settings.kafka_sasl_mechanism == "OAUTHBEARER")]
    environment.add_jars(*(jar.as_uri() for jar in shipped))
    return environment


def configuration_of(options: Mapping[str, str]) -> "Configuration":
    """Options as Flink takes them."""
    from pyflink.common import Configuration

    configuration = Configuration()
    for name, value in options.items():
        configuration.set_string(name, value)
    return configuration


def _planner_class() -> Any:
    """The Java class by which the planner numbers the operators of its SQL.

    Their uids are these numbers, and a savepoint is gone on from only by the same uids.
    """
    from pyflink.java_gateway import get_gateway

    gateway: Any = get_gateway()
    module = gateway.jvm.org.apache.flink.table.planner.loader.PlannerModule.getInstance()
    field = module.getClass().getDeclaredField("submoduleClassLoader")
    field.setAccessible(True)
    return field.get(module).loadClass("org.apache.flink.table.planner.plan.nodes.exec.ExecNodeContext")


def _number_operators_after(last: int) -> None:
    """Have the planner go on after a number; 0 is as in a process that plans its first job."""
    from pyflink.java_gateway import get_gateway

    gateway: Any = get_gateway()
    planner = _planner_class()
    nothing = gateway.new_array(gateway.jvm.Object, 0)
    for name in ("resetIdCounter", *["newNodeId"] * last):  # py4j makes an int of the counter itself
        method = planner.getDeclaredMethod(name, gateway.new_array(gateway.jvm.java.lang.Class, 0))
        method.setAccessible(True)
        method.invoke(None, nothing)


@contextlib.contextmanager
def planned_apart(tables: "StreamTableEnvironment", name: str) -> Iterator[None]:
    """Operators of SQL that is planned meanwhile are named by `name`, and later ones numbered as if they were not."""
    counter = _planner_class().getDeclaredField("idCounter")
    counter.setAccessible(True)
    config, last = tables.get_config(), int(counter.get(None))
    form = config.get("table.exec.uid.format", _UID_FORMAT)
    config.set("table.exec.uid.format", f"{name}_<transformation>")
    try:
        yield
    finally:
        config.set("table.exec.uid.format", form)
        _number_operators_after(last)


@contextlib.contextmanager
def in_one_subtask(environment: Any) -> Iterator[None]:
    """Operators that are added to a Java environment meanwhile have one subtask."""
    parallelism = int(environment.getParallelism())
    environment.setParallelism(1)
    try:
        yield
    finally:
        environment.setParallelism(parallelism)


def allow_token_urls(settings: Settings) -> None:
    """Let Kafka's clients in this process's JVM ask the identity provider of the settings, or read the token's file."""
    from pyflink.java_gateway import get_gateway

    jvm: Any = get_gateway().jvm
    for name, text in java_system_properties(settings.kafka_properties).items():
        jvm.java.lang.System.setProperty(name, text)


def _prepared(environment: "StreamExecutionEnvironment", settings: Settings) -> "StreamExecutionEnvironment":
    _number_operators_after(0)
    allow_token_urls(settings)
    environment.set_parallelism(settings.parallelism)
    environment.set_max_parallelism(MAX_PARALLELISM)
    return environment


@contextlib.contextmanager
def planning() -> Iterator[None]:
    """While a job is planned, only the planning thread speaks to the JVM.

    The planner keeps what it needs in the Java thread that serves it. Python's cyclic collector, in whatever thread it
    strikes, tells the JVM of freed objects over a second connection, and the two may be swapped: the planner then fails
    with a NullPointerException (FLINK-23020).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
