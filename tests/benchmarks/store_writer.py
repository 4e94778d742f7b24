"""A process that fills an online store as `millrace features sync` does, and notes when each event could be read there.

    bootstrap, topic of features, file for the times, URL of the store

It goes on until its standard input is closed.
"""

import gc
import select
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Message

from flink_jobs.feature_store import open_store
from flink_jobs.settings import Settings
from flink_jobs.store_sync import StoreSync
from tests.benchmarks.features_job import features_pipeline
from tests.benchmarks.visibility_reader import event_number


class Vector(msgspec.Struct, gc=False):
    event_id: str


class NotedSync(StoreSync):
    """Remembers when the store had taken each event."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.values: list[bytes] = []
        self.appended_ms: list[int] = []
        self.readable_ns: list[int] = []

    def _note(self, messages: Sequence[Message], rows: Sequence[Any], written: int) -> None:
        now_ns = time.time_ns()
        self.values.extend(message.value() or b"" for message in messages)
        self.appended_ms.extend(message.timestamp()[1] for message in messages)
        self.readable_ns.extend([now_ns] * len(messages))
        super()._note(messages, rows, written)


def main() -> None:
    bootstrap, topic, file, url = sys.argv[1:5]
    pipeline, settings = features_pipeline("not-read-here", topic), Settings(bootstrap=bootstrap)
    sync = NotedSync(pipeline, settings, open_store(pipeline, settings, url), url)
    gc.disable()
    sync.run(lambda: bool(select.select([sys.stdin], [], [], 0)[0]))
    decode = msgspec.json.Decoder(Vector).decode
    appended_ms = np.array(sync.appended_ms, np.int64)
    np.savez(
        file,
        number=np.array([event_number(decode(value).event_id) for value in sync.values], np.int64),
        scored_ms=appended_ms,  # a vector does not say when it was computed
        appended_ms=appended_ms,
        visible_ns=np.array(sync.readable_ns, np.int64),
    )
