"""Confluent's wire format: a zero byte, the schema's id, for Protobuf the way to the message in its file, the payload.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

import struct

from udfs.refused import Refused
from udfs.registered_schema import RegisteredSchema, SchemaSource, SchemaUnknownError

HEAD_BYTES = 5
_HEAD = struct.Struct(">bI")
_MOST_INDEXES = 100


def head_of(schema_id: int) -> bytes:
    """The first five bytes of a record."""
    return _HEAD.pack(0, schema_id)


def schema_id_of(head: bytes) -> int | Refused:
    """The id in the first bytes of a record."""
    if len(head) < HEAD_BYTES:
        return Refused("wrong_framing", f"{len(head)} bytes; a schema's id alone takes {HEAD_BYTES}")
    magic, schema_id = _HEAD.unpack_from(head)
    if magic != 0:
        return Refused("wrong_framing", f"the first byte is {head[0]}; a record that names its schema begins with 0")
    return int(schema_id)


def schema_named_by(head: bytes, schemas: SchemaSource) -> RegisteredSchema | Refused:
    """The schema that a record names in its first bytes, or why there is none.

    Raises:
        RegistryUnreachableError: Nothing is known of it until the registry answers.
    """
    schema_id = schema_id_of(head)
    if isinstance(schema_id, Refused):
        return schema_id
    try:
        return schemas(schema_id)
    except SchemaUnknownError as error:
        return Refused("unknown_schema", str(error) or f"the registry has no schema {schema_id}")


def varint(bits: int) -> bytes:
    """A number that is not negative, seven bits a byte, the lowest first, in as few bytes as it takes."""
    octets = bytearray()
    while bits > 0x7F:
        octets.append(bits & 0x7F | 0x80)
        bits >>= 7
    octets.append(bits)
    return bytes(octets)


def zigzag(number: int) -> bytes:
    """A 64-bit whole number as Avro and message indexes have it."""
    return varint((number << 1) ^ (number >> 63))


def read_zigzag(data: bytes, at: int) -> tuple[int, int]:
    """A 64-bit whole number and the place after it.

    Raises:
        ValueError: There is none.
    """
    left, shift = 0, 0
    while at < len(data) and shift < 70:
        octet = data[at]
        at += 1
        left |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            return (left >> 1) ^ -(left & 1), at
    raise ValueError("a number does not end")


def message_indexes(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """The places of a message in its file, from the outermost one on, and where the message begins.

    Raises:
        ValueError: There are none.
    """
    count, at = read_zigzag(data, at)
    if count == 0:  # short for the first message
        return (0,), at
    if not 0 < count <= _MOST_INDEXES:
        raise ValueError(f"{count} message indexes")
    indexes = []
    for _ in range(count):
        index, at = read_zigzag(data, at)
        indexes.append(index)
    return tuple(indexes), at
