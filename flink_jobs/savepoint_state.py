"""Each shard's log as a checkpoint or savepoint holds it, read without running the job.

    form               written by                               read with
    savepoint          any backend, CANONICAL                   Flink's restore of full snapshots
    increment          checkpoints of RocksDB                   the files put together and opened read-only
    hashmap            checkpoints of the hashmap backend       Flink's own backend, restored from it

Each subtask has written a range of key groups, so any parallelism reads alike. What Python keeps is opaque bytes to
Java, under a name of PyFlink's: the state's with a prefix. Needs Flink's JVM in this process.
"""

import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flink_jobs.restore_points import RestorePointError, found_folder, java_cause, load_metadata
from flink_jobs.scoring_job import SCORE_UID

_PREFIX = "python-state-"
_KEY = struct.Struct(">BBiBiq")
"""An entry's key: key group; the shard key as a row of one integer (a byte of nulls, the integer); no namespace; the
length and bytes of the number, as PyFlink's coder of LONG has it."""
_VALUE = struct.Struct(">?ii")
"""Before an entry's bytes: whether it is null; its length as Java's array, and as PyFlink's coder of bytes has it."""
_JAVA_BYTES = struct.Struct(">i")
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
    logs: dict[int, Log] = {}
    forms = {_form(handle, folder) for handle in handles}
    try:
        for handle in handles:
            for key, value in _READERS[_form(handle, folder)](handle):
                _put(logs, key, value, folder)
    except Py4JJavaError as error:
        raise RestorePointError(_broken(folder, error)) from error
    for log in logs.values():
        log.sort(key=lambda entry: entry[0])
    written_ms = (folder / "_metadata").stat().st_mtime_ns // 1_000_000
    return KeptState(
        dict(sorted(logs.items())), int(metadata.getCheckpointId()), written_ms, int(operator.getParallelism()),
        ", ".join(sorted(forms)) or "empty",
    )  # fmt: skip


def _score_operator(metadata: Any, folder: Path) -> Any:
    operators = metadata.getOperatorStates().toArray()
    uids = [str(operator.getOperatorUid().orElse("")) for operator in operators]
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


def _savepoint_entries(handle: Any) -> Iterator[tuple[bytes, bytes]]:
    """By the procedure that every state backend restores a savepoint with."""
    jvm = _jvm()
    serializers = jvm.org.apache.flink.runtime.state.StateSerializerProvider
    restore = jvm.org.apache.flink.runtime.state.restore.FullSnapshotRestoreOperation(
        handle.getKeyGroupRange(), _loader(), _list_of(handle), serializers.fromNewRegisteredSerializer(_key_type())
    ).restore()
    while restore.hasNext():
        result = restore.next()
        states = result.getStateMetaInfoSnapshots()
        names = [str(states.get(place).getName()) for place in range(states.size())]
        wanted = names.index(_state_name()) if _state_name() in names else -1
        groups = result.getRestoredKeyGroups()
        while groups.hasNext():
            entries = groups.next().getKeyGroupEntries()
            while entries.hasNext():
                entry = entries.next()
                if entry.getKvStateId() == wanted:
                    yield bytes(entry.getKey()), bytes(entry.getValue())
        groups.close()


def _increment_entries(handle: Any) -> Iterator[tuple[bytes, bytes]]:
    """From the files of a RocksDB, as they lie about in a checkpoint, put where RocksDB expects them."""
    jvm = _jvm()
    rocks = jvm.org.rocksdb
    rocks.RocksDB.loadLibrary()
    with tempfile.TemporaryDirectory(prefix="millrace-state-") as folder:
        for file in [*handle.getSharedState(), *handle.getPrivateState()]:
            _copy(file.getHandle(), Path(folder) / str(file.getLocalPath()))
        options = rocks.Options()
        names = [bytes(name) for name in rocks.RocksDB.listColumnFamilies(options, folder)]
        descriptors, opened = jvm.java.util.ArrayList(), jvm.java.util.ArrayList()
        for name in names:
            descriptors.add(rocks.ColumnFamilyDescriptor(name))
        database = rocks.RocksDB.openReadOnly(folder, descriptors, opened)
        try:
            if _state_name().encode() in names:
                groups = handle.getKeyGroupRange()
                family = opened.get(names.index(_state_name().encode()))
                yield from _in_range(database.newIterator(family), groups.getStartKeyGroup(), groups.getEndKeyGroup())
        finally:
            for family in opened:
                family.close()
            database.close()
            options.close()


