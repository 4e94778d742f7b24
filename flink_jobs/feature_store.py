"""Online stores: the latest features of each entity, in the layout in which Feast reads them.

Whatever comes again or out of order, an entity's row is that of its newest event, by event time and then by offset.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from flink_jobs.console import CommandError
from flink_jobs.settings import Settings
from udfs.feast_layout import FeastLayout
from udfs.pipeline import Pipeline

SQLITE, REDIS = ("sqlite",), ("redis", "rediss")
LEAST_TTL_MS = 1_000


class StoreUnavailableError(RuntimeError):
    """The store does not answer, or cannot take anything now: try again later, nothing is lost."""


class StoreRefusedError(RuntimeError):
    """The store will never take this as it is; one line says why."""


class FeatureRow(NamedTuple):
    """The features of an entity as of an event.

    Attributes:
        key: Whose, from `FeastLayout.entity_key`.
        event_ms: Time of the event.
        offset: Of the event, in its topic.
        values: From `FeastLayout.packed`.
    """

    key: bytes
    event_ms: int
    offset: int
    values: bytes


class StoredFeatures(NamedTuple):
    """What a store has of an entity: when its newest event was, that event's offset, and features by name."""

    event_ms: int
    offset: int
    values: dict[str, float | None]


class FeatureStore(Protocol):
    """Where the latest features are. All methods raise `StoreUnavailableError` and `StoreRefusedError`."""

    def write(self, rows: Sequence[FeatureRow], now_ms: int) -> int:
        """Put rows of different entities where they are not older than what is there; how many were put.

        All or, if it fails, as many as it came to: writing them again does no harm.
        """

    def read(self, entities: Sequence[str], now_ms: int) -> list[StoredFeatures | None]:
        """What is known of entities; None of those without features."""

    def filled_partitions(self, topic: str) -> set[int]:
        """Partitions of a topic of features of which this store has what was committed; none of an empty store."""

    def note_filled(self, topic: str, partitions: Sequence[int]) -> None:
        """Remember that it has."""

    def close(self) -> None:
        """End the connection."""


def store_url(pipeline: Pipeline, settings: Settings) -> str:
    """Where a pipeline's features are kept: the setting, or else a file of SQLite in the home folder."""
    return settings.feature_store or f"sqlite:///{settings.home / 'features' / f'{pipeline.name}.sqlite'}"


def ttl_ms(pipeline: Pipeline, asked_ms: int | None) -> int | None:
    """How long a row is kept after it was written.

    By default as long as the job keeps an entity, its longest window and the lateness: after that nothing is in its
    windows. None is for ever, as where no feature has a window.
    """
    if asked_ms is not None:
        return max(asked_ms, LEAST_TTL_MS) if asked_ms else None
    return pipeline.retention_ms or None


def open_store(
    pipeline: Pipeline, settings: Settings, url: str, *, keep_ms: int | None = None, must_exist: bool = False
) -> FeatureStore:
    """Open the store of a pipeline's features.

    Args:
        pipeline: Whose.
        settings: Say who we are there.
        url: sqlite:///PATH, redis://HOST:PORT/DATABASE, or rediss:// for TLS.
        keep_ms: How long rows are kept, from `ttl_ms`; None is for ever.
        must_exist: Whether an SQLite file has to be there.

    Raises:
        CommandError: There is no such store.
        StoreUnavailableError: It does not answer.
        StoreRefusedError: It does not let us in.
    """
    layout, parts = FeastLayout.of(pipeline), urlsplit(url)
    if parts.scheme in SQLITE:
        from flink_jobs.sqlite_store import SqliteStore

        path = sqlite_path(url)
        if must_exist and not path.is_file():
            raise CommandError(f"{path} is not there: `millrace features sync {pipeline.name}` makes and fills it")
        return SqliteStore(path, layout, keep_ms)
    if parts.scheme in REDIS:
        from flink_jobs.redis_store import RedisStore

        return RedisStore(url, layout, keep_ms, settings)
    raise CommandError(f"{parts.scheme or url} is no store: write sqlite:///PATH or redis://HOST:PORT/DATABASE")


def sqlite_path(url: str) -> Path:
    """The file of sqlite:///relative/path or sqlite:////absolute/path."""
    found = re.fullmatch(r"sqlite:///([^?#]+)", url)
    if found is None:
        raise CommandError(f"{url} names no file: write sqlite:///PATH, with a fourth / for an absolute path")
    return Path(found[1]).expanduser().absolute()
