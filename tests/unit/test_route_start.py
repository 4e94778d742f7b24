"""A hop that begins without a checkpoint goes on behind whatever of its sources became an event or a dead letter."""

from types import SimpleNamespace

import pytest
from shop_sources import shop_pipeline

from flink_jobs import route_job
from flink_jobs.settings import Settings
from flink_jobs.topics import COMMITTED, LATEST


def record(**headers):
    found = [(f"millrace-{name.replace('_', '-')}", value.encode()) for name, value in headers.items()]
    return SimpleNamespace(headers=lambda: found)


def event(topic, partition, offset):
    return record(source_topic=topic, source_partition=str(partition), source_offset=str(offset))


def letter(topic, partition, offset, stage="route"):
    return record(topic=topic, partition=str(partition), offset=str(offset), stage=stage)


@pytest.fixture
def begins(monkeypatch):
    """Where a hop begins: (what it says, the commits it mends), for records in its topics and commits by place."""

    def begins(events, letters, committed):
        pipeline, mended = shop_pipeline("shop"), {}
        topics = {pipeline.events.topic: events, pipeline.dead_letters: letters}

        def scan(_bootstrap, _properties, topic, spans):
            ((begin, end),) = spans.values()
            yield topics[topic][begin:end]

        def commit(_bootstrap, _group, topic, _properties, *, to):
            mended.update({(topic, partition): offset for partition, offset in to.items()})

        def commits(_bootstrap, _group, topic, _properties):
            return {partition: offset for (name, partition), offset in committed.items() if name == topic}

        monkeypatch.setattr(route_job, "scan", scan)
        monkeypatch.setattr(route_job, "topic_starts", lambda *_: {0: 0})
        monkeypatch.setattr(route_job, "topic_ends", lambda _b, topic, _p, isolation: {0: len(topics[topic])})
        monkeypatch.setattr(route_job, "committed_offsets", commits)
        monkeypatch.setattr(route_job, "reset_committed_offsets", commit)
        return route_job.route_start(pipeline, Settings(), LATEST), mended

    return begins


def test_nothing_taken_yet_begins_where_it_is_told(begins):
    assert begins([], [], {}) == (LATEST, {})


def test_the_last_record_may_be_an_event_or_a_dead_letter(begins):
    events = [event("shop-clicks", 0, 7), event("shop-orders", 1, 3)]
    letters = [letter("shop-clicks", 0, 8), letter("shop-events", 0, 999, stage="model")]
    mended = {("shop-clicks", 0): 9, ("shop-orders", 1): 4}
    assert begins(events, letters, {("shop-clicks", 0): 5}) == (COMMITTED, mended)


def test_many_letters_of_other_stages_hide_none_of_the_hop(begins):
    letters = [letter("shop-clicks", 0, 8), *(letter("shop-events", 0, n, stage="model") for n in range(5_000))]
    found = begins([event("shop-clicks", 0, 7)], letters, {("shop-clicks", 0): 8})
    assert found == (COMMITTED, {("shop-clicks", 0): 9})


def test_commits_that_are_further_are_left(begins):
    found = begins([event("shop-clicks", 0, 7)], [letter("shop-clicks", 0, 6)], {("shop-clicks", 0): 20})
    assert found == (COMMITTED, {})
