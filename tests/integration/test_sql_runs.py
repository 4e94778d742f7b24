"""The Table job on a broker: the DataStream job's answers, through a kill, and where its engine makes a difference."""

import json
import math
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from answers import (
    LiveReader,
    assert_dead_letters,
    assert_entity_order,
    assert_receipts,
    expected_of,
    read_answers,
    read_events,
)
from jobs import JobProcess
from workloads import PURCHASE, START_MS, log_model, make_topics, named, purchase, settings_of, shoppers

from flink_jobs.events_producer import produce_events
from flink_jobs.job_run import latest_restore_point
from flink_jobs.pipeline_model import open_model
from flink_jobs.pipelines import model_folder
from flink_jobs.topics import SQL
from models.opened import open_alone
from udfs.pipeline import Value
from udfs.wire_formats import EventDecoder, Refused

pytestmark = pytest.mark.integration

TESTS = Path(__file__).parents[1]
EVENTS, BEFORE_THE_KILL = 4_000, 2_500
AGREE, TIES, OUT_OF_ORDER, LATE, AHEAD = "agree", "ties", "out-of-order", "late", "ahead"
NINETEEN_SEVENTY = "1970"


def visit(user, number, time_ms, page="product", dwell=10.0):
    event = {"event_id": f"{user}-{number}", "user_id": user, "page_id": page, "dwell_time_sec": dwell}
    return user.encode(), json.dumps({**event, "timestamp": time_ms}).encode()


AT_FIRST = [
    visit(AGREE, 0, START_MS + 1_000), visit(NINETEEN_SEVENTY, 0, 0),
    visit(TIES, 0, START_MS + 1_000, dwell=1e150), visit(TIES, 1, START_MS + 1_000, dwell=5.0),
    visit(OUT_OF_ORDER, 0, START_MS + 4_000), visit(OUT_OF_ORDER, 1, START_MS + 2_000),
]  # fmt: skip
AFTER_TEN_MINUTES = [
    visit(AGREE, 1, START_MS + 601_000), visit(AGREE, 2, START_MS + 601_001),
    visit(TIES, 2, START_MS + 602_000, dwell=7.0),
]  # fmt: skip
AT_LAST = [visit(LATE, 0, START_MS + 1_000), visit(AHEAD, 0, 4_000_000_000_000)]


def in_their_time(records):
    """The records with ours where their event times are as far."""
    times_ms = [json.loads(value)["timestamp"] if is_event(key, value) else 0 for key, value in records]
    place = next(number for number, time_ms in enumerate(times_ms) if time_ms > START_MS + 602_000)
    return [*AT_FIRST, *records[:place], *AFTER_TEN_MINUTES, *records[place:]]


def is_event(key, value):
    return not isinstance(EventDecoder(PURCHASE).decode(key, value), Refused)


class Run:
    """What went in and came out, and when (ms)."""

    def __init__(self, pipeline, events, broken, answers, span_ms):
        self.pipeline, self.events, self.answers, self.span_ms = pipeline, events, answers, span_ms
        self.expected = expected_of(pipeline, events)
        self.place = {}
        for place, event in self.expected.events.items():
            self.place[event.event_id] = place
        self.reasons = {e.place: broken[e.key, e.value] for e in events if (e.key, e.value) in broken}
        self.reasons[self.place[f"{LATE}-0"]] = "late"
        self.reasons |= {self.place[f"{user}-0"]: "invalid_time" for user in (AHEAD, NINETEEN_SEVENTY)}

    def got(self, event, feature):
        """A feature in the answer to an event; NaN for null."""
        value = self.answers.predictions[self.place[event]].body["features"][feature]
        return math.nan if value is None else value

    def oracle(self, event, feature):
        return self.expected.features[self.place[event]][self.pipeline.feature_names.index(feature)]


