"""The tables of lookups as they are when a job or a backfill is planned: read from topics and files, kept as files.

    topic to its ends, or file  ->  versions of rows  ->  a file beside the checkpoints, or in the work of a backfill

What is read is fixed there: all workers have the same, also those that start anew.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flink_jobs.decoding import parts_of, schema_source
from flink_jobs.event_files import EventFileError, converted_fields, file_rows
from flink_jobs.kafka_admin import Properties, topic_ends, topic_starts
from flink_jobs.settings import Settings
from flink_jobs.state_files import StateFile
from flink_jobs.topic_scan import scan
from udfs.events import last_time, times_in_ms
from udfs.lookup_entries import EntryCodec, RowVersion, row_type
from udfs.lookup_join import LookupHistory
from udfs.lookup_rows import RowReader
from udfs.lookup_table import ALWAYS_MS, FILE_PARTITION, LookupTable
from udfs.lookups import Lookup, table_topics
from udfs.pipeline import Pipeline
from udfs.raw_record import RawRecord
from udfs.refused import Refused
from udfs.state_file import packed

Ends = Mapping[int, int]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedTables:
    """What a job begins with, or a backfill joins with.

    Attributes:
        files: By lookup: of a topic the entries of its table, for a backfill all versions; of a file its versions.
        ends: By topic and partition, the offset after what was read.
    """

    files: Mapping[str, StateFile]
    ends: Mapping[str, Ends]


def lookup_headers(pipeline: Pipeline) -> dict[str, list[str]]:
    """By topic, the headers that rows are read from."""
    found = dict[str, list[str]]()
    for each in pipeline.lookups:
        if each.topic is not None:
            headers = found.setdefault(each.topic, [])
            headers += [name for name in each.events.headers if name not in headers]
    return found


def plan_tables(pipeline: Pipeline, settings: Settings) -> PlannedTables:
    """Read all tables as they are now.

    Raises:
        KafkaAdminError: Kafka does not let us read.
        EventFileError: A file is no table.
    """
    place = settings.bootstrap, settings.kafka_properties
    ends = _ends_now(pipeline, *place)
    folder = settings.checkpoints / pipeline.name / "lookups"
    files = dict[str, StateFile]()
    for each in pipeline.lookups:
        versions = table_versions(each, *place, {} if each.topic is None else ends[each.topic], settings)
        if each.topic is None:
            entries: Iterator[tuple[int, bytes]] = enumerate(EntryCodec(each).packed(list(versions), None))
        else:
            table = LookupTable(each, each.history_ms(pipeline.lateness_ms))
            table.put(versions)
            entries = table.entries()
        files[each.name] = _written(folder, each.name, entries)
    return PlannedTables(files, ends)


def _ends_now(pipeline: Pipeline, bootstrap: str, properties: Properties | None) -> dict[str, Ends]:
    topics = table_topics(pipeline.lookups)
    return {topic: topic_ends(bootstrap, topic, properties, isolation="read_committed") for topic in topics}


def keep_histories(
    pipeline: Pipeline, folder: Path, bootstrap: str, properties: Properties | None
) -> PlannedTables:
    """All versions that the tables have now, as files; raises as `plan_tables`."""
    ends = _ends_now(pipeline, bootstrap, properties)
    files = dict[str, StateFile]()
    for each in pipeline.lookups:
        versions = list(table_versions(each, bootstrap, properties, {} if each.topic is None else ends[each.topic]))
        files[each.name] = _written(folder, each.name, enumerate(EntryCodec(each).packed(versions)))
    return PlannedTables(files, ends)


def history_of(lookup: Lookup, file: StateFile) -> LookupHistory:
    """The versions in a file of `keep_histories`, or in that of a table from a file.

    Raises:
        StateFileError: It is not the one that was written.
    """
    return LookupHistory(EntryCodec(lookup).all_versions(file.entries()))


def histories_of(pipeline: Pipeline, files: Mapping[str, StateFile]) -> dict[str, LookupHistory]:
    """The tables of `keep_histories`, by name; raises as `history_of`."""
    return {each.name: history_of(each, files[each.name]) for each in pipeline.lookups}


def table_versions(
    lookup: Lookup, bootstrap: str, properties: Properties | None, ends: Ends, settings: Settings | None = None
) -> Iterator[RowVersion]:
    """The versions of a table's rows, of a topic those before its ends; a partition's in the order of offsets."""
    if lookup.file is not None:
        yield from file_versions(lookup, Path(lookup.file))
        return
    topic, refused = str(lookup.topic), Counter[str]()
    reader = RowReader(lookup, schema_source(settings, lookup.format))
    starts = topic_starts(bootstrap, topic, properties)
    for messages in scan(bootstrap, properties, topic, {p: (starts.get(p, 0), end) for p, end in ends.items()}):
        for message in messages:
            key, value = message.key(), message.value()
            record = RawRecord(_bytes(key), _bytes(value), parts_of(message))
            found = reader.read(record)
            if isinstance(found, Refused):
                refused[found.reason] += 1
            else:
                yield found
    if refused:
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items()))
        _log.warning("lookup %s: records of %s that are no rows: %s", lookup.name, topic, told)


def _bytes(content: object) -> bytes | None:
    return None if content is None else bytes(content)  # type: ignore[call-overload]


def file_versions(lookup: Lookup, path: Path) -> Iterator[RowVersion]:
    """The rows of a file.

    Raises:
        EventFileError: It is not there, or a row of it is none; says which and why.
    """
    made, seen = row_type(lookup), set[str]()
    for number, row in enumerate(file_rows(path, lookup.schema), 1):
        where = f"lookup {lookup.name}: row {number} of {path.name}"
        if isinstance(row, bytes):
            raise EventFileError(f"{where} is no JSON object")
        fields, _ = converted_fields(row, lookup.schema, lookup.time, lookup.time_unit)
        values = []
        for one in lookup.schema:
            value = fields.get(one.name, one.default)
            if not lookup.takes(one, value):
                shown = "missing" if value is None else repr(value)[:80]
                raise EventFileError(f"{where}: {one.name} is {shown}")
            values.append(np.array(value, np.float64) if one.size is not None and value is not None else value)
        kept = made(*values)
        key, time_ms = str(getattr(kept, lookup.key)), ALWAYS_MS
        if lookup.time is None:
            if key in seen:
                raise EventFileError(f"{where}: {lookup.key} {key!r:.80} was there before")
            seen.add(key)
        else:
            time = getattr(kept, lookup.time)
            if not 0 <= time <= last_time(lookup.time_unit):
                raise EventFileError(f"{where}: {lookup.time} is {time!r:.80}, which is no time in {lookup.time_unit}")
            (time_ms,) = times_in_ms([time], lookup.time_unit).tolist()
        yield RowVersion(key, time_ms, FILE_PARTITION, number, kept)


def _written(folder: Path, name: str, entries: Iterator[tuple[int, bytes]]) -> StateFile:
    folder.mkdir(parents=True, exist_ok=True)
    unfinished, digest = folder / f"{name}.unfinished", hashlib.sha256()
    with unfinished.open("wb") as file:
        for part in packed(entries):
            digest.update(part)
            file.write(part)
    sha256 = digest.hexdigest()
    path = folder / f"{name}-{sha256[:16]}.table"
    unfinished.replace(path)
    return StateFile(path.absolute(), sha256)
