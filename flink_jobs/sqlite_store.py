"""The latest features of each entity in a file of SQLite, for one machine and without a server.

Values are in the table that Feast's SQLite store reads, a row a feature; when an entity's newest event was, and how
long its rows are kept, is in a table of our own.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flink_jobs.feature_store import FeatureRow, StoredFeatures, StoreRefusedError, StoreUnavailableError
from udfs.feast_layout import VALUE_BYTES, FeastLayout, read_value

LOCK_WAIT_S = 5.0
SWEEP_MS = 60_000
SWEEP_ROWS = 10_000
_LATER = (
    sqlite3.OperationalError,  # locked, disk full, file gone
    sqlite3.InternalError,
)


class SqliteStore:
    """A store in one file; several processes may write and read it.

    Args:
        path: Of the file; made with its folder if it is not there.
        layout: Of the features.
        keep_ms: How long rows are kept; None is for ever.
    """

    def __init__(self, path: Path, layout: FeastLayout, keep_ms: int | None) -> None:
        self._path, self._layout, self._keep_ms, self._swept_ms = path, layout, keep_ms, 0
        # names of pipelines are lower-case letters, digits and '_' here
        self._values, self._newest = f'"{layout.table}"', f'"millrace_{layout.view}"'
        self._places = f'"millrace_{layout.view}_places"'
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None)
            self._write_ahead()
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._make_tables()
        value = f"substr(?2, begin, {VALUE_BYTES})"
        self._put_values = (
            f"INSERT INTO {self._values} (entity_key, feature_name, value, event_ts) "  # noqa: S608  # names of our own
            f"SELECT ?1, feature_name, CASE substr(?2, begin, 1) WHEN x'00' THEN x'' ELSE {value} END, ?3 "
            f"FROM {self._places} WHERE true "
            "ON CONFLICT DO UPDATE SET value = excluded.value, event_ts = excluded.event_ts"
        )
        self._put_newest = (
            f"INSERT INTO {self._newest} (entity_key, event_ms, event_offset, expires_ms) VALUES (?, ?, ?, ?) "  # noqa: S608
            "ON CONFLICT DO UPDATE SET event_ms = excluded.event_ms, event_offset = excluded.event_offset, "
            "expires_ms = excluded.expires_ms "
            "WHERE (excluded.event_ms, excluded.event_offset) >= (event_ms, event_offset)"
        )

    def _write_ahead(self) -> None:
        """SQLite does not wait by itself where two open a new file at once: either would wait for the other."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _make_tables(self) -> None:
        self._connection.executescript(
            # as Feast makes it, so that `feast apply` finds nothing to change
            f"CREATE TABLE IF NOT EXISTS {self._values} (entity_key BLOB, feature_name TEXT, value BLOB, "
            "value_text TEXT, vector_value BLOB, event_ts timestamp, created_ts timestamp, "
            "PRIMARY KEY(entity_key, feature_name)) WITHOUT ROWID;"
            f"CREATE TABLE IF NOT EXISTS {self._newest} (entity_key BLOB PRIMARY KEY, event_ms INTEGER NOT NULL, "
            "event_offset INTEGER NOT NULL, expires_ms INTEGER) WITHOUT ROWID;"
            f"CREATE TABLE IF NOT EXISTS millrace_filled (topic TEXT, number INTEGER, PRIMARY KEY(topic, number));"
            f"CREATE TEMPORARY TABLE {self._places} (feature_name TEXT PRIMARY KEY, begin INTEGER) WITHOUT ROWID;"
        )
        places = [(name, 1 + place * VALUE_BYTES) for place, name in enumerate(self._layout.features)]
        self._connection.executemany(f"INSERT INTO temp.{self._places} VALUES (?, ?)", places)  # noqa: S608

    def write(self, rows: Sequence[FeatureRow], now_ms: int) -> int:
        """In one transaction; see `FeatureStore.write`."""
        expires_ms = None if self._keep_ms is None else now_ms + self._keep_ms
        with self._transaction():
            execute = self._connection.execute
            newer = [
                (row.key, row.values, row.event_ms // 1_000)
                for row in sorted(rows)
                if execute(self._put_newest, (row.key, row.event_ms, row.offset, expires_ms)).rowcount
            ]
            self._connection.executemany(self._put_values, newer)
            if self._keep_ms is not None and now_ms - self._swept_ms >= SWEEP_MS:
                self._sweep(now_ms)
        return len(newer)

    def _sweep(self, now_ms: int) -> None:
        """Remove rows that are no longer kept."""
        old = f"SELECT entity_key FROM {self._newest} WHERE expires_ms <= ? LIMIT {SWEEP_ROWS}"  # noqa: S608
        keys = self._connection.execute(old, (now_ms,)).fetchall()
        for table in (self._values, self._newest):
            self._connection.executemany(f"DELETE FROM {table} WHERE entity_key = ?", keys)  # noqa: S608
        if len(keys) < SWEEP_ROWS:
            self._swept_ms = now_ms

    def read(self, entities: Sequence[str], now_ms: int) -> list[StoredFeatures | None]:
        """See `FeatureStore.read`."""
        with self._explained():
            self._connection.execute("BEGIN")  # both tables as of one moment
            try:
                return [self._read(self._layout.entity_key(entity), now_ms) for entity in entities]
            finally:
                self._connection.execute("COMMIT")

    def _read(self, key: bytes, now_ms: int) -> StoredFeatures | None:
        newest = f"SELECT event_ms, event_offset, expires_ms FROM {self._newest} WHERE entity_key = ?"  # noqa: S608
        found = self._connection.execute(newest, (key,)).fetchone()
        if found is None or (found[2] is not None and found[2] <= now_ms):
            return None
        values = f"SELECT feature_name, value FROM {self._values} WHERE entity_key = ?"  # noqa: S608
        known = dict(self._connection.execute(values, (key,)).fetchall())
        return StoredFeatures(found[0], found[1], {name: read_value(known.get(name)) for name in self._layout.features})

    def filled_partitions(self, topic: str) -> set[int]:
        """See `FeatureStore.filled_partitions`."""
        with self._explained():
            found = self._connection.execute("SELECT number FROM millrace_filled WHERE topic = ?", (topic,)).fetchall()
        return {number for (number,) in found}

    def note_filled(self, topic: str, partitions: Sequence[int]) -> None:
        """See `FeatureStore.note_filled`."""
        with self._transaction():
            rows = [(topic, number) for number in partitions]
            self._connection.executemany("INSERT OR IGNORE INTO millrace_filled VALUES (?, ?)", rows)

    def close(self) -> None:
        """See `FeatureStore.close`."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _LATER as error:
            raise StoreUnavailableError(f"{self._path}: {error}") from error
        except (sqlite3.Error, OSError) as error:
            raise StoreRefusedError(f"{self._path}: {error}") from error
