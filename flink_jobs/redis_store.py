"""The latest features of each entity in Redis: a hash an entity, as Feast's Redis store reads it.

Whether a row is newer than what is there is decided in Redis, by a script: no other writer can come between.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
from redis import exceptions

from flink_jobs.feature_store import FeatureRow, StoredFeatures, StoreRefusedError, StoreUnavailableError
from flink_jobs.settings import Settings
from flink_jobs.tls_files import read_secret
from udfs.feast_layout import VALUE_BYTES, FeastLayout, read_value, timestamp_bytes

ANSWER_WAIT_S = 5.0
ENTITIES_A_CALL = 250
_NOT_LET_IN = exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError
_LATER = exceptions.OutOfMemoryError, exceptions.ReadOnlyError, exceptions.MasterDownError
_LATER_WORDS = re.compile(r"\b(MISCONF|NOREPLICAS)\b")  # a full disk; no replica to take it: errors without a class
_SCRIPT = """
local time_field, order_field, names, keep = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local at, written = 5, 0
for _, key in ipairs(KEYS) do
    local time, offset, stamp, values = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
    local known, is_newer = redis.call('HGET', key, order_field), true
    if known then
        local known_time, known_offset = string.match(known, '^(%-?%d+) (%d+)$')
        known_time, known_offset = tonumber(known_time), tonumber(known_offset)
        is_newer = time > known_time or (time == known_time and offset >= known_offset)
    end
    if is_newer then
        local row = {time_field, stamp, order_field, ARGV[at] .. ' ' .. ARGV[at + 1]}
        for feature = 0, #names / 4 - 1 do
            local value = string.sub(values, feature * SIZE + 1, feature * SIZE + SIZE)
            row[#row + 1] = string.sub(names, feature * 4 + 1, feature * 4 + 4)
            row[#row + 1] = string.byte(value) == 0 and '' or value
        end
        redis.call('HSET', key, unpack(row))
        if keep > 0 then
            redis.call('PEXPIRE', key, keep)
        end
        written = written + 1
    end
    at = at + 4
end
return written
""".replace("SIZE", str(VALUE_BYTES))


class RedisStore:
    """A store in one Redis server and its replicas; no cluster, for a script's keys must be together.

    Args:
        url: redis://[USER@]HOST[:PORT][/DATABASE], or rediss:// for TLS.
        layout: Of the features.
        keep_ms: How long rows are kept; None is for ever.
        settings: Say the password's file, and who may sign the server's certificate.
    """

    def __init__(self, url: str, layout: FeastLayout, keep_ms: int | None, settings: Settings) -> None:
        self._layout, self._keep_ms = layout, keep_ms or 0
        self._names, self._project = b"".join(layout.feature_fields), layout.project.encode()
        self._order_field = f"_millrace:{layout.view}"
        parts = urlsplit(url)
        self._address = f"{parts.hostname}:{parts.port or 6379}"
        self._client = redis.Redis(**_options(url, settings))
        with self._explained():
            self._script = str(self._client.script_load(_SCRIPT))

    def write(self, rows: Sequence[FeatureRow], now_ms: int) -> int:
        """See `FeatureStore.write`."""
        del now_ms  # Redis has a clock of its own
        with self._explained():
            try:
                return self._write(rows)
            except exceptions.NoScriptError:  # a server that has started anew
                self._client.script_load(_SCRIPT)
                return self._write(rows)

    def _write(self, rows: Sequence[FeatureRow]) -> int:
        """All calls in one round trip, each short enough not to hold up those who read."""
        calls = self._client.pipeline(transaction=False)
        for begin in range(0, len(rows), ENTITIES_A_CALL):
            some = rows[begin : begin + ENTITIES_A_CALL]
            arguments: list[Any] = [row.key + self._project for row in some]
            arguments += [self._layout.time_field, self._order_field, self._names, self._keep_ms]
            for row in some:
                arguments += [row.event_ms, row.offset, timestamp_bytes(row.event_ms), row.values]
            calls.evalsha(self._script, len(some), *arguments)
        return sum(map(int, calls.execute()))

    def read(self, entities: Sequence[str], now_ms: int) -> list[StoredFeatures | None]:
        """See `FeatureStore.read`."""
        del now_ms
        fields: Any = [self._order_field, *self._layout.feature_fields]  # bytes will do as well as texts
        with self._explained():
            pipeline = self._client.pipeline(transaction=False)
            for entity in entities:
                key: Any = self._layout.entity_key(entity) + self._project
                pipeline.hmget(key, fields)
            return [self._stored(row) for row in pipeline.execute()]

    def _stored(self, row: Sequence[bytes | None]) -> StoredFeatures | None:
        if row[0] is None:
            return None
        event_ms, offset = map(int, row[0].split())
        return StoredFeatures(event_ms, offset, dict(zip(self._layout.features, map(read_value, row[1:]), strict=True)))

    def filled_partitions(self, topic: str) -> set[int]:
        """See `FeatureStore.filled_partitions`."""
        with self._explained():
            found: Any = self._client.smembers(self._filled(topic))
        return {int(number) for number in found}

    def note_filled(self, topic: str, partitions: Sequence[int]) -> None:
        """See `FeatureStore.note_filled`."""
        with self._explained():
            self._client.sadd(self._filled(topic), *partitions)

    def close(self) -> None:
        """See `FeatureStore.close`."""
        self._client.close()

    def _filled(self, topic: str) -> str:
        return f"millrace:{self._layout.project}:{topic}:filled"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _NOT_LET_IN as error:
            raise StoreRefusedError(
                f"Redis at {self._address} does not let us in ({error}): the URL says the user, and "
                "feature_store_password_file the password"
            ) from error
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            raise StoreUnavailableError(f"Redis at {self._address} does not answer: {error}") from error
        except exceptions.RedisError as error:
            if isinstance(error, _LATER) or _LATER_WORDS.search(str(error)):
                raise StoreUnavailableError(f"Redis at {self._address} takes nothing now: {error}") from error
            raise StoreRefusedError(f"Redis at {self._address} refuses it: {error}") from error


def _options(url: str, settings: Settings) -> dict[str, Any]:
    parts = urlsplit(url)
    database = parts.path.strip("/")
    if not parts.hostname or not (database.isdigit() or not database):
        raise StoreRefusedError("the store's URL is none: write redis://HOST:PORT/DATABASE, like redis://127.0.0.1:6379/0")
    if parts.password:
        raise StoreRefusedError("the store's URL holds a password: write it to a file, feature_store_password_file")
    options: dict[str, Any] = {
        "host": parts.hostname,
        "port": parts.port or 6379,
        "db": int(database or 0),
        "username": parts.username,
        "password": read_secret(settings.feature_store_password_file, "feature_store_password_file"),
        "socket_timeout": ANSWER_WAIT_S,
        "socket_connect_timeout": ANSWER_WAIT_S,
    }
    if parts.scheme == "rediss":
        files = {"ca_certs": settings.tls_ca_file, "certfile": settings.tls_certificate_file}
        files["keyfile"] = settings.tls_key_file
        key_password = read_secret(settings.tls_key_password_file, "tls_key_password_file")
        options |= {"ssl": True, "ssl_password": None if key_password is None else key_password.decode()}
        options |= {f"ssl_{name}": None if file is None else str(file) for name, file in files.items()}
    return options
