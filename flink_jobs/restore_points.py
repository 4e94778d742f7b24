"""A checkpoint or savepoint on this machine: where it is, and Flink's own reading of its metadata."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from flink_jobs.console import CommandError


class RestorePointError(CommandError):
    """A checkpoint or savepoint cannot be read; one line says why and what to do."""


def folder_of(restore_point: str) -> Path:
    """The folder of a restore point given as a URI or a path."""
    parsed = urlparse(restore_point)
    if parsed.scheme not in ("", "file"):
        raise RestorePointError(f"{restore_point} is not on this machine: copy it here first")
    path = Path(unquote(parsed.path) if parsed.scheme else restore_point).expanduser()
    return path.parent if path.name == "_metadata" else path


def found_folder(restore_point: str) -> Path:
    """As `folder_of`, of one that is there and complete.

    Raises:
        RestorePointError: It is not.
    """
    folder = folder_of(restore_point)
    if not folder.exists():
        raise RestorePointError(f"{folder} does not exist: no checkpoint or savepoint is there")
    if not (folder / "_metadata").is_file():
        raise RestorePointError(
            f"{folder} has no _metadata: it is no checkpoint or savepoint, or one that was not finished"
        )
    return folder


def load_metadata(restore_point: str) -> Any:
    """Flink's `CheckpointMetadata`; needs Flink's JVM in this process.

    Raises:
        RestorePointError: It is not there, or Flink cannot read it.
    """
    from py4j.protocol import Py4JJavaError
    from pyflink.java_gateway import get_gateway

    folder = found_folder(restore_point)
    jvm: Any = get_gateway().jvm
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    try:
        stream = jvm.java.io.DataInputStream(jvm.java.io.FileInputStream(str(folder / "_metadata")))
        try:
            load = jvm.org.apache.flink.runtime.checkpoint.Checkpoints.loadCheckpointMetadata
            return load(stream, loader, folder.absolute().as_uri())
        finally:
            stream.close()
    except Py4JJavaError as error:
        raise RestorePointError(f"{folder}/_metadata cannot be read: {java_cause(error)}") from error


def operator_uid(operator: Any) -> str:
    """The uid of a Java `OperatorState`; empty where the operator had none."""
    return str(operator.getOperatorUid().orElse(""))


def operator_handles(metadata: Any) -> Iterator[Any]:
    """Java handles of what operators themselves keep (not by key), of all operators and subtasks."""
    for operator in metadata.getOperatorStates().toArray():
        for subtask in operator.getStates().toArray():
            yield from subtask.getManagedOperatorState().toArray()


def java_cause(error: Any) -> str:
    """The deepest cause of a Java exception, in one line."""
    cause = error.java_exception
    while cause.getCause() is not None:
        cause = cause.getCause()
    name, message = str(cause.getClass().getSimpleName()), cause.getMessage()
    if message is None:
        return f"{name} (it is cut off)" if name == "EOFException" else name
    return f"{name}: {' '.join(str(message).split())[:300]}"


def written_ms(folder: Path) -> int:
    """When a restore point was completed, ms since 1970.

    Raises:
        RestorePointError: It is gone by now.
    """
    try:
        return (folder / "_metadata").stat().st_mtime_ns // 1_000_000
    except FileNotFoundError as error:
        raise RestorePointError(f"{folder} is gone: a running job removes its older checkpoints") from error


def all_bytes(handle: Any) -> bytes:
    """The content behind a Java state handle.

    Raises:
        RestorePointError: It cannot be read.
    """
    from py4j.protocol import Py4JJavaError

    try:
        stream = handle.openInputStream()
        try:
            return bytes(stream.readAllBytes())
        finally:
            stream.close()
    except Py4JJavaError as error:
        raise RestorePointError(f"a file of a checkpoint or savepoint cannot be read: {java_cause(error)}") from error
