"""`millrace upgrade` on a cluster, under traffic: state kept, a loss refused, the old job back after a failure."""

import json
import math
import threading

import pytest
from answers import LiveReader, expected_of, read_answers, read_events
from kept_savepoints import kept_events
from test_upgraded_state import assert_complete_or_marked
from workloads import log_model, make_topics

from flink_jobs.events_producer import produce_events
from flink_jobs.kafka_admin import committed_offsets
from flink_jobs.pipelines import load_pipeline
from flink_jobs.topics import group_id

pytestmark = pytest.mark.integration

BEGIN = """
from typing import Literal
from udfs.pipeline import *

class Visit:
    id: str
    user: str
    page: Literal["home", "cart", "pay"] | None
    amount: float | None
    label: str | None
    time: int

class Failing(Custom):
    def __setstate__(self, state):  # in the workers: what raises there for an event makes a dead letter of it
        raise RuntimeError("this cannot be computed")
    def init(self):
        return 0
    def add(self, state, value, event_time_ms):
        return state
    def value(self, state):
        return 0.0

pipeline = Pipeline(
    name="upgraded",
    events=Events(Visit, topic="upgraded-events", partitions=2, entity="user", time="time", id="id"),
    features=[Value("amount", fill=1.0), Mean("amount", window="2h"), Sum("amount", window="6h", tile="1h")],
    model=Model("log", version=1, root="models"),
    prediction="score",
    predictions="upgraded-predictions",
    lateness="1h",
    include_features=True,
)
"""
TILED = 'Sum("amount", window="6h", tile="1h")'
CHANGED = BEGIN.replace(
    TILED, f'{TILED}, Max("amount", window="2h", tile="1h"), Count(window="1h", where=field("amount") > 5), '
    'Distinct("label", window="2h")',
)  # fmt: skip
FAILS = CHANGED.replace("Value(", 'Failing("amount", window="1h"), Value(')
LOSES = CHANGED.replace(TILED, 'Sum("amount", window="6h", tile="30m")')
RATE = 100


class Traffic:
    """The next events, at a steady rate, until told to stop."""

    def __init__(self, broker):
        self._stop, self._broker = threading.Event(), broker
        self._records = iter(kept_events(60_000, users=40))
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self):
        produce_events(
            self._broker.bootstrap, "upgraded-events", self._records, RATE, should_stop=self._stop.is_set
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)


def test_an_upgrade_keeps_the_state_refuses_a_loss_and_brings_the_old_job_back(broker, tmp_path, millrace):
    file = tmp_path / "upgraded.py"
    file.write_text(BEGIN)
    first = load_pipeline(str(file))
    log_model(first, tmp_path / "models", "amount")
    log_model(first, tmp_path / "models", "amount", version=2, operator="Sqrt")
    make_topics(broker, first)
    with LiveReader(broker, first) as reader:
        with Traffic(broker):
            job = json.loads(millrace("submit", str(file), "--parallelism", "1", "--json").stdout)["job_id"]
            reader.wait_for(600)

            file.write_text(CHANGED)
            upgraded = json.loads(millrace("upgrade", str(file), "--parallelism", "2", "--json").stdout)
            assert upgraded["job_id"] != job
            effects = {change["name"]: change["effect"] for change in upgraded["changes"]}
            assert effects == {
                "amount": "kept", "amount_mean_2h": "kept", "amount_sum_6h_tile_1h": "kept",
                "amount_max_2h_tile_1h": "computed", "amount_gt_5_count_1h": "computed", "label_distinct_2h": "warming",
            }  # fmt: skip
            reader.wait_for(len(reader.messages) + 600)

            file.write_text(CHANGED.replace("version=1", "version=2"))
            ends = committed_offsets(broker.bootstrap, group_id(first), first.events.topic)
            tried = json.loads(millrace("upgrade", str(file), "--dry-run", "--minutes", "0.2", "--json").stdout)
            now = committed_offsets(broker.bootstrap, group_id(first), first.events.topic)
            assert all(now[partition] > end for partition, end in ends.items()), "the running job went on"
            assert tried["events"] > 500
            assert (tried["only_now"], tried["only_before"], tried["refused"]) == (0, 0, {})
            assert tried["differing"] == tried["events"]
            assert "log/1 becomes log/2" in [change["text"] for change in tried["changes"]]
            for each in tried["worst"]:
                assert each["now"] == pytest.approx(math.sqrt(math.exp(each["before"])))

            file.write_text(LOSES)
            refused = millrace("upgrade", str(file), fails=True)
            assert "--accept-loss amount_sum_6h_tile_30m" in refused.stderr
            assert upgraded["job_id"] in millrace("status", "--json").stdout

            file.write_text(FAILS)
            failed = millrace("upgrade", str(file), fails=True)
            assert "this cannot be computed" in failed.stderr
            assert "the old one is back as" in failed.stderr
            reader.wait_for(len(reader.messages) + 300)
        file.write_text(CHANGED)
        assert "nothing to upgrade" in millrace("upgrade", str(file)).stdout
        millrace("stop", str(file), "--json")
        during = reader.answers()
    assert during == read_answers(broker, first), "each event once, and nothing that was seen is taken back"
    events = read_events(broker, first)
    assert during.predictions.keys() == {event.place for event in events}
    changed = {p: a for p, a in during.predictions.items() if len(a.body["features"]) > len(first.feature_names)}
    second = load_pipeline(str(file))
    seen = assert_complete_or_marked(second, changed, expected_of(second, events))
    assert seen.keys() == {"label_distinct_2h"}
    before = {place: answer for place, answer in during.predictions.items() if place not in changed}
    assert len(before) >= 600
    assert assert_complete_or_marked(first, before, expected_of(first, events)) == {}
