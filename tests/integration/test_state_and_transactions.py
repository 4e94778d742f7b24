"""What is kept and what is open, looked into from outside: of a running job, a stopped one, and a killed one."""

import contextlib
import json
import re
import struct
import subprocess
import sys
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from answers import read_events
from jobs import JobProcess
from typer.testing import CliRunner
from workloads import make_topics, shipped_as, shoppers

from flink_jobs.cli import app
from flink_jobs.committed_reader import read_all
from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import latest_restore_point, restore_points
from flink_jobs.kafka_admin import TopicSpec, create_topics, topic_ends
from flink_jobs.local.processes import with_parent
from flink_jobs.pipelines import load_pipeline
from flink_jobs.restore_points import all_bytes, folder_of, load_metadata
from flink_jobs.savepoint_state import read_kept_state
from flink_jobs.settings import Settings
from flink_jobs.transaction_owners import owned
from flink_jobs.transactions import OpenTransaction, abort_transactions, blocked_partitions, open_transactions
from udfs.entity_state import ShardState
from udfs.naive_features import NaiveFeatures
from udfs.plan import FeaturePlan
from udfs.wire_formats import EventDecoder, Refused

pytestmark = pytest.mark.integration

CHANGES = """features=(
        *shipped.features, Mean("dwell_time_sec", window="2h", tile="10m"),
        Distinct("page_id", window="2h", tile="10m"),
    ), model=dataclasses.replace(shipped.model),"""
LEAVER = """
import sys, time
from confluent_kafka import Producer
bootstrap, name, topic = sys.argv[1:]
producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, "transaction.timeout.ms": 600_000,
                     "log_level": 0})
producer.init_transactions()
producer.begin_transaction()
for number in range(6):
    producer.produce(topic, b"never seen", partition=number % 2)
producer.flush()
print("open", flush=True)
time.sleep(600)
"""


class Looked:
    """A pipeline's file, its home, and `millrace` told to look at it."""

    def __init__(self, broker, folder, name):
        self.broker, self.folder = broker, folder
        self.file = folder / f"{name}.py"
        self.file.write_text(shipped_as(name, CHANGES))
        self.pipeline = load_pipeline(str(self.file))
        self.plan = FeaturePlan.build(self.pipeline)
        make_topics(broker, self.pipeline)

    def settings(self, **changes):
        return Settings(**{"bootstrap": self.broker.bootstrap, "home": self.folder / "home", "restart_attempts": 0,
                           **changes})  # fmt: skip

    def millrace(self, *words, fails=False):
        environment = {"MILLRACE_HOME": str(self.folder / "home"), "MILLRACE_BOOTSTRAP": self.broker.bootstrap}
        result = CliRunner().invoke(app, [*words, "--json"], env=environment)
        assert result.exit_code == int(fails), result.output + result.stderr
        return result.stderr if fails else json.loads(result.stdout)

    def produce(self, records):
        produce_events(self.broker.bootstrap, self.pipeline.events.topic, records)

    def kept_by_the_oracle(self):
        """By user: the times of the events that its exact windows may still need, from the topic alone."""
        oracle, decode = NaiveFeatures(self.pipeline), EventDecoder(self.pipeline).decode
        for event in read_events(self.broker, self.pipeline):
            decoded = decode(event.key, event.value)
            if not isinstance(decoded, Refused):
                oracle.advance(decoded, event.time_ms, event.place[0], wanted=False)
        kept = {}
        for user, arrived in oracle.arrived.items():
            newest = max(row.time_ms for row in arrived)
            times = [row.time_ms for row in arrived if row.time_ms > newest - self.pipeline.exact_retention_ms]
            kept[user] = sorted(times)
        return kept


def contents(plan, point):
    """By entity, what a restore point keeps of it, read without the commands."""
    from udfs.kept_entities import kept_entities, kept_entries

    found = {}
    for log in read_kept_state(point).logs.values():
        for entry in kept_entries(ShardState.restore(plan, log)):
            found.update({entity.name: entity.content for entity in kept_entities(entry)})
    return found


