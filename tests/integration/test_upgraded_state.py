"""States outlive what wrote them: another parallelism, another pipeline, another version of Millrace."""

import dataclasses
import os
import shutil
from itertools import pairwise

import numpy as np
import pytest
from answers import EVERY_HEADER, assert_features_equal, expected_of, feature_matrix, read_answers, read_events
from jobs import JobProcess
from kept_savepoints import FOLDER, KEPT, VisitWithCountry, kept_events, kept_pipeline
from workloads import log_model, make_topics, named, settings_of

from flink_jobs.events_producer import produce_events
from udfs.pipeline import Count, Distinct, Max, Sum, field

pytestmark = pytest.mark.integration

EVERY_PAIR = (1, 2, 3, 5, 6, 5, 2, 5, 3, 2, 1)
"""Each step is one of the ten pairs that Flink's own sink is tested with: 1>2 2>3 2>5 3>5 5>6 6>5 5>2 5>3 3>2 2>1."""
PARALLELISMS = EVERY_PAIR if float(os.environ.get("TEST_EXAMPLES", "1")) > 1 else (1, 2, 3, 1)
A_STEP = 150


def changed(pipeline):
    """A field, a feature over it, a window shorter, one longer, an exact one in tiles, and less of what there was."""
    events = dataclasses.replace(pipeline.events, type=VisitWithCountry)
    features = [
        *pipeline.features[:8], Count(window="30m"), Sum("amount", window="5h"), Max("amount", window="2h", tile="30m"),
        Count(window="2h", where=field("amount") > 5), Distinct("country", window="1h"), *pipeline.features[10:],
    ]  # fmt: skip
    return dataclasses.replace(pipeline, events=events, features=features)


def assert_complete_or_marked(pipeline, predictions, expected):
    """Every feature that its receipt does not name as warming up equals the oracle's; names and how often they do."""
    places = sorted(predictions)
    found = feature_matrix(pipeline, [predictions[place] for place in places])
    warming = [set(predictions[place].headers.get("warming", "").split(",")) - {""} for place in places]
    flagged = [predictions[place].headers.get("flags", "") for place in places]
    assert ["warming" in flags.split(",") for flags in flagged] == [bool(names) for names in warming]
    seen = {}
    for row, place in enumerate(places):
        for column, name in enumerate(pipeline.feature_names):
            if name in warming[row]:
                seen[name] = seen.get(name, 0) + 1
            else:
                wanted = expected.features[place][column]
                np.testing.assert_allclose(found[row, column], wanted, rtol=1e-9, err_msg=f"{name} at {place}")
    return seen


def test_a_state_survives_changes_of_parallelism_and_then_one_of_the_pipeline(broker, tmp_path):
    pipeline = named(kept_pipeline(tmp_path / "models"), "rescaled")
    log_model(pipeline, tmp_path / "models", "amount")
    make_topics(broker, pipeline)
    records = iter(kept_events(A_STEP * (len(PARALLELISMS) + 1), users=60))
    settings = settings_of(broker, tmp_path / "home", parallelism=PARALLELISMS[0])

    def send():
        produce_events(broker.bootstrap, pipeline.events.topic, [next(records) for _ in range(A_STEP)])

    send()
    with JobProcess(pipeline, settings, tmp_path / "job") as job:
        job.wait_for("running")
        for before, after in pairwise(PARALLELISMS):
            send()
            assert before != after
            job.go_on_as(pipeline, settings.model_copy(update={"parallelism": after}))
        job.catch_up()
        so_far = read_answers(broker, pipeline).predictions.keys()
        job.go_on_as(changed(pipeline), settings)
        send()
        job.catch_up()
        job.stop()
    answers, events = read_answers(broker, pipeline), read_events(broker, pipeline)
    assert answers.predictions.keys() | answers.dead_letters.keys() == {event.place for event in events}
    first = {place: answer for place, answer in answers.predictions.items() if place in so_far}
    assert all(set(answer.headers) == EVERY_HEADER | {"event-time"} for answer in first.values())
    assert_features_equal(pipeline, first, expected_of(pipeline, events))
    last = {place: answer for place, answer in answers.predictions.items() if place not in so_far}
    seen = assert_complete_or_marked(changed(pipeline), last, expected_of(changed(pipeline), events))
    assert seen.keys() == {"amount_sum_5h", "country_distinct_1h"}
    assert 0 < seen["country_distinct_1h"] < seen["amount_sum_5h"] <= len(last)


@pytest.mark.parametrize("version", sorted(path.name for path in FOLDER.iterdir()))
def test_a_savepoint_of_a_released_version_is_gone_on_from(broker, tmp_path, version):
    pipeline = dataclasses.replace(
        kept_pipeline(tmp_path / "models"), predictions=f"{version}-predictions", dead_letters=f"{version}-letters"
    )
    log_model(pipeline, tmp_path / "models", "amount")
    make_topics(broker, pipeline)
    records = kept_events()
    if not read_events(broker, pipeline):
        produce_events(broker.bootstrap, pipeline.events.topic, records)
    savepoint = tmp_path / "savepoint"
    shutil.copytree(FOLDER / version, savepoint)
    settings = settings_of(broker, tmp_path / "home", guarantee="at-least-once", checkpoint_interval_ms=1_000)
    with JobProcess(pipeline, settings, tmp_path / "job", savepoint.as_uri()) as job:
        job.wait_for("running")
        job.catch_up()
        job.stop()
    answers, events = read_answers(broker, pipeline), read_events(broker, pipeline)
    numbers = sorted(int(answer.body["id"]) for answer in answers.predictions.values())
    dead = len(answers.dead_letters)
    assert len(numbers) + dead == len(records) - KEPT
    assert numbers[0] >= KEPT
    assert all(set(answer.headers) == EVERY_HEADER | {"event-time"} for answer in answers.predictions.values())
    assert_features_equal(pipeline, answers.predictions, expected_of(pipeline, events))
