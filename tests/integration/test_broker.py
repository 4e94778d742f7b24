"""The local broker is a real one: it keeps data over crashes and restarts and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import textwrap
import time
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from flink_jobs import kafka_admin
from flink_jobs.event_files import file_events
from flink_jobs.events_producer import ProduceError, produce_events
from flink_jobs.kafka_admin import KafkaUnreachableError, TopicMissingError, TopicSpec
from flink_jobs.local import processes
from flink_jobs.local.broker import Broker, BrokerError, broker_status
from flink_jobs.local.shoppers import as_records, shopper_events
from udfs.pipeline import Count, Events, Model, Pipeline

pytestmark = pytest.mark.integration


def make_topic(broker, name, partitions=3):
    kafka_admin.create_topics(broker.bootstrap, [TopicSpec(name, partitions)])
    return name


def read_all(bootstrap, topic):
    """Every committed record of the topic as (partition, offset, key, value)."""
    ends = kafka_admin.topic_ends(bootstrap, topic, isolation="read_committed")
    settings = {"group_id": "reader", "isolation_level": "read_committed", "enable_auto_commit": "false"}
    consumer = Consumer(kafka_admin.client_config(bootstrap, **settings))
    consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
    records = []
    deadline = time.monotonic() + 20
    while len(records) < sum(ends.values()) and time.monotonic() < deadline:
        records += [(m.partition(), m.offset(), m.key(), m.value()) for m in consumer.consume(1_000, 0.2)]
    consumer.close()
    return records


def some_records(n):
    return list(islice(as_records(shopper_events(100, 1, 1_760_000_000_000)), n))


def test_what_is_produced_is_read_and_in_order_per_key(broker):
    topic = make_topic(broker, "in-order")
    sent = some_records(5_000)
    assert produce_events(broker.bootstrap, topic, sent).records == 5_000
    found = [(key, value) for _, _, key, value in sorted(read_all(broker.bootstrap, topic))]
    assert sorted(found) == sorted(sent)
    for user in {key for key, _ in sent[:20]}:
        assert [r for r in found if r[0] == user] == [r for r in sent if r[0] == user]


def test_rate_is_kept_and_progress_told(broker):
    topic = make_topic(broker, "paced")
    told = []
    produced = produce_events(broker.bootstrap, topic, some_records(600), 400, progress=told.append)
    assert produced.elapsed_s == pytest.approx(1.5, abs=0.7)
    assert told[-1] == 600
    assert len(told) > 5


def test_ctrl_c_delivers_what_was_sent(broker):
    topic = make_topic(broker, "interrupted")

    def events():
        yield from some_records(500)
        raise KeyboardInterrupt

    produced = produce_events(broker.bootstrap, topic, events())
    assert produced.interrupted
    assert produced.records == 500
    assert sum(kafka_admin.topic_ends(broker.bootstrap, topic).values()) == 500


def test_record_above_the_brokers_limit_is_reported(broker):
    topic = make_topic(broker, "too-large", 1)
    with pytest.raises(ProduceError, match="too large"):
        produce_events(broker.bootstrap, topic, [(b"k", os.urandom(2_000_000))])


def test_old_events_of_a_file_are_kept_by_retention_of_today(broker, tmp_path):
    class Visit:
        visit_id: str
        user: str
        at: int

    events = Events(Visit, topic="visits", entity="user", time="at", id="visit_id")
    pipeline = Pipeline("visits", events, [Count(window="1h")], Model("visits", 1), "score")
    file = tmp_path / "visits.csv"
    file.write_text("visit_id,user,at\n1,a,2009-12-01T08:00:00\n")
    kafka_admin.create_topics(broker.bootstrap, [TopicSpec("visits", 1, retention_ms=3_600_000)])
    before_ms = int(time.time() * 1_000)
    produce_events(broker.bootstrap, "visits", file_events(file, pipeline))
    assert kafka_admin.offsets_for_time(broker.bootstrap, "visits", before_ms - 1_000) == {0: 0}
    assert kafka_admin.offsets_for_time(broker.bootstrap, "visits", before_ms + 3_600_000) == {0: 1}


def test_creating_topics_again_changes_nothing_and_names_differences(broker):
    spec = TopicSpec("twice", 2, retention_ms=-1)
    assert [o.created for o in kafka_admin.create_topics(broker.bootstrap, [spec])] == [True]
    (same,) = kafka_admin.create_topics(broker.bootstrap, [spec])
    assert (same.created, same.differences) == (False, ())
    (other,) = kafka_admin.create_topics(broker.bootstrap, [TopicSpec("twice", 3, retention_ms=1_000)])
    assert other.differences == ("twice: has 2 partitions, wanted 3", "twice: retention.ms is -1, wanted 1000")
    (grown,) = kafka_admin.create_topics(broker.bootstrap, [TopicSpec("twice", 3)], add_partitions=True)
    assert (grown.partitions_added, grown.differences) == (1, ())
    assert kafka_admin.delete_topics(broker.bootstrap, ["twice", "never"]) == ["twice"]
    assert kafka_admin.topic_partitions(broker.bootstrap, ["twice"]) == {}


def test_committed_offsets_are_those_of_the_group(broker):
    topic = make_topic(broker, "committed", 2)
    produce_events(broker.bootstrap, topic, some_records(50))
    assert kafka_admin.committed_offsets(broker.bootstrap, "group-a", topic) == {}
    settings = {"group_id": "group-a", "isolation_level": "read_committed"}
    consumer = Consumer(kafka_admin.client_config(broker.bootstrap, **settings))
    consumer.commit(offsets=[TopicPartition(topic, 1, 7)], asynchronous=False)
    consumer.close()
    assert kafka_admin.committed_offsets(broker.bootstrap, "group-a", topic) == {1: 7}
    assert kafka_admin.committed_offsets(broker.bootstrap, "group-b", topic) == {}


def test_limits_and_missing_topics_are_told(broker):
    assert kafka_admin.transaction_max_timeout_ms(broker.bootstrap) == 900_000
    assert kafka_admin.topic_starts(broker.bootstrap, make_topic(broker, "empty", 1)) == {0: 0}
    with pytest.raises(TopicMissingError, match="topic nowhere does not exist"):
        kafka_admin.topic_ends(broker.bootstrap, "nowhere")


def test_nobody_answering_is_one_line_with_the_address(capfd):
    address = f"127.0.0.1:{processes.free_port()}"
    with pytest.raises(KafkaUnreachableError, match=rf"no Kafka broker answers at {address} within 1 s .*refused"):
        kafka_admin.topic_ends(address, "any", timeout_s=1)
    assert capfd.readouterr() == ("", "")


def test_listens_on_loopback_only(broker):
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    wanted = {f"{broker.state.port:04X}", f"{broker.state.controller_port:04X}"}
    addresses = [line.split()[1].split(":") for line in listening if line.split()[3] == "0A"]
    assert {address for address, port in addresses if port in wanted} == {"0100007F"}
    six = Path("/proc/net/tcp6")
    if six.exists():
        assert not [line for line in six.read_text().splitlines()[1:] if line.split()[1].split(":")[1] in wanted]


def test_killed_broker_restarts_on_its_port_with_its_data(own_broker):
    broker = own_broker()
    topic = make_topic(broker, "kept")
    produce_events(broker.bootstrap, topic, some_records(1_000))
    before, bootstrap = sorted(read_all(broker.bootstrap, topic)), broker.bootstrap
    broker.kill()
    assert not broker.alive
    assert processes.is_port_free(broker.state.port), "kill returns when the kernel has taken back the port"
    assert broker_status(broker.folder).alive is False
    broker.restart()
    assert broker.bootstrap == bootstrap
    assert sorted(read_all(bootstrap, topic)) == before

    broker.freeze()
    assert broker.alive
    with pytest.raises(KafkaUnreachableError):
        kafka_admin.topic_ends(bootstrap, topic, timeout_s=0.5)
    broker.thaw()
    assert sum(kafka_admin.topic_ends(bootstrap, topic).values()) == 1_000

    found = Broker.find(broker.folder)
    assert Broker.start(broker.folder).state == found.state, "starting a running broker returns it"
    found.stop()
    assert processes.is_port_free(found.state.port)
    assert processes.is_port_free(found.state.controller_port)
    found.stop()


def test_taken_port_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port}"):
            Broker.start(tmp_path, port, die_with_parent=True)


def test_failed_start_names_the_log_and_the_line_that_explains(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("version=1\nnode.id=99\ncluster.id=abc\n")
    with pytest.raises(BrokerError, match=r"node.*99.*broker\.log"):
        Broker.start(tmp_path, die_with_parent=True)
    assert broker_status(tmp_path).alive is False


def test_process_number_used_again_is_not_taken_for_the_broker(tmp_path):
    state = {"pid": os.getpid(), "identity": "another-boot/1", "port": 1, "controller_port": 2}
    (tmp_path / "broker.json").write_text(str(state).replace("'", '"'))
    stale = Broker.find(tmp_path)
    assert not stale.alive
    stale.kill()
    assert broker_status(tmp_path / "never") is None


def test_broker_dies_with_a_test_process_that_is_killed(tmp_path):
    script = f"""
        import os, signal
        from flink_jobs.local.broker import Broker
        Broker.start({str(tmp_path)!r}, die_with_parent=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=90)
    broker = Broker.find(tmp_path)
    assert processes.wait_until_gone(broker.state.pid, broker.state.identity, 5)


def test_running_broker_that_hangs_is_not_taken_for_a_started_one(own_broker):
    broker = own_broker()
    broker.freeze()
    with pytest.raises(BrokerError, match="runs but does not answer"):
        Broker.start(broker.folder, wait_s=0.5)