def test_state_of_a_running_a_stopped_and_a_killed_job_is_what_the_oracle_keeps(broker, tmp_path):
    looked = Looked(broker, tmp_path, "looked")
    records, _ = shoppers(2_400, users=120, rounds=1)
    first, second, third = records[:1_200], records[1_200:2_000], records[2_000:]
    name = str(looked.file)
    looked.produce(first)
    with JobProcess(looked.pipeline, looked.settings(), tmp_path / "one") as job:
        job.catch_up()
        summary = looked.millrace("state", name)
        kept = looked.kept_by_the_oracle()
        assert (summary["form"], summary["parallelism"]) == ("increment", 2)
        assert summary["entities"] == len(kept)
        assert summary["events"] == sum(map(len, kept.values()))
        assert summary["oldest_event_ms"] <= min(times[0] for times in kept.values())
        assert summary["offsets"] == {str(n): end for n, end in topic_ends(broker.bootstrap, "looked-events").items()}
        assert summary["features_without_state"] == summary["layout_changes"] == []
        moving = looked.millrace("transactions", name)
        assert {each["owner"] for each in moving["transactions"]} <= {"running", "completing"}
        savepoint = job.stop()
    before = contents(looked.plan, savepoint)
    looked.produce(second)
    changed = looked.settings(state_backend="hashmap", parallelism=3, checkpoint_interval_ms=3_000)
    with JobProcess(looked.pipeline, changed, tmp_path / "two", savepoint) as job:
        job.catch_up()
        looked.produce(third[:150])
        job.read_all()
        looked.produce(third[150:])
        wait_until_blocked(looked)
        job.kill()
    point = latest_restore_point(looked.pipeline, looked.settings())
    assert "chk-" in point
    check_one_entity(looked, point)
    check_difference(looked, savepoint, point, before)
    check_what_a_checkpoint_holds_is_pending(looked)
    check_the_killed_jobs_transactions(looked)


def kept_points(looked):
    return [each for each in restore_points(looked.pipeline, looked.settings()) if "chk-" in each]


def wait_until_blocked(looked):
    """Until answers lie in the topic of which no checkpoint is complete yet."""
    deadline = time.monotonic() + 30
    while not blocked_partitions(looked.settings(), [looked.pipeline.predictions]):
        assert time.monotonic() < deadline, "no answer was written"
        time.sleep(0.02)


def check_one_entity(looked, point):
    state = read_kept_state(point)
    assert (state.form, state.parallelism) == ("hashmap", 3)
    offsets = looked.millrace("state", str(looked.file))["offsets"]
    events, by_user = read_events(looked.broker, looked.pipeline), defaultdict(list)
    decode = EventDecoder(looked.pipeline).decode
    for event in events:
        decoded = decode(event.key, event.value)
        if event.place[1] < offsets[str(event.place[0])] and not isinstance(decoded, Refused):
            by_user[decoded.user_id].append(decoded)
    user = max(by_user, key=lambda each: len(by_user[each]))
    told = looked.millrace("state", str(looked.file), "--entity", user)
    wanted = sorted(by_user[user], key=lambda each: each.timestamp)
    assert [(e["time_ms"], e["columns"]["dwell_time_sec"]) for e in told["events"]] == [
        (each.timestamp, each.dwell_time_sec) for each in wanted
    ]
    dwelt = np.array([tile["values"]["dwell_time_sec mean"]["sum"] for tile in told["tiles"]])
    assert dwelt.sum() == pytest.approx(sum(each.dwell_time_sec for each in wanted))
    assert set().union(*(each["values"] for each in told["distinct"])) == {each.page_id for each in wanted}
    newest = wanted[-1].timestamp
    assert told["features"]["count_1h"] == sum(newest - 3_600_000 < each.timestamp for each in wanted)
    assert "nothing is kept of 'nobody'" in looked.millrace("state", str(looked.file), "--entity", "nobody", fails=True)


def check_difference(looked, savepoint, point, before):
    after = contents(looked.plan, point)
    told = looked.millrace("state", "diff", savepoint, point, "--pipeline", str(looked.file))
    changed = {user for user in before if user in after and before[user] != after[user]}
    assert (told["changed"]["count"], told["added"]["count"]) == (len(changed), len(after.keys() - before.keys()))
    assert told["same"] == len(before) - len(changed)
    assert told["gone"]["count"] == told["forgotten"]["count"] == 0
    assert told["changed"]["count"] > 10
    one = told["changed"]["first"][0]
    words = looked.millrace("state", "diff", savepoint, point, "--pipeline", str(looked.file), "--entity", one)
    assert any(line.startswith("event added: time ") for line in words["changes"])


def check_what_a_checkpoint_holds_is_pending(looked):
    """Contract: what the next start would commit is never called orphaned, by the bytes that Flink has written."""
    points = reversed(kept_points(looked))
    found = next(((each, held) for each in points if (held := committed_by(each, looked.pipeline))), None)
    if found is None:  # the answers came after the last checkpoint that was complete when the job was killed
        return
    point, held = found
    only = looked.folder / "only" / looked.pipeline.name / "job"
    only.mkdir(parents=True)
    (only / "chk-1").symlink_to(folder_of(point))
    found = owned(looked.settings(checkpoint_folder=looked.folder / "only"), held)
    assert [each.owner for each in found] == ["pending"] * len(held)