def _in_range(iterator: Any, first: int, last: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of key groups first..last: files taken over from another parallelism hold others, too."""
    try:
        iterator.seek(bytes([first]))
        while iterator.isValid():
            key = bytes(iterator.key())
            if key[0] > last:
                break
            yield key, bytes(iterator.value())
            iterator.next()
        iterator.status()
    finally:
        iterator.close()


def _hashmap_entries(handle: Any) -> Iterator[tuple[bytes, bytes]]:
    """By the backend itself; its entries are put into the form that the others have."""
    jvm = _jvm()
    state, runtime = jvm.org.apache.flink.api.common.state, jvm.org.apache.flink.runtime.state
    backend = _hashmap_backend(handle)
    try:
        utils, base = jvm.org.apache.flink.streaming.api.utils, jvm.org.apache.flink.api.common.typeutils.base
        descriptor = state.MapStateDescriptor(
            _state_name(), utils.ByteArrayWrapperSerializer.INSTANCE, base.array.BytePrimitiveArraySerializer.INSTANCE
        )
        nothing = runtime.VoidNamespace.INSTANCE
        rows = list(backend.getKeys(_state_name(), nothing).toArray())
        for row in rows:
            backend.setCurrentKey(row)
            kept = backend.getPartitionedState(nothing, runtime.VoidNamespaceSerializer.INSTANCE, descriptor)
            for entry in kept.entries():
                number, value = entry.getKey(), bytes(entry.getValue())
                octets = bytes(number.getData())[number.getOffset() : number.getLimit()]
                (written,) = struct.unpack(">q", octets)
                key = _KEY.pack(0, 0, int(row.getField(0)), 0, len(octets), written)
                yield key, b"\0" + _JAVA_BYTES.pack(len(value)) + value
    finally:
        backend.dispose()


def _hashmap_backend(handle: Any) -> Any:
    jvm = _jvm()
    state, closeables = jvm.org.apache.flink.runtime.state, jvm.org.apache.flink.core.fs.CloseableRegistry
    groups = handle.getKeyGroupRange()
    queues = state.heap.HeapPriorityQueueSetFactory(groups, _KEY_GROUPS_OF_A_BYTE, 128)
    compressed = state.UncompressedStreamCompressionDecorator.INSTANCE  # what is read says whether it is
    return state.heap.HeapKeyedStateBackendBuilder(
        None, _key_type(), _loader(), _KEY_GROUPS_OF_A_BYTE, groups, jvm.org.apache.flink.api.common.ExecutionConfig(),
        state.ttl.TtlTimeProvider.DEFAULT, state.metrics.LatencyTrackingStateConfig.disabled(),
        state.metrics.SizeTrackingStateConfig.newBuilder().setEnabled(False).setMetricGroup(None).build(),
        _list_of(handle), compressed, state.LocalRecoveryConfig.BACKUP_AND_RECOVERY_DISABLED, queues, False,
        closeables(),
    ).build()  # fmt: skip


_READERS = {"savepoint": _savepoint_entries, "increment": _increment_entries, "hashmap": _hashmap_entries}


def _put(logs: dict[int, Log], key: bytes, value: bytes, folder: Path) -> None:
    if len(key) == _KEY.size and len(value) >= _VALUE.size:
        _, nulls, shard, namespace, octets, number = _KEY.unpack(key)
        is_null, in_java, in_python = _VALUE.unpack_from(value)
        entry = value[_VALUE.size :]
        if (nulls, namespace, octets, is_null) == (0, 0, 8, False) and in_java - 4 == in_python == len(entry):
            logs.setdefault(shard, []).append((number, entry))
            return
    raise RestorePointError(f"{folder}: an entry of the shards' state has bytes that Millrace does not write")


def _copy(handle: Any, target: Path) -> None:
    from pyflink.java_gateway import get_gateway

    gateway: Any = get_gateway()
    jvm = gateway.jvm
    stream = handle.openInputStream()
    try:
        path, options = jvm.java.io.File(str(target)).toPath(), gateway.new_array(jvm.java.nio.file.CopyOption, 0)
        jvm.java.nio.file.Files.copy(stream, path, options)
    finally:
        stream.close()


def _broken(folder: Path, error: Any) -> str:
    cause = java_cause(error)
    if cause.startswith(("FileNotFoundException", "NoSuchFileException")):
        return (
            f"{folder}: a file that it needs is gone ({cause}): a running job removes its older checkpoints, and an "
            "incremental one cannot be copied elsewhere; read the newest one, or a savepoint"
        )
    return f"{folder} cannot be read: {cause}"


def _key_type() -> Any:
    """The serializer of shard keys: PyFlink's rows of one integer."""
    from pyflink.common import Types

    jvm = _jvm()
    row = Types.ROW([Types.INT()]).get_java_type_info()
    return row.createSerializer(jvm.org.apache.flink.api.common.serialization.SerializerConfigImpl())


def _list_of(handle: Any) -> Any:
    return _jvm().java.util.Collections.singletonList(handle)


def _loader() -> Any:
    return _jvm().java.lang.Thread.currentThread().getContextClassLoader()


def _jvm() -> Any:
    from pyflink.java_gateway import get_gateway

    return get_gateway().jvm


def _state_name() -> str:
    from flink_jobs.operators import STATE_LOG

    return _PREFIX + STATE_LOG
