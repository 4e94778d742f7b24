"""50,000 real order lines with broken records among them: each gets exactly one answer, and it is the right one."""

import math

import online_retail
import pytest
from answers import (
    LiveReader,
    assert_as_uninterrupted,
    assert_dead_letters,
    assert_entity_order,
    assert_features_equal,
    assert_receipts,
    expected_of,
    read_answers,
    read_events,
)
from jobs import JobProcess
from online_retail import RETAIL
from workloads import log_model, make_topics, order_lines, retail, settings_of

from flink_jobs.events_producer import produce_events

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not online_retail.is_there(), reason="../shared/data/online_retail is not there"),
]

LINES = 50_000
ORACLE_EVERY = 1  # events; the naive oracle takes a millisecond for each


@pytest.fixture(scope="module")
def run(broker, tmp_path_factory):
    """The one run all tests here look at: pipeline, events, both readers' answers, reasons of the broken by place."""
    folder = tmp_path_factory.mktemp("orders")
    pipeline = retail("orders", log_model(RETAIL, folder / "models"))
    records, broken = order_lines(LINES)
    make_topics(broker, pipeline)
    with (
        LiveReader(broker, pipeline) as reader,
        JobProcess(pipeline, settings_of(broker, folder / "home"), folder) as job,
    ):
        produce_events(broker.bootstrap, pipeline.events.topic, records)
        job.wait_for("running")
        job.catch_up()
        job.stop()
        during = reader.answers()
    after, events = read_answers(broker, pipeline), read_events(broker, pipeline)
    assert len(events) == len(records) >= LINES
    reasons = {event.place: broken[event.key, event.value] for event in events if (event.key, event.value) in broken}
    return pipeline, events, during, after, reasons


def test_every_line_has_exactly_one_answer_for_both_readers(run):
    _, events, during, after, _ = run
    assert during == after
    assert during.predictions.keys() | during.dead_letters.keys() == {event.place for event in events}
    assert not during.predictions.keys() & during.dead_letters.keys()


def test_every_prediction_is_right_and_has_its_receipt(run):
    pipeline, events, _, after, _ = run
    assert_receipts(pipeline, events, after.predictions)
    assert_entity_order(pipeline, after.predictions)
    for answer in after.predictions.values():
        body = answer.body
        assert body["orders_again_probability"] == pytest.approx(math.log(body["features"]["quantity"]), rel=1e-12)


def test_features_of_every_prediction_are_those_of_one_computation_to_the_last_bit(run):
    pipeline, events, _, after, _ = run
    assert_as_uninterrupted(pipeline, events, after.predictions)


def test_features_equal_the_oracle(run):
    pipeline, events, _, after, _ = run
    assert_features_equal(pipeline, after.predictions, expected_of(pipeline, events, every=ORACLE_EVERY))


def test_every_broken_line_is_a_dead_letter_with_its_reason_and_nothing_else_is(run):
    pipeline, events, _, after, reasons = run
    expected = expected_of(pipeline, events, every=LINES)
    no_logarithm = {place: "model_failed" for place, line in expected.events.items() if line.quantity <= 0}
    assert len(no_logarithm) > 500, "cancelled lines take quantities back"
    assert_dead_letters(pipeline, events, after.dead_letters, {**reasons, **no_logarithm})