def check_the_killed_jobs_transactions(looked):
    """Orphaned ones end, and readers go on."""
    pipeline, settings, name = looked.pipeline, looked.settings(), str(looked.file)
    answered = Counter(message.topic() for message in read_all(looked.broker.bootstrap, [pipeline.predictions]))
    listed = looked.millrace("transactions", name)
    assert {each["owner"] for each in listed["transactions"]} == {"orphaned"}
    assert listed["blocked"]
    assert sum(bool(each["blocks"]) for each in listed["transactions"])
    told = looked.millrace("transactions", name, "--abort", "--yes")
    assert told["aborted"] == len(listed["transactions"]) > 0
    wait_for_readers(settings, [pipeline.predictions, pipeline.dead_letters])
    assert open_transactions(settings, f"millrace-{pipeline.name}") == []
    assert Counter(m.topic() for m in read_all(looked.broker.bootstrap, [pipeline.predictions])) == answered


def committed_by(point, pipeline):
    """Transactions that a checkpoint's committer has to commit, taken from its bytes by another way."""
    found = []
    for operator in load_metadata(point).getOperatorStates().toArray():
        for subtask in operator.getStates().toArray():
            for handle in subtask.getManagedOperatorState().toArray():
                content = all_bytes(handle)
                for match in re.finditer(rf"millrace-{pipeline.name}-\d+-\d+".encode(), content):
                    if match.start() >= 12:
                        _, producer, length = struct.unpack_from(">hqH", content, match.start() - 12)
                        if length == len(match[0]):
                            name = match[0].decode()
                            found.append(OpenTransaction(name, producer, 0, "Ongoing", 0, 1, {}))
    return found


def wait_for_readers(settings, topics):
    deadline = time.monotonic() + 10
    while blocked := blocked_partitions(settings, topics):
        assert time.monotonic() < deadline, blocked
        time.sleep(0.05)


@contextlib.contextmanager
def left_open(broker, name, topic):
    """A transaction whose producer process was killed."""
    arguments = [sys.executable, "-c", LEAVER, broker.bootstrap, name, topic]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, preexec_fn=with_parent()) as producer:
        assert producer.stdout.readline() == "open\n"
        producer.kill()
        producer.wait(10)
        yield


def test_a_killed_producers_transaction_blocks_readers_until_it_is_aborted(broker, tmp_path):
    looked = Looked(broker, tmp_path, "blocked")
    topic, settings, name = looked.pipeline.predictions, looked.settings(), "millrace-blocked-0-4"
    with left_open(broker, name, topic), left_open(broker, "somebody-else", topic):
        produce_events(broker.bootstrap, topic, [(b"k", b"later")] * 50)
        told = looked.millrace("transactions", str(looked.file))
        rows = {each["transactional_id"]: each for each in told["transactions"]}
        assert {each: rows[each]["owner"] for each in rows} == {name: "orphaned", "somebody-else": "foreign"}
        assert rows[name]["blocks"] == [f"{topic}/0", f"{topic}/1"]
        assert [place["first_offset"] for place in rows[name]["partitions"]] == [0, 0]
        assert {(each["topic"], each["partition"]) for each in told["blocked"]} == {(topic, 0), (topic, 1)}
        waiting = [message.value() for message in read_all(broker.bootstrap, [topic])]
        assert waiting.count(b"later") < 50, "some of what came later waits"
        assert looked.millrace("transactions", str(looked.file), "--abort", "--yes")["aborted"] == 1
        (other,) = open_transactions(settings, "millrace-blocked", topics=[topic])
        assert other.transactional_id == "somebody-else"
        # markers written to the partitions alone, as for one that no coordinator knows of
        hanging = OpenTransaction(None, other.producer_id, other.epoch, "Hanging", None, None, other.first_offsets)
        abort_transactions(settings, [hanging])
        wait_for_readers(settings, [topic])
    values = [message.value() for message in read_all(broker.bootstrap, [topic])]
    assert values == [b"later"] * 50
    assert looked.millrace("transactions", str(looked.file), "--abort", "--yes")["aborted"] == 0
    abort_transactions(settings, [other])


def test_a_broker_that_refuses_is_one_line(broker, tmp_path):
    create_topics(broker.bootstrap, [TopicSpec("unheard", 1)])
    looked = Looked(broker, tmp_path, "refused")
    environment = {"MILLRACE_KAFKA_PROPERTIES": json.dumps({"security.protocol": "nonsense"}),
                   "MILLRACE_HOME": str(tmp_path), "MILLRACE_BOOTSTRAP": broker.bootstrap}  # fmt: skip
    result = CliRunner().invoke(app, ["transactions", str(looked.file)], env=environment)
    assert result.exit_code == 1
    assert result.stderr.count("error: ") == 1
