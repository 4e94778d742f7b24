"""The operator reads a shard's state when told to, writes it when told to, and goes on from what it wrote."""

import dataclasses
import hashlib
import struct
import time

import msgspec
import pytest
from wire_records import PURCHASE, shopper_records

from flink_jobs.operators import OPEN_SESSIONS, ScoreBatches
from flink_jobs.pipelines import model_folder
from flink_jobs.state_files import StateFile, StateFileError
from udfs.output_batch import read_outputs
from udfs.pipeline import Sessions
from udfs.record_batch import MODELS, READ, TICK, WRITE, RecordBatch, pack_records
from udfs.state_file import packed


class Log(dict):
    """A shard's map state."""

    def put(self, number, entry):
        self[number] = entry

    def remove(self, number):
        del self[number]


class Flink:
    """Keeps a log for each key, and runs the operator under the keys of its elements."""

    def __init__(self, states=None):
        self.logs, self.key, self.states = {}, None, states
        self.start()

    def start(self):
        self.operator = ScoreBatches(PURCHASE, model_folder(PURCHASE), self.states)
        self.operator.open(self)

    def get_map_state(self, _descriptor):
        return self

    def get_metrics_group(self):
        return self

    def counter(self, _name):
        return None  # nothing is passed over here

    def get_current_key(self):
        return self.key

    def __getattr__(self, name):
        return getattr(self.logs.setdefault(self.key, Log()), name)

    def process(self, key, value):
        self.key = key
        return [record for output in self.operator.process_element(value, self) for record in read_outputs(output)]

    def command(self, key, command):
        return self.process(key, struct.pack("<iiii", command, 0, 0, 0))


def batch(records, first_offset, shard):
    keys, values = zip(*records, strict=True)
    offsets = list(range(first_offset, first_offset + len(records)))
    return pack_records(keys, values, [0] * len(records), offsets, offsets, shard=shard)


def without_clock(outputs):
    return [(output.key, output.value.rpartition(b'"scored_at"')[0], output.headers) for output in outputs]


@pytest.fixture(scope="module")
def records():
    return shopper_records(400)


def test_what_a_control_topic_says_is_read_whole():
    told = b'{"id": "x"}'
    assert RecordBatch(struct.pack("<iiii", MODELS, 0, 0, 0) + told).values.content == told
    assert RecordBatch(struct.pack("<iiii", MODELS, 0, 0, 0), ("header",)).values.content == b""


def test_a_restart_goes_on_from_the_state_that_was_written_last(records):
    steady, restarted = Flink(), Flink()
    for flink in (steady, restarted):
        flink.command(7, READ)
        flink.process(7, batch(records[:200], 0, 7))
        flink.command(7, WRITE)
    lost = restarted.process(7, batch(records[200:300], 200, 7))
    restarted.start()  # what came after the last write comes again, as after a failure
    restarted.command(7, READ)
    again = restarted.process(7, batch(records[200:300], 200, 7))
    expected = steady.process(7, batch(records[200:300], 200, 7))
    assert without_clock(lost) == without_clock(again) == without_clock(expected)


def test_records_write_nothing_and_each_shard_is_written_under_its_own_key(records):
    flink = Flink()
    for shard in (3, 9):
        flink.command(shard, READ)
    flink.process(3, batch(records[:100], 0, 9))  # under the key of another shard of the subtask
    assert not any(flink.logs.values())
    for shard in (3, 9):
        flink.command(shard, WRITE)
    assert not flink.logs.get(3)
    assert len(flink.logs[9]) == 1


def test_reading_again_keeps_what_is_in_memory(records):
    flink, once = Flink(), Flink()
    for each in (flink, once):
        each.command(7, READ)
        each.process(7, batch(records[:100], 0, 7))
    flink.command(7, READ)  # every subtask of the source sends one
    after = [without_clock(each.process(7, batch(records[100:200], 100, 7))) for each in (flink, once)]
    assert after[0] == after[1]


def test_a_shard_begins_with_its_file_and_never_looks_at_it_again_once_flink_has_it(records, tmp_path):
    steady = Flink()
    steady.command(7, READ)
    steady.process(7, batch(records[:200], 0, 7))
    content = b"".join(packed(steady.operator._shards[7].entries()))
    file = StateFile(tmp_path / "007.state", hashlib.sha256(content).hexdigest())
    file.path.write_bytes(content)
    begun = Flink({7: file})
    begun.command(7, READ)
    assert begun.logs[7], "in Flink's state before any record or barrier"
    first = begun.process(7, batch(records[200:300], 200, 7))
    file.path.unlink()
    begun.start()  # a restart from a checkpoint with nothing but what was read
    begun.command(7, READ)
    again = begun.process(7, batch(records[200:300], 200, 7))
    expected = steady.process(7, batch(records[200:300], 200, 7))
    assert without_clock(first) == without_clock(again) == without_clock(expected)


def test_a_shard_whose_file_is_damaged_does_not_begin_without_it(records, tmp_path):
    file = StateFile(tmp_path / "007.state", "0" * 64)
    file.path.write_bytes(b"other bytes")
    with pytest.raises(StateFileError, match="--fresh --bootstrap-from"):
        Flink({7: file}).command(7, READ)


def test_records_of_a_shard_that_was_not_read_are_an_error(records):
    with pytest.raises(KeyError):
        Flink().process(7, batch(records[:10], 0, 7))


class FlinkOfSessions(Flink):
    """Runs the operator of a pipeline whose sessions are closed when nothing came for a moment."""

    def start(self):
        pipeline = dataclasses.replace(PURCHASE, sessions=Sessions(gap="1ms", idle="1ms"))
        self.operator = ScoreBatches(pipeline, model_folder(PURCHASE))
        self.operator.open(self)

    def get_map_state(self, descriptor):
        return self.sessions if descriptor.name == OPEN_SESSIONS else self

    def gauge(self, _name, _value):
        """Nobody looks at it here."""

    @property
    def sessions(self):
        return self.__dict__.setdefault("of_sessions", Log())

    def closed(self, outputs):
        return [(each.key, each.value) for each in outputs if each.topic == "purchase-sessions"]


def test_what_a_tick_closes_comes_again_after_a_failure_and_never_once_it_was_written(records):
    flink = FlinkOfSessions()
    flink.command(7, READ)
    keys, values = zip(*records[:50], strict=True)
    arrived = pack_records(keys, values, [0] * 50, range(50), [10**13] * 50, shard=7)
    before = flink.closed(flink.process(7, arrived))
    flink.command(7, WRITE)
    time.sleep(0.01)
    lost = flink.closed(flink.command(7, TICK))
    assert lost
    flink.start()  # what came after the last write is undone
    flink.command(7, READ)
    time.sleep(0.01)
    again = flink.closed(flink.command(7, TICK))
    assert again == lost
    flink.command(7, WRITE)
    flink.start()
    flink.command(7, READ)
    time.sleep(0.01)
    assert flink.closed(flink.command(7, TICK)) == []
    counted = [msgspec.json.decode(value)["events"] for _, value in (*before, *again)]
    assert sum(counted) == 50
