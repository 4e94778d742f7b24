"""What is fuzzed: each takes any bytes, and fails if a decoder raises, or if two ways to read the same disagree."""

import contextlib

from click_events import FIELDS, PROTO, Registry, avro, clicks, decoded
from shop_sources import shop_pipeline
from test_event_blocks import VISITS, assert_same

from udfs.errors import StateCorruptError, StateVersionError
from udfs.event_keys import events_key_reader
from udfs.formats import Avro, Json, JsonSchema, Protobuf
from udfs.raw_record import RawRecord, RecordParts
from udfs.record_reader import RecordReader
from udfs.state_log import decode as decode_state
from udfs.wire_formats import REASONS, EventDecoder, Refused

_AVRO = EventDecoder(clicks(format=Avro()), Registry(avro(*FIELDS)))
_PROTOBUF = EventDecoder(clicks(format=Protobuf()), Registry(PROTO))
_JSON_SCHEMA = EventDecoder(clicks(format=JsonSchema()), Registry())
_KEY_READERS = [events_key_reader(clicks(key_format=form).events) for form in (Json(), JsonSchema(), Avro())]
_SHOP = shop_pipeline("shop")
_SOURCES = [RecordReader(_SHOP, source) for source in _SHOP.events.sources]


def json_events(data: bytes) -> None:
    """JSON alone, together, and scanned into columns."""
    assert_same(VISITS, [(b"u", data)])


def json_schema_events(data: bytes) -> None:
    """JSON behind the id of a schema."""
    _check(decoded(_JSON_SCHEMA, data))


def avro_events(data: bytes) -> None:
    """Avro in Confluent's wire format."""
    _check(decoded(_AVRO, data))


def protobuf_events(data: bytes) -> None:
    """Protobuf in Confluent's wire format."""
    _check(decoded(_PROTOBUF, data))


def keys(data: bytes) -> None:
    """Keys in every format."""
    for read in _KEY_READERS:
        found = read(data)
        assert found is None or isinstance(found, str)


def source_records(data: bytes) -> None:
    """Records on their way to the events' topic, changes of a database among them."""
    for reader in _SOURCES:
        found = reader.read(RawRecord(data[:8], data, RecordParts(0, 0, 1)))
        assert not isinstance(found, Refused) or found.reason in REASONS


def state_entries(data: bytes) -> None:
    """Entries of a shard's log."""
    with contextlib.suppress(StateCorruptError, StateVersionError):
        decode_state(data)


def _check(event: object) -> None:
    assert not isinstance(event, Refused) or event.reason in REASONS


TARGETS = {
    each.__name__: each
    for each in (
        json_events, json_schema_events, avro_events, protobuf_events, keys, source_records, state_entries,
    )
}  # fmt: skip
