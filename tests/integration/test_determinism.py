"""The same topic gives the same answers, byte for byte, however the work is cut and spread."""

import msgspec
import pytest
from answers import (
    LiveReader,
    assert_dead_letters,
    assert_entity_order,
    assert_features_equal,
    assert_receipts,
    expected_of,
    read_answers,
    read_events,
)
from jobs import JobProcess
from workloads import make_topics, purchase, settings_of, shoppers

from flink_jobs.events_producer import produce_events

pytestmark = pytest.mark.integration

EVENTS = 12_000
TOPIC = "same-events"


@pytest.fixture(scope="module")
def runs(broker, tmp_path_factory):
    """Two runs over one topic: the pipeline of the first, the events, both runs' answers, the broken by place."""
    records, broken = shoppers(EVENTS)
    found = []
    for name, parallelism, batch_ms in (("alone", 1, 20), ("together", 2, 300)):
        pipeline = purchase(name, topic=TOPIC)
        folder = tmp_path_factory.mktemp(name)
        settings = settings_of(broker, folder / "home", parallelism=parallelism, batch_ms=batch_ms)
        make_topics(broker, pipeline)
        with LiveReader(broker, pipeline) as reader, JobProcess(pipeline, settings, folder) as job:
            if not found:
                produce_events(broker.bootstrap, TOPIC, records)
            job.wait_for("running")
            job.catch_up()
            job.stop()
            during = reader.answers()
        assert during == read_answers(broker, pipeline)
        found.append((pipeline, during))
    events = read_events(broker, found[0][0])
    reasons = {event.place: broken[event.key, event.value] for event in events if (event.key, event.value) in broken}
    return found, events, reasons


def comparable(answer):
    """An answer without when it was made, where it lies and the pipeline's name, which differ by right."""
    body = msgspec.json.decode(answer.value, type=dict[str, msgspec.Raw])
    body.pop("scored_at")
    headers = {name: text for name, text in answer.headers.items() if name != "pipeline"}
    return answer.key, {name: bytes(value) for name, value in body.items()}, list(body), headers


def test_parallelism_and_batch_time_change_no_byte_of_a_prediction(runs):
    [(_, alone), (_, together)], _, _ = runs
    assert alone.predictions.keys() == together.predictions.keys()
    for place, answer in alone.predictions.items():
        assert comparable(answer) == comparable(together.predictions[place])


def test_parallelism_and_batch_time_change_no_byte_of_a_dead_letter(runs):
    [(_, alone), (_, together)], _, _ = runs
    assert alone.dead_letters.keys() == together.dead_letters.keys()
    for place, answer in alone.dead_letters.items():
        other = together.dead_letters[place]
        assert (answer.key, answer.value) == (other.key, other.value)
        assert {**answer.headers, "pipeline": ""} == {**other.headers, "pipeline": ""}


def test_predictions_of_an_entity_lie_in_the_order_of_its_events(runs):
    for pipeline, answers in runs[0]:
        assert_entity_order(pipeline, answers.predictions)


def test_generated_events_get_one_right_answer_each_and_features_of_the_oracle(runs):
    found, events, reasons = runs
    for pipeline, answers in found:
        expected = expected_of(pipeline, events, every=1 if pipeline.name == "alone" else EVENTS)
        assert len(answers.predictions) == EVENTS
        assert answers.predictions.keys() == expected.events.keys()
        assert_dead_letters(pipeline, events, answers.dead_letters, reasons)
        assert_receipts(pipeline, events, answers.predictions, expected.late)
        assert_features_equal(pipeline, answers.predictions, expected)