@pytest.fixture(scope="module")
def run(broker, tmp_path_factory):
    """A job that is killed while it works, and another that goes on from its checkpoint to the end."""
    pipeline, folder = purchase("by-sql"), tmp_path_factory.mktemp("by-sql")
    settings = settings_of(broker, folder / "home", idle_ms=120_000, checkpoint_interval_ms=300)
    records, broken = shoppers(EVENTS, rounds=2)
    records, started_ms = in_their_time(records), time.time_ns() // 1_000_000
    make_topics(broker, pipeline)
    with LiveReader(broker, pipeline) as reader:
        produce_events(broker.bootstrap, pipeline.events.topic, records[:BEFORE_THE_KILL])
        with JobProcess(pipeline, settings, folder / "first", engine=SQL) as job:
            job.wait_for("running")
            reader.wait_for(BEFORE_THE_KILL // 2, job=job)
            job.kill()
        produce_events(broker.bootstrap, pipeline.events.topic, records[BEFORE_THE_KILL:])
        restore_from = latest_restore_point(pipeline, settings, SQL)
        assert restore_from is not None
        with JobProcess(pipeline, settings, folder / "second", restore_from, engine=SQL) as job:
            job.wait_for("running")
            reader.wait_for(EVENTS - 100, job=job)  # the watermark is past the events that come now
            produce_events(broker.bootstrap, pipeline.events.topic, AT_LAST)
            job.read_all()
            assert job.checkpoints()["late_dropped"] == 0
            job.stop(drain=True)
        during = reader.answers()
    assert during == read_answers(broker, pipeline)
    return Run(pipeline, read_events(broker, pipeline), broken, during, (started_ms, time.time_ns() // 1_000_000))


def test_every_record_has_one_answer_though_the_job_was_killed(run):
    predictions, dead_letters = run.answers
    assert not predictions.keys() & dead_letters.keys()
    assert predictions.keys() | dead_letters.keys() == {event.place for event in run.events}
    assert len(predictions) == EVENTS + len(AT_FIRST) - 1 + len(AFTER_TEN_MINUTES)


def test_dead_letters_and_receipts_are_the_streams(run):
    assert_dead_letters(run.pipeline, run.events, run.answers.dead_letters, run.reasons)
    assert_receipts(run.pipeline, run.events, run.answers.predictions)
    begin_ms, end_ms = run.span_ms
    assert all(begin_ms <= answer.body["scored_at"] <= end_ms for answer in run.answers.predictions.values())
    in_order = [place for place, answer in run.answers.predictions.items() if answer.key != OUT_OF_ORDER.encode()]
    assert_entity_order(run.pipeline, {place: run.answers.predictions[place] for place in in_order})


def test_features_of_every_event_in_order_equal_the_oracle(run):
    apart = {TIES.encode(), OUT_OF_ORDER.encode()}
    places = [place for place, answer in run.answers.predictions.items() if answer.key not in apart]
    assert len(places) > EVENTS
    for column, name in enumerate(run.pipeline.feature_names):
        got = [run.answers.predictions[place].body["features"][name] for place in places]
        wanted = [run.expected.features[place][column] for place in places]
        exact = any(word in name for word in ("count", "distinct", "since_last", "_is_", "max"))
        tolerance = 0 if exact and "_over_" not in name else 1e-9
        np.testing.assert_allclose(np.array(got, float), wanted, rtol=tolerance, atol=tolerance, err_msg=name)


def test_scores_are_the_models_for_the_features_that_stand_beside_them(run):
    model = open_model(run.pipeline, model_folder(PURCHASE))
    bodies = [answer.body for answer in run.answers.predictions.values()]
    features = np.array([[body["features"][name] for name in run.pipeline.feature_names] for body in bodies], float)
    np.testing.assert_allclose(
        [body["purchase_probability"] for body in bodies], model.predict(features), rtol=0, atol=1e-7
    )


def test_window_begins_after_the_event_that_is_just_as_old_as_it_is_long(run):
    assert [run.got(f"{AGREE}-{number}", "count_10m") for number in range(3)] == [1.0, 1.0, 2.0]


def test_events_of_one_time_share_their_windows_where_the_stream_tells_which_came_first(run):
    """Contract: a RANGE frame of SQL ends with all rows of the row's own time."""
    assert [run.got(f"{TIES}-{number}", "count_10m") for number in range(2)] == [2.0, 2.0]
    assert [run.oracle(f"{TIES}-{number}", "count_10m") for number in range(2)] == [1.0, 2.0]
    for event in (f"{TIES}-{number}" for number in range(3)):
        # what looks at the events before this one asks for their offsets, and agrees
        np.testing.assert_equal(run.got(event, "since_last_1h"), run.oracle(event, "since_last_1h"))


def test_a_huge_value_that_left_the_window_left_nothing_behind(run):
    assert run.got(f"{TIES}-0", "dwell_time_sec_sum_10m") == 1e150
    assert run.got(f"{TIES}-2", "dwell_time_sec_sum_10m") == 7.0 == run.oracle(f"{TIES}-2", "dwell_time_sec_sum_10m")


def test_windows_are_in_order_of_event_time_where_the_streams_are_in_order_of_arrival(run):
    """Contract: the event that came later but happened earlier is in the window of the one that waited for it."""
    assert [run.got(f"{OUT_OF_ORDER}-{number}", "count_10m") for number in range(2)] == [2.0, 1.0]
    assert [run.oracle(f"{OUT_OF_ORDER}-{number}", "count_10m") for number in range(2)] == [1.0, 1.0]


def test_event_behind_the_watermark_is_a_dead_letter_where_the_stream_answers_it(run):
    letter = run.answers.dead_letters[run.place[f"{LATE}-0"]]
    assert letter.headers["reason"] == "late"
    assert letter.value == AT_LAST[0][1]


def test_event_far_ahead_is_a_dead_letter_and_makes_no_other_event_late(run):
    letter = run.answers.dead_letters[run.place[f"{AHEAD}-0"]]
    assert "a day ahead" in letter.headers["exception"]


@pytest.fixture(scope="module")
def queried(broker, tmp_path_factory):
    """Answers of a user's own statements, and of a pipeline without windows: `sql_queries` in a process."""
    folder = tmp_path_factory.mktemp("queries")
    pipeline = named(PURCHASE, "without-windows", features=[Value("dwell_time_sec")])
    pipeline = named(pipeline, "without-windows", model=log_model(pipeline, folder, "dwell_time_sec"))
    make_topics(broker, pipeline)
    records = [visit("u", number, START_MS, dwell=float(number)) for number in range(200)] + [(b"u", b"{")]
    produce_events(broker.bootstrap, pipeline.events.topic, records)
    order = folder / "order.pickle"
    settings = settings_of(broker, folder / "home", parallelism=1)
    order.write_bytes(pickle.dumps((pipeline, settings.model_dump())))
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("sql_queries.py")), str(order)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS), str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr[-3_000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    return found["answers"], found["replayed"], read_events(broker, pipeline)


def shipped_scores(version):
    """Of the three rows of `sql_queries`, null where a feature is."""
    model = open_alone(f"purchase/{version}")
    given = {"dwell_time_sec": [12.5, math.nan, 60.0], "count_1h": [3, 4, 5]}
    return model.predict(np.array([given.get(name, [1, 1, 1]) for name in model.manifest.features], float).T)


def scores_of(queried, name):
    return [math.nan if score is None else score for score in queried[0]["scores"][name]]


def test_two_models_score_in_one_statement_and_null_gives_null(queried):
    for name, version in (("first", 1), ("second", 2)):
        one, _, three = shipped_scores(version)
        np.testing.assert_array_equal(scores_of(queried, name), [one, math.nan, three])


def test_features_may_be_named_and_the_newest_version_is_the_default(queried):
    for name in ("by_name", "newest"):
        np.testing.assert_array_equal(scores_of(queried, name), scores_of(queried, "second"))


def test_missing_value_is_scored_where_the_statement_asks_for_it(queried):
    np.testing.assert_array_equal(scores_of(queried, "missing"), shipped_scores(2))


def test_model_may_be_a_column_or_a_job_parameter(queried):
    np.testing.assert_array_equal(scores_of(queried, "of_the_row"), [shipped_scores(2)[0], math.nan, math.nan])
    np.testing.assert_array_equal(scores_of(queried, "set"), scores_of(queried, "first"))


def test_wrong_number_of_features_fails_with_the_names_of_the_right_ones(queried):
    assert "takes 18 features, 1 were given; it takes dwell_time_sec, page_id_is_home" in queried[0]["too_few"]


def test_pipeline_without_windows_is_answered_at_once_and_what_the_model_fails_on_is_a_dead_letter(queried):
    _, replayed, events = queried
    assert len(replayed) == len(events) == 201
    for answer in replayed:
        event = next(event for event in events if event.place == (answer["partition"], answer["offset"]))
        if event.value == b"{":
            assert answer["reason"] == "not_json"
            continue
        dwell = json.loads(event.value)["dwell_time_sec"]
        if dwell == 0.0:  # its logarithm is no number
            assert answer["reason"] == "model_failed"
        else:
            assert answer["features"] == {"dwell_time_sec": dwell}
            assert answer["score"] == pytest.approx(math.log(dwell), rel=1e-12)
