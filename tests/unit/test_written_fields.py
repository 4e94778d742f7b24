"""What schemas of all kinds say of their fields, what an event class can read of it, and the classes made of them."""

import io
import json
import types
from typing import Any, Literal

import fastavro
import pytest

from tests.unit_schemas import ADDRESS, AVRO, JSON, PROTO
from udfs.event_class_text import Roles, event_class_text
from udfs.events import Events
from udfs.pipeline import Avro, Count, JsonSchema, Model, Pipeline, Protobuf
from udfs.proto_text import compile_proto, messages_of
from udfs.registered_schema import RegisteredSchema
from udfs.schema_reading import Difference, differences, reading_problems
from udfs.subjects import events_subject, predictions_subject
from udfs.wire_formats import EventDecoder
from udfs.written_fields import SchemaTextError, written_record
