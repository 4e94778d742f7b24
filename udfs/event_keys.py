"""Kafka keys to entities. A key is the entity and nothing else, so that one entity has one key.

The JVM finds an entity's shard by the same text (`flink_jobs/jvm/SubtaskBatches.java`): a key that names its schema
changes its bytes with the schema, and the entity must not change its shard with it. An Avro record of one field has the
bytes of the field, so no schema is needed to read a key.
"""

from collections.abc import Callable
from functools import partial

import msgspec

from udfs.confluent_wire import HEAD_BYTES, read_zigzag, zigzag
from udfs.events import Events
from udfs.formats import Avro, Json, JsonSchema, KeyFormat, Text

KeyReader = Callable[[bytes], str | None]
"""Key -> the entity as text; None if it is no key of this form."""


def events_key_reader(events: Events) -> KeyReader | None:
    """Reads the keys of a pipeline's events; None for keys that are the entity's text."""
    return key_reader(events.key_format, is_whole=events.field(events.entity, "Events: entity").kind == "int")


def key_reader(key_format: KeyFormat, *, is_whole: bool) -> KeyReader | None:
    """Reads keys as text; None for keys that are text.

    Args:
        key_format: How they are written.
        is_whole: Whether what they hold is a whole number.
    """
    form, head = _form_of(key_format, is_whole=is_whole)
    readers = (None, _of_json, _of_avro_string, _of_avro_long)
    read = readers[form]
    return None if read is None else partial(read, head)


def key_of(events: Events, entity: str, *, schema_id: int = 0) -> bytes:
    """The key of an entity, as a producer writes it.

    Args:
        events: Say the form.
        entity: The entity as text.
        schema_id: Of the key's schema, where keys name one.
    """
    form = events.key_format
    if isinstance(form, Text):
        return entity.encode()
    whole = events.field(events.entity, "Events: entity").kind == "int"
    head = b"" if isinstance(form, Json) or not form.framed else b"\0" + schema_id.to_bytes(4, "big")
    if isinstance(form, Avro):
        text = entity.encode()
        return head + (zigzag(int(entity)) if whole else zigzag(len(text)) + text)
    assert isinstance(form, Json | JsonSchema)
    return head + msgspec.json.encode(int(entity) if whole else entity)


def key_form(events: Events) -> tuple[int, int]:
    """How the JVM reads keys: 0 text, 1 JSON, 2 an Avro string, 3 an Avro long; and how many bytes come before."""
    return _form_of(events.key_format, is_whole=events.field(events.entity, "Events: entity").kind == "int")


def _form_of(form: KeyFormat, *, is_whole: bool) -> tuple[int, int]:
    if isinstance(form, Text):
        return 0, 0
    head = HEAD_BYTES if not isinstance(form, Json) and form.framed else 0
    if not isinstance(form, Avro):
        return 1, head
    return 3 if is_whole else 2, head


def shard_text(events: Events, key: bytes) -> str:
    """What says the shard of a record: the entity, or the bytes of a key that holds none."""
    read = events_key_reader(events)
    found = None if read is None else read(key)
    return key.decode("utf-8", "surrogateescape") if found is None else found


def _has_head(head: int, key: bytes) -> bool:
    return head == 0 or (len(key) >= head and key[0] == 0)


def _of_avro_string(head: int, key: bytes) -> str | None:
    if not _has_head(head, key):
        return None
    try:
        length, at = read_zigzag(key, head)
        return key[at:].decode() if length == len(key) - at else None
    except ValueError:  # not UTF-8 either
        return None


def _of_avro_long(head: int, key: bytes) -> str | None:
    if not _has_head(head, key):
        return None
    try:
        number, at = read_zigzag(key, head)
    except ValueError:
        return None
    return str(number) if at == len(key) and -(2**63) <= number < 2**63 else None


def _of_json(head: int, key: bytes) -> str | None:
    if not _has_head(head, key):
        return None
    try:
        value: object = msgspec.json.decode(key[head:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
