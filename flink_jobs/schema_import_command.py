"""`millrace schema import`: an event class in Python, from a schema of the registry or of a file."""

import json
from pathlib import Path

from flink_jobs.console import CommandError, next_steps, say
from flink_jobs.schema_registry import SchemaRegistry
from flink_jobs.settings import Settings
from udfs.event_class_text import Roles, event_class_text
from udfs.registered_schema import RegisteredSchema, SchemaKind
from udfs.written_fields import WrittenField, written_record

KINDS: dict[str, SchemaKind] = {".avsc": "AVRO", ".proto": "PROTOBUF", ".json": "JSON"}
CLASSES = {"AVRO": "Avro", "PROTOBUF": "Protobuf", "JSON": "JsonSchema"}
VALUE = "-value"


def run_schema_import_command(
    settings: Settings,
    *,
    subject: str | None,
    file: Path | None,
    version: int | None,
    message: str | None,
    roles: Roles,
    topic: str | None,
    target: Path | None,
    replace: bool,
) -> None:
    """Write the class to a file, or print it."""
    if (subject is None) == (file is None):
        raise CommandError("name either a subject of the registry or a file, like --file payment.avsc")
    if target is not None and target.exists() and not replace:
        raise CommandError(f"{target} exists: --replace overwrites it")
    if file is not None:
        schema, source, format_text = _from_file(file, message)
        topic = topic or file.stem
    else:
        assert subject is not None
        schema, source, format_text = *_from_registry(settings, subject, version), None
        topic = topic or subject.removesuffix(VALUE)
    record = written_record(schema, message)
    text = event_class_text(
        record, schema.kind, topic=topic, source=source, format_text=format_text, roles=roles
    )
    if target is None:
        print(text, end="")
    else:
        target.write_text(text, "utf-8")
        say(f"{target}: an event class of {source}")
    _say_what_is_left(record.fields, text, target)


def _from_file(file: Path, message: str | None) -> tuple[RegisteredSchema, str, str]:
    kind = KINDS.get(file.suffix.lower())
    if kind is None:
        raise CommandError(f"{file} is no {', '.join(KINDS)} file")
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read ({error})") from error
    chosen = f", message={json.dumps(message)}" if message is not None else ""
    format_text = f"{CLASSES[kind]}(schema=Path(__file__).with_name({json.dumps(file.name)}).read_text(){chosen})"
    return RegisteredSchema(0, kind, text), file.name, format_text


def _from_registry(settings: Settings, subject: str, version: int | None) -> tuple[RegisteredSchema, str]:
    registry = SchemaRegistry(settings)
    versions = registry.versions(subject)
    chosen = max(versions) if version is None else version
    if chosen not in versions:
        raise CommandError(f"{subject} has no version {version}; it has {', '.join(map(str, versions))}")
    return versions[chosen], f"subject {subject}, version {chosen}"


def _say_what_is_left(fields: tuple[WrittenField, ...], text: str, target: Path | None) -> None:
    unread = [one.name for one in fields if one.kind is None]
    if unread:
        say(f"not read, for an event's fields are single values: {', '.join(unread)}")
    if "# fill in and uncomment:" in text:
        say("say which fields are the entity, the time and the id: by --entity, --time and --id, or in the file")
    elif target is not None:
        next_steps((f"edit {target}", "add a Pipeline with features and a model"))
