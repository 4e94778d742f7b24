"""A process that notes when each prediction became visible to a reader of committed records.

    bootstrap, topic, file for the times

It reads until its standard input is closed. In a topic without transactions every record is committed at once.
"""

import gc
import select
import sys
import time

import msgspec
import numpy as np

from flink_jobs.committed_reader import CommittedReader


class Scored(msgspec.Struct, gc=False):
    event_id: str
    scored_at: int


def main() -> None:
    bootstrap, topic, file = sys.argv[1:4]
    reader = CommittedReader(bootstrap, [topic])
    values: list[bytes] = []
    appended_ms: list[int] = []
    visible_ns: list[int] = []
    gc.disable()
    while not select.select([sys.stdin], [], [], 0)[0]:
        messages = reader.read(0.1)
        now_ns = time.time_ns()
        values.extend(message.value() for message in messages)
        appended_ms.extend(message.timestamp()[1] for message in messages)
        visible_ns.extend([now_ns] * len(messages))
    reader.close()
    decode = msgspec.json.Decoder(Scored).decode
    scored = [decode(value) for value in values]
    np.savez(
        file,
        number=np.array([event_number(one.event_id) for one in scored], np.int64),
        scored_ms=np.array([one.scored_at for one in scored], np.int64),
        appended_ms=np.array(appended_ms, np.int64),
        visible_ns=np.array(visible_ns, np.int64),
    )


def event_number(event_id: str) -> int:
    """The number in a simulated shopper's event id, `seed-number`; they grow, with gaps."""
    return int(event_id.rpartition("-")[2])
