"""Each shard's log as a checkpoint or savepoint holds it, read without running the job.

    form         written by                                     read with
    savepoint    any backend, a savepoint of format CANONICAL   Flink's restore of full snapshots
    increment    a checkpoint of RocksDB                        its files, put together and opened read-only
    hashmap      a checkpoint of the hashmap backend            Flink's own backend, restored from it

Each subtask has written a range of key groups, so any parallelism reads alike. What Python keeps is opaque bytes to
Java, under a name of PyFlink's: the state's with a prefix. `jvm/ShardLogReader.java` copies the entries into a file;
needs Flink's JVM in this process (`prepare_process`).
"""

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flink_jobs.jvm_operators import JVM_SOURCES, object_array
from flink_jobs.restore_points import (
    RestorePointError,
    found_folder,
    java_cause,
    load_metadata,
    operator_uid,
    written_ms,
)
from flink_jobs.scoring_job import SCORE_UID
from udfs.positions import READ_TO

_PREFIX, _READER = "python-state-", "ShardLogReader"
_KEY = struct.Struct(">BBiBiq")
"""An entry's key: key group; the shard key as a row of one integer (a byte of nulls, the integer); no namespace; the
length and bytes of the number, as PyFlink's coder of LONG has it."""
_VALUE = struct.Struct(">?ii")
"""Before an entry's bytes: whether it is null; its length as Java's array, and as PyFlink's coder of bytes has it."""
_LENGTH = struct.Struct(">i")
_KEY_GROUPS_OF_A_BYTE = 128

Log = list[tuple[int, bytes]]
"""Numbered entries, as `ShardState.restore` takes them."""


@dataclass(frozen=True)
class KeptState:
    """What a restore point holds of the scoring job.

    Attributes:
        logs: By shard key, each shard's log; shards that never had an event have none.
        checkpoint_id: Flink's number of it.
        written_ms: When it was completed.
        parallelism: Subtasks that wrote it.
        form: savepoint, increment or hashmap.
    """

    logs: dict[int, Log]
    checkpoint_id: int
    written_ms: int
    parallelism: int
    form: str


def read_shard_logs(restore_point: str) -> dict[int, Log]:
    """The shards' logs by shard key; see `read_kept_state`."""
    return read_kept_state(restore_point).logs


def read_kept_state(restore_point: str) -> KeptState:
    """Read a checkpoint or savepoint, given as a URI or a path.

    Raises:
        RestorePointError: It is not there or not complete, is no scoring job's, or its files are missing or broken.
    """
    from py4j.protocol import Py4JJavaError

    folder = found_folder(restore_point)
    metadata = load_metadata(restore_point)
    operator = _score_operator(metadata, folder)
    handles = [
        handle for subtask in operator.getStates().toArray() for handle in subtask.getManagedKeyedState().toArray()
    ]
    forms = {_form(handle, folder) for handle in handles}
    logs: dict[int, Log] = {}
    reader = _reader()
    try:
        for handle in handles:
            for key, value in _entries(reader, handle):
                _put(logs, key, value, folder)
    except Py4JJavaError as error:
        raise RestorePointError(_broken(folder, error)) from error
    for log in logs.values():
        log.sort(key=lambda entry: entry[0])
    return KeptState(
        dict(sorted(logs.items())), int(metadata.getCheckpointId()), written_ms(folder), int(operator.getParallelism()),
        ", ".join(sorted(forms)) or "empty",
    )  # fmt: skip


def _score_operator(metadata: Any, folder: Path) -> Any:
    operators = metadata.getOperatorStates().toArray()
    uids = [operator_uid(operator) for operator in operators]
    if SCORE_UID not in uids:
        raise RestorePointError(
            f"{folder} holds no state of Millrace's scoring job (no operator with uid {SCORE_UID}): it is another "
            "job's, or one of engine sql, which keeps its windows in Flink's own state"
        )
    operator = operators[uids.index(SCORE_UID)]
    if operator.getMaxParallelism() > _KEY_GROUPS_OF_A_BYTE:
        raise RestorePointError(
            f"{folder} has {operator.getMaxParallelism()} key groups; Millrace's jobs have {_KEY_GROUPS_OF_A_BYTE}"
        )
    return operator


def _form(handle: Any, folder: Path) -> str:
    name = str(handle.getClass().getSimpleName())
    forms = {
        "KeyGroupsSavepointStateHandle": "savepoint",
        "IncrementalRemoteKeyedStateHandle": "increment",
        "KeyGroupsStateHandle": "hashmap",
    }
    if name not in forms:
        raise RestorePointError(
            f"{folder} was written in a form that cannot be read here ({name}): take a savepoint of format CANONICAL, "
            "as `millrace` does, and read that"
        )
    return forms[name]


def _reader() -> Any:
    """A `ShardLogReader`, compiled as Flink compiles the code that its planner generates."""
    from pyflink.common import Types
    from pyflink.java_gateway import get_gateway

    from flink_jobs.operators import STATE_LOG

    jvm: Any = get_gateway().jvm
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    source = (JVM_SOURCES / f"{_READER}.java").read_text("utf-8")
    reader = jvm.org.apache.flink.table.runtime.generated.CompileUtils.compile(loader, _READER, source)
    settings = jvm.org.apache.flink.api.common.serialization.SerializerConfigImpl()
    # the key is a row of one integer, as PyFlink's own key_by makes it
    keys = Types.ROW([Types.INT()]).get_java_type_info().createSerializer(settings)
    return reader.getConstructors()[0].newInstance(object_array(keys, _PREFIX + STATE_LOG))


def _entries(reader: Any, handle: Any) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each entry that a subtask wrote."""
    with tempfile.TemporaryDirectory(prefix="millrace-state-") as folder:
        files, copied = Path(folder) / "files", Path(folder) / "entries"
        files.mkdir()
        reader.copy(handle, str(files), str(copied))
        content, at = copied.read_bytes(), 0
    while at < len(content):
        key, at = _piece(content, at)
        value, at = _piece(content, at)
        yield key, value


def _piece(content: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(content, at)
    begin = at + _LENGTH.size
    return content[begin : begin + length], begin + length


def _put(logs: dict[int, Log], key: bytes, value: bytes, folder: Path) -> None:
    if len(key) == _KEY.size and len(value) >= _VALUE.size:
        _, nulls, shard, namespace, octets, number = _KEY.unpack(key)
        is_null, in_java, in_python = _VALUE.unpack_from(value)
        entry = value[_VALUE.size :]
        if (nulls, namespace, octets, is_null) == (0, 0, 8, False) and in_java - 4 == in_python == len(entry):
            if number != READ_TO:
                logs.setdefault(shard, []).append((number, entry))
            return
    raise RestorePointError(f"{folder}: an entry of the shards' state has bytes that Millrace does not write")


def _broken(folder: Path, error: Any) -> str:
    cause = java_cause(error)
    if cause.startswith(("FileNotFoundException", "NoSuchFileException")):
        return (
            f"{folder}: a file that it needs is gone ({cause}): a running job removes its older checkpoints, and an "
            "incremental one cannot be copied elsewhere; read the newest one, or a savepoint"
        )
    return f"{folder} cannot be read: {cause}"
