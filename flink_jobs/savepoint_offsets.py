"""Where a job stands in its topic: read from a savepoint's metadata, kept beside it for the next run.

Offsets committed to Kafka lag behind: a stopped source ends before its last commit is sent.
"""

import struct

from flink_jobs.documents import read_document, write_document
from flink_jobs.restore_points import all_bytes, folder_of, load_metadata, operator_handles

_READER_STATE = "SourceReaderState"
_FILE = "offsets.json"


def keep_offsets(savepoint: str, topic: str) -> dict[int, int]:
    """Read the offset of the next record of each partition from a savepoint, and write them beside its metadata."""
    offsets = source_offsets(savepoint, topic)
    write_document(folder_of(savepoint) / _FILE, offsets)
    return offsets


def kept_offsets(restore_point: str) -> dict[int, int] | None:
    """What `keep_offsets` wrote; None for a checkpoint, or where a kill came in between."""
    document = read_document(folder_of(restore_point) / _FILE)
    return None if document is None else {int(partition): offset for partition, offset in document.items()}


def source_offsets(restore_point: str, topic: str | None) -> dict[int, int]:
    """The offset of the next record of each partition of a topic; needs Flink's JVM in this process.

    Args:
        restore_point: Checkpoint or savepoint.
        topic: Which of those that the job reads; None takes any, of jobs that read one.
    """
    found: dict[int, int] = {}
    for handle in operator_handles(load_metadata(restore_point)):
        places = handle.getStateNameToPartitionOffsets().get(_READER_STATE)
        if places is not None:
            content = all_bytes(handle)
            splits = [_split(content, offset) for offset in places.getOffsets()]
            found.update({partition: offset for name, partition, offset in splits if topic in (name, None)})
    return found


def _split(content: bytes, at: int) -> tuple[str, int, int]:
    """A split of the Kafka source as its reader's state holds it.

    Length of the element, version and length of the split; then Java's UTF of the topic, the partition, the next
    offset (`KafkaPartitionSplitSerializer`, version 0).
    """
    _, version, _ = struct.unpack_from(">iii", content, at)
    if version != 0:
        raise ValueError(f"a Kafka source's split has version {version}, and 0 is read")
    at += 12
    (topic_bytes,) = struct.unpack_from(">H", content, at)
    topic = content[at + 2 : at + 2 + topic_bytes].decode()
    partition, offset = struct.unpack_from(">iq", content, at + 2 + topic_bytes)
    return topic, partition, offset
