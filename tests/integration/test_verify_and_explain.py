"""What was served is computed again: a job's answers hold, and every kind of tampering is found."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from answers import read_answers, read_events
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from jobs import JobProcess
from test_backfill_runs import with_late_ones
from workloads import PURCHASE, make_topics, purchase, settings_of, shoppers

from flink_jobs.answer_comparison import ANSWER_DELETED, DIFFERENT, DUPLICATED, MISSING, NO_EVENT, OLDER_THAN_TOPIC
from flink_jobs.committed_reader import read_all
from flink_jobs.console import CommandError
from flink_jobs.events_producer import produce_events
from flink_jobs.explanation import explain
from flink_jobs.fork_command import model_of_version, run_fork_command
from flink_jobs.fork_target import ForkTargetError, fork_topic
from flink_jobs.kafka_admin import committed_offsets
from flink_jobs.pipeline_model import named_model, open_model
from flink_jobs.pipelines import model_folder
from flink_jobs.topics import group_id
from flink_jobs.verify_job import VerifyRequest, verify
from udfs.aggregates import Mean
from udfs.entity_state import ShardState
from udfs.key_places import key_shards
from udfs.output_batch import read_outputs
from udfs.plan import FeaturePlan
from udfs.record_batch import RecordBatch, pack_records
from udfs.scoring import Scorer
from udfs.wire_formats import PredictionEncoder

pytestmark = pytest.mark.integration

EVENTS = 3_000
ROOT = Path(__file__).parents[2]


def nothing(*_):
    pass


@pytest.fixture(scope="module")
def run(broker, tmp_path_factory):
    """One run of the real job: pipeline, settings, events, answers."""
    folder = tmp_path_factory.mktemp("job")
    pipeline = purchase("verified")
    settings = settings_of(broker, folder / "home")
    make_topics(broker, pipeline)
    with JobProcess(pipeline, settings, folder) as job:
        produce_events(broker.bootstrap, pipeline.events.topic, with_late_ones(shoppers(EVENTS, users=80, rounds=3)[0]))
        job.wait_for("running")
        job.catch_up()
        job.stop()
    return pipeline, settings, read_events(broker, pipeline), read_answers(broker, pipeline)


def check(pipeline, settings, **options):
    return verify(VerifyRequest(pipeline, settings, **options))


def copied(broker, pipeline, name, change=lambda _number, message: [message]):
    """The pipeline with copies of its answers in topics of their own; `change` gives what becomes of each."""
    copy = dataclasses.replace(pipeline, predictions=f"{name}-predictions", dead_letters=f"{name}-dead-letters")
    make_topics(broker, copy)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    targets = {pipeline.predictions: copy.predictions, pipeline.dead_letters: copy.dead_letters}
    for original, target in targets.items():
        messages = [(m.key(), m.value(), m.headers(), m.partition()) for m in read_all(broker.bootstrap, [original])]
        for number, message in enumerate(messages):
            for key, value, headers, partition in change((original, number), message):
                producer.produce(target, value, key, headers=headers, partition=partition)
    producer.flush()
    return copy


def test_what_a_job_served_comes_out_again_to_the_last_bit(run):
    pipeline, settings, events, answers = run
    report = check(pipeline, settings, processes=2)
    findings = report.findings
    assert findings.holds, findings
    assert findings.equal == len(events) == len(answers.predictions) + len(answers.dead_letters)
    assert findings.dead_letters == len(answers.dead_letters) > 30
    assert (findings.waiting, findings.unverifiable.total()) == (0, 0)
    assert "first record" in report.beginning.text


def test_a_fork_scores_what_was_served_by_another_version_and_touches_nothing(broker, run, tmp_path, capsys):
    pipeline, settings, _, answers = run
    committed = committed_offsets(broker.bootstrap, group_id(pipeline), pipeline.events.topic)
    times = sorted(int(answer.headers["event-time"]) for answer in answers.predictions.values())
    since = times[len(times) // 2]
    came = {(m.partition(), m.offset()): m.timestamp()[1] for m in read_all(broker.bootstrap, [pipeline.events.topic])}
    newest = max(min(int(each.headers["event-time"]), came[at]) for at, each in answers.predictions.items())
    ago = f"{newest - since}ms"
    other = model_of_version(pipeline, 1)
    expected = {}
    for place, answer in answers.predictions.items():
        if int(answer.headers["event-time"]) >= since:
            row = [np.nan if each is None else each for each in answer.body["features"].values()]
            expected[place] = answer.body[pipeline.prediction], float(other.predict(np.array([row]))[0])
    options = {
        "version": 1, "against": None, "since": ago, "until": None, "threshold": 0.3, "labels": None, "job_began": None,
        "processes": 1, "replace": False, "as_json": True,
    }  # fmt: skip
    run_fork_command(pipeline, "verified", settings, target=str(tmp_path / "fork.parquet"), **options)
    told = json.loads(capsys.readouterr().out)
    assert (told["compared"], told["again"], told["not_again"], told["failed"]) == (len(expected), len(expected), 0, 0)
    found = told["comparison"]["2 (served) and 1 (fork)"]
    before, now = np.array(list(expected.values())).T
    assert found["yes_to_no"] == ((before >= 0.3) & (now < 0.3)).sum()
    assert found["no_to_yes"] == ((before < 0.3) & (now >= 0.3)).sum()
    assert found["largest_difference"] == told["largest"][0]["difference"] == np.abs(now - before).max() > 0
    rows = pq.read_table(tmp_path / "fork.parquet").to_pylist()
    kept = {(row["_partition"], row["_offset"]): (row["before"], row[pipeline.prediction]) for row in rows}
    assert kept == expected
    run_fork_command(pipeline, "verified", settings, target="topic", **options)
    messages = list(read_all(broker.bootstrap, [fork_topic(pipeline, 1)]))
    written = {}
    for message in messages:
        headers = {name: text.decode() for name, text in message.headers()}
        assert (headers["millrace-role"], headers["millrace-model-version"]) == ("fork", "1")
        place = int(headers["millrace-partition"]), int(headers["millrace-offset"])
        served, body = answers.predictions[place], json.loads(message.value())
        assert message.partition() == place[0]
        assert {**served.body, "scored_at": 0, pipeline.prediction: 0} == {
            **body, "scored_at": 0, pipeline.prediction: 0
        }  # fmt: skip
        written[place] = served.body[pipeline.prediction], body[pipeline.prediction]
    assert written == expected
    assert len(messages) == len(expected)
    with pytest.raises(ForkTargetError, match="--replace"):
        run_fork_command(pipeline, "verified", settings, target="topic", **options)
    assert committed_offsets(broker.bootstrap, group_id(pipeline), pipeline.events.topic) == committed
    assert check(pipeline, settings).findings.holds


def test_only_events_of_the_range_are_judged_and_their_windows_are_full(run):
    pipeline, settings, _, answers = run
    times = sorted(int(answer.headers["event-time"]) for answer in answers.predictions.values())
    since, until = times[len(times) // 2], times[len(times) * 3 // 4]
    report = check(pipeline, settings, since_ms=since, until_ms=until)
    inside = sum(since <= time < until for time in times)
    assert report.findings.holds, report.findings
    assert inside <= report.findings.equal - report.findings.dead_letters <= inside
    assert report.findings.dead_letters < len(answers.dead_letters)


def test_every_kind_of_tampering_is_found_and_shown(broker, run):
    pipeline, settings, _, _ = run

    def change(at, message):
        key, value, headers, partition = message
        if at == (pipeline.predictions, 10):
            served = json.loads(value)
            served[pipeline.prediction] = float(np.nextafter(served[pipeline.prediction], 1))
            return [(key, json.dumps(served), headers, partition)]
        if at == (pipeline.predictions, 20):
            return []
        if at == (pipeline.predictions, 30):
            return [message, message]
        if at == (pipeline.predictions, 40):
            served = json.loads(value)
            served["features"]["count_1h"] += 1
            return [(key, json.dumps(served), headers, partition)]
        if at == (pipeline.predictions, 50):
            return [(key, value, [*headers, ("millrace-flags", b"truncated")], partition)]
        if at == (pipeline.dead_letters, 3):
            told = dict(headers) | {"millrace-reason": b"model_failed"}
            return [(key, value, list(told.items()), partition)]
        if at == (pipeline.dead_letters, 4):
            return []
        return [message]

    findings = check(copied(broker, pipeline, "tampered", change), settings, most=10).findings
    assert findings.counts == {DIFFERENT: 4, MISSING: 2, DUPLICATED: 1}
    words = sorted(each.what for each in findings.first if each.kind == DIFFERENT)
    assert words == ["a dead letter (model_failed)", "count_1h", "flags", pipeline.prediction]
    shown = next(each for each in findings.first if each.what == "count_1h")
    assert shown.served[0].topic == "tampered-predictions"
    assert set(shown.now["features"]) == set(pipeline.feature_names)


def test_an_engine_that_is_wrong_by_the_last_bit_is_found(run, monkeypatch):
    pipeline, settings, _, answers = run
    place = pipeline.feature_names.index("dwell_time_sec_mean_1h")
    right = ShardState.advance

    def wrong(self, *arguments):
        advanced = right(self, *arguments)
        if advanced.features.shape[1] > place:
            advanced.features[:, place] = np.nextafter(advanced.features[:, place], np.inf)
        return advanced

    monkeypatch.setattr(ShardState, "advance", wrong)
    findings = check(pipeline, settings).findings
    there = [each.body["features"]["dwell_time_sec_mean_1h"] is not None for each in answers.predictions.values()]
    assert findings.counts[DIFFERENT] == sum(there) > 0.9 * len(there)
    assert "dwell_time_sec_mean_1h" in findings.first[0].what


def test_answers_of_an_unknown_model_or_feature_set_are_counted_apart_and_not_as_equal(run, tmp_path):
    pipeline, settings, _, answers = run
    absent = dataclasses.replace(pipeline, model=dataclasses.replace(pipeline.model, root=tmp_path))
    changed = [Mean("dwell_time_sec", window="2h") if each.name == "dwell_time_sec_mean_1h" else each
               for each in pipeline.features]  # fmt: skip
    other = dataclasses.replace(pipeline, features=changed)
    for unlike, word in ((absent, "is not in"), (other, "feature set")):
        findings = check(unlike, settings).findings
        assert findings.equal == findings.dead_letters
        [(why, count)] = findings.unverifiable.items()
        assert word in why
        assert count == len(answers.predictions)


def answer_as_a_job(broker, pipeline, begin, settings):
    """Answer the events from some offsets on with empty state, as a job does that begins there."""
    plan, model = FeaturePlan.build(pipeline), open_model(pipeline, model_folder(pipeline))
    encoder = PredictionEncoder(pipeline, model=named_model(model.manifest))
    scorer, states = Scorer(plan, model, encoder, lambda: 1), {}
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for event in read_events(broker, pipeline):
        partition, offset = event.place
        if offset < begin.get(partition, 0):
            continue
        shard = int(key_shards([(event.key or b"").decode()], settings.shards)[0])
        states.setdefault(shard, ShardState(plan, log_changes=False))
        batch = pack_records([event.key], [event.value], [partition], [offset], [event.time_ms], shard=shard)
        for output in read_outputs(scorer.score(RecordBatch(batch), states)):
            producer.produce(output.topic, output.value, output.key, headers=list(output.headers.items()))
        producer.poll(0)
    producer.flush()


def test_a_job_that_began_later_with_empty_state_is_judged_from_there(broker, run):
    pipeline, settings, events, _ = run
    later = dataclasses.replace(pipeline, predictions="later-predictions", dead_letters="later-dead-letters")
    make_topics(broker, later)
    begin = {partition: 300 for partition in range(pipeline.events.partitions)}
    answer_as_a_job(broker, later, begin, settings)
    report = check(later, settings)
    assert report.findings.holds, report.findings
    assert report.findings.equal == sum(event.place[1] >= 300 for event in events)
    assert "0:300,1:300,2:300" in report.beginning.text
    from_the_first = check(later, settings, job_began="earliest").findings
    assert from_the_first.counts[MISSING] == 900
    assert from_the_first.counts[DIFFERENT] > 100


@pytest.mark.parametrize("reference", ["{topic}/{p}/{o}", "{p}:{o}", "{topic}-{p}@{o}", "id", "answer"])
def test_an_event_is_explained_by_the_events_its_features_were_made_of(run, reference):
    pipeline, settings, events, answers = run
    place, answer = max(answers.predictions.items(), key=lambda each: each[1].body["features"]["count_1h"])
    text = reference.format(topic=pipeline.events.topic, p=place[0], o=place[1])
    if reference == "id":
        text = answer.body["event_id"]
        same = [each.place for each in answers.predictions.values() if each.body["event_id"] == text]
        if len(same) > 1:
            pytest.skip("a late copy has the same id")
    if reference == "answer":
        text = f"{pipeline.predictions}/{answer.at[0]}/{answer.at[1]}"
    explained = explain(pipeline, settings, text, None, nothing)
    assert explained.found.place == place
    assert explained.differences == ()
    assert explained.score == {pipeline.prediction: answer.body[pipeline.prediction]}
    told = {name: value if np.isfinite(value) else None for name, value in explained.computed.features.items()}
    assert told == answer.body["features"]
    count = sum("count_1h" in each.features for each in explained.computed.events)
    assert count == answer.body["features"]["count_1h"] > 5
    assert explained.computed.events[-1].place == place
    by_place = {event.place: event for event in events}
    assert all(by_place[each.place].key == answer.key for each in explained.computed.events)


def test_every_late_event_is_explained_to_the_last_bit(run):
    pipeline, settings, _, answers = run
    late = [place for place, answer in answers.predictions.items() if "flags" in answer.headers]
    assert len(late) > 3
    for place in late[:4]:
        explained = explain(pipeline, settings, f"{place[0]}:{place[1]}", None, nothing)
        assert (explained.differences, explained.computed.flags) == ((), "late")


def test_a_dead_letter_is_explained_by_its_reason_and_what_is_not_there_is_refused(run):
    pipeline, settings, _, answers = run
    place, letter = next((p, a) for p, a in answers.dead_letters.items() if a.headers["reason"] == "wrong_type")
    explained = explain(pipeline, settings, f"{pipeline.events.topic}/{place[0]}/{place[1]}", None, nothing)
    assert (explained.refused.reason, explained.differences) == ("wrong_type", ())
    assert explained.receipt["reason"] == letter.headers["reason"]
    with pytest.raises(CommandError, match="no committed answer"):
        explain(pipeline, settings, "no-such-event", None, nothing)
    with pytest.raises(CommandError, match="has no record at partition 0"):
        explain(pipeline, settings, "0:999999", None, nothing)


def test_explaining_with_a_wrong_engine_says_that_it_is_not_what_was_served(run, monkeypatch):
    pipeline, settings, _, answers = run
    place = min(answers.predictions)
    right = ShardState.advance

    def wrong(self, *arguments):
        advanced = right(self, *arguments)
        advanced.features[:, 0] += 1.0
        return advanced

    monkeypatch.setattr(ShardState, "advance", wrong)
    explained = explain(pipeline, settings, f"{place[0]}:{place[1]}", None, nothing)
    assert any("dwell_time_sec was" in each for each in explained.differences)


def test_the_commands_answer_in_json_and_fail_when_something_differs(broker, run, tmp_path):
    _, _, _, answers = run
    (tmp_path / "own.py").write_text(
        "import dataclasses\nfrom flink_jobs.pipelines.purchase import pipeline as shipped\n"
        "events = dataclasses.replace(shipped.events, topic='verified-events')\n"
        "pipeline = dataclasses.replace(shipped, name='verified', events=events, include_features=True,\n"
        "    predictions='verified-predictions', dead_letters='verified-dead-letters', max_record_bytes=100_000)\n"
    )
    (tmp_path / "other.py").write_text((tmp_path / "own.py").read_text().replace("'verified-pred", "'tampered-pred"))

    def millrace(*arguments):
        environment = {"PYTHONPATH": str(ROOT), "MILLRACE_BOOTSTRAP": broker.bootstrap, "MILLRACE_HOME": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-m", "flink_jobs.cli", *arguments],
            env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    good = millrace("verify", str(tmp_path / "own.py"), "--since", "2020-01-01", "--json")
    assert good.returncode == 0, good.stderr
    document = json.loads(good.stdout)
    assert (document["ok"], document["different"], document["equal"]) == (
        True, 0, len(answers.predictions) + len(answers.dead_letters),
    )  # fmt: skip
    bad = millrace("verify", str(tmp_path / "other.py"), "--processes", "1")
    assert bad.returncode == 1
    assert "error: what was served is not what comes out now" in bad.stderr.splitlines()[-1]
    assert "count_1h" in bad.stdout
    place = min(answers.predictions)
    told = millrace("explain", str(tmp_path / "own.py"), f"{place[0]}:{place[1]}", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["equal"] is True
    assert list(tmp_path.glob("verify-*")) == []


def test_an_answer_to_no_record_is_found_and_deleted_answers_are_not_called_missing(broker, run):
    pipeline, settings, _, _ = run

    def invented(at, message):
        key, value, headers, partition = message
        if at != (pipeline.predictions, 5):
            return [message]
        told = dict(headers) | {"millrace-offset": b"700000"}
        return [message, (key, value, list(told.items()), partition)]

    findings = check(copied(broker, pipeline, "invented", invented), settings).findings
    assert findings.counts == {NO_EVENT: 1}
    shortened = copied(broker, pipeline, "shortened-answers")
    delete_first(broker, shortened.predictions, 200)
    findings = check(shortened, settings).findings
    assert findings.counts[MISSING] == 0
    assert findings.unverifiable[ANSWER_DELETED] >= 500


def delete_first(broker, topic, count):
    places = [TopicPartition(topic, partition, count) for partition in range(PURCHASE.events.partitions)]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.delete_records(places).values():
        future.result(10)


def test_windows_older_than_the_topic_cannot_be_judged_and_that_is_said(broker, run):
    """Runs last: it takes the beginning of the topic away."""
    pipeline, settings, events, _ = run
    delete_first(broker, pipeline.events.topic, 200)
    report = check(pipeline, settings)
    assert report.findings.holds, report.findings
    assert report.findings.unverifiable[OLDER_THAN_TOPIC] > 50
    assert report.findings.equal + report.findings.unverifiable[OLDER_THAN_TOPIC] == sum(
        event.place[1] >= 200 for event in events
    )
    assert report.beginning.older == {0, 1, 2}
