"""Which settings `millrace tune` tries, and which it names: decided without a job."""

import dataclasses
from itertools import islice

import msgspec
import pytest

from flink_jobs.pipelines import load_pipeline
from flink_jobs.settings import load_settings
from flink_jobs.tune import Trial, candidates, choose, most_trials, next_setting
from flink_jobs.tune_command import TUNED
from flink_jobs.tune_sample import load_sample, repeated

START = {"parallelism": 2, "shards": 32, "batch_ms": 50, "bundle_ms": 10}
VALUES = {"parallelism": (1, 2), "shards": (8, 32), "batch_ms": (10, 50), "bundle_ms": (5, 10)}


def trial(per_s, p99_ms, **setting):
    return Trial({**START, **setting}, per_s, p99_ms / 2, p99_ms)


def searched(measure, most_latency_ms=None):
    """All trials of a search whose measurements are a function of the setting."""
    trials = []
    while (setting := next_setting(START, VALUES, trials, most_latency_ms)) is not None:
        assert len(trials) < 100
        trials.append(measure(setting))
    return trials


def test_every_tuned_setting_is_one_of_the_settings():
    assert set(candidates(8, 3)) == set(TUNED) == set(START)
    for name, values in candidates(8, 3).items():
        for value in values:
            assert getattr(load_settings(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("cores", "partitions", "tried"),
    [(1, 3, (1,)), (2, 3, (1, 2)), (8, 3, (1, 2, 3)), (8, 12, (1, 2, 4, 8)), (6, 12, (1, 2, 4, 6))],
)
def test_no_more_subtasks_are_tried_than_cores_or_partitions(cores, partitions, tried):
    assert candidates(cores, partitions)["parallelism"] == tried


def test_there_are_never_fewer_shards_than_subtasks():
    assert candidates(16, 16)["shards"] == (32, 64)
    assert candidates(128, 128)["shards"] == (128,)


def test_the_settings_as_they_are_come_first_and_none_comes_twice():
    trials = searched(lambda setting: Trial(setting, 1_000.0, 10.0, 20.0))
    settings = [tuple(one.setting.items()) for one in trials]
    assert trials[0].setting == START
    assert len(set(settings)) == len(settings) == most_trials(START, VALUES)


def test_each_setting_is_tried_with_the_best_of_those_before_it():
    def measure(setting):
        good = setting["parallelism"] == 1, setting["shards"] == 8, setting["batch_ms"] == 10
        return Trial(setting, 1_000.0, 50.0, 100.0 - 20 * sum(good))

    trials = searched(measure)
    assert choose(trials).setting == {"parallelism": 1, "shards": 8, "batch_ms": 10, "bundle_ms": 10}
    assert all(one.setting["parallelism"] == 1 for one in trials[2:])


def test_a_search_ends_when_the_settings_as_they_are_fail():
    assert len(searched(lambda setting: Trial(setting, problem="no memory"))) == 1


def test_a_failed_trial_is_never_chosen():
    failed = Trial({**START, "shards": 8}, problem="no memory")
    assert choose([failed]) is None
    assert choose([failed, trial(1_000, 50)]).setting == START


def test_the_shortest_latency_wins_among_those_with_nearly_the_best_throughput():
    slow_but_prompt, fast, faster = trial(500, 10, batch_ms=5), trial(950, 40, batch_ms=20), trial(1_000, 90)
    assert choose([faster, fast, slow_but_prompt]) is fast


def test_with_a_limit_the_highest_throughput_within_it_wins():
    trials = [trial(1_000, 90), trial(900, 60, batch_ms=20), trial(600, 30, batch_ms=5)]
    assert choose(trials, 60.0) is trials[1]
    assert choose(trials, 1.0) is trials[2]  # none is within it: the closest


def test_a_difference_within_the_noise_changes_nothing():
    now = trial(1_000, 50)
    assert choose([now, trial(1_030, 49, shards=8)]) is now
    assert choose([now, trial(1_030, 49, shards=8)], 100.0) is now


def test_a_sample_is_repeated_with_later_times_and_the_same_entities():
    pipeline = load_pipeline("purchase")
    events = [
        {"event_id": "a", "user_id": "u", "page_id": "home", "dwell_time_sec": 1.0, "timestamp": 1_000},
        {"event_id": "b", "user_id": "u", "page_id": "home", "dwell_time_sec": 2.0, "timestamp": 1_500},
    ]
    broken = (b"u", b"{no json"), (b"u", None), (b"u", b'{"timestamp": true}')
    records = [*((b"u", msgspec.json.encode(event)) for event in events), *broken]
    rounds = list(islice(repeated(pipeline, records), 3 * len(records)))
    assert tuple(rounds[2:5]) == tuple(rounds[7:10]) == broken
    found = [msgspec.json.decode(value) for _, value in (*rounds[:2], *rounds[5:7], *rounds[10:12])]
    assert [event["timestamp"] for event in found] == [1_000, 1_500, 1_501, 2_001, 2_002, 2_502]
    assert [{**event, "timestamp": 0} for event in found] == [{**event, "timestamp": 0} for event in events] * 3


def test_events_of_a_file_are_the_sample(tmp_path):
    pipeline = load_pipeline("purchase")
    file = tmp_path / "events.csv"
    file.write_text("event_id,user_id,page_id,dwell_time_sec,timestamp\n1,u,home,2.5,1760000000000\n")
    sample = load_sample(pipeline, load_settings(home=tmp_path), file)
    assert [key for key, _ in sample.records] == [b"u"]
    assert "events.csv" in sample.origin


def test_without_a_topic_simulated_shoppers_are_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("flink_jobs.tune_sample.MOST_RECORDS", 50)
    monkeypatch.setattr("flink_jobs.tune_sample._newest_of_topic", lambda *_: [])
    sample = load_sample(load_pipeline("purchase"), load_settings(home=tmp_path), None)
    assert len(sample.records) == 50
    assert "simulated" in sample.origin


def test_a_pipeline_without_events_is_told_how_to_give_some(tmp_path, monkeypatch):
    monkeypatch.setattr("flink_jobs.tune_sample._newest_of_topic", lambda *_: [])
    monkeypatch.setattr("flink_jobs.tune_sample.can_generate", lambda _: False)
    shipped = load_pipeline("purchase")
    pipeline = dataclasses.replace(shipped, events=dataclasses.replace(shipped.events, topic="elsewhere"))
    with pytest.raises(RuntimeError, match=r"elsewhere.*--events FILE"):
        load_sample(pipeline, load_settings(home=tmp_path), None)
