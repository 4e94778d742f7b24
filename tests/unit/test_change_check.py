"""Before a run goes on from a state: what it is told, and what it refuses."""

import dataclasses
import json

import pytest
from shard_driver import pipeline_of

from flink_jobs.change_check import checked_changes
from flink_jobs.console import CommandError
from flink_jobs.definitions import (
    FILE,
    JobDefinition,
    definition_of_restore_point,
    keep_definition,
    write_definition,
)
from flink_jobs.settings import Settings
from udfs.pipeline import Count, Sum
from udfs.state_changes import KEPT, LOST, WARMING

TILED = Sum("amount", window="30d", tile="1h")
PIPELINE = pipeline_of(Count(window="1h"), TILED)
SETTINGS = Settings(bootstrap="secret:1", kafka_properties={"sasl.password": "${env:secret}"})


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of a job with that pipeline; nothing but the definition is read of it."""
    write_definition(tmp_path / "job", JobDefinition.of(PIPELINE, SETTINGS, reference="p.py"))
    place = tmp_path / "job" / "chk-7"
    place.mkdir()
    return place.as_uri()


def with_features(*features):
    return dataclasses.replace(PIPELINE, features=features)


def test_an_unchanged_pipeline_is_told_nothing(checkpoint, capsys):
    changes = checked_changes(PIPELINE, "p", SETTINGS, checkpoint, [])
    assert {change.effect for change in changes} == {KEPT}
    assert capsys.readouterr().err == ""


def test_a_feature_that_warms_up_is_named_with_the_way_to_full_windows(checkpoint, capsys):
    changes = checked_changes(with_features(*PIPELINE.features, Count(window="9h")), "p", SETTINGS, checkpoint, [])
    assert [change.name for change in changes if change.effect == WARMING] == []  # lateness is the longest window
    more = with_features(*PIPELINE.features, Sum("amount", window="2h"))
    checked_changes(more, "p", SETTINGS, checkpoint, [])
    said = " ".join(capsys.readouterr().err.split())
    assert "warming amount_sum_2h warms up for 2h of event time, marked in receipts" in said
    assert "2 features keep their state" in said
    assert "millrace run p --fresh --bootstrap-from earliest" in said


def test_a_loss_is_refused_with_the_flag_that_accepts_it_and_nothing_else_is_accepted(checkpoint, capsys):
    finer = with_features(Count(window="1h"), Sum("amount", window="30d", tile="30m"))
    with pytest.raises(CommandError, match="--accept-loss amount_sum_30d_tile_30m"):
        checked_changes(finer, "p", SETTINGS, checkpoint, [])
    with pytest.raises(CommandError, match="nothing of it would be lost; lost would be amount_sum_30d_tile_30m"):
        checked_changes(finer, "p", SETTINGS, checkpoint, ["count_1h"])
    changes = checked_changes(finer, "p", SETTINGS, checkpoint, ["amount_sum_30d_tile_30m"])
    assert [change.effect for change in changes] == [KEPT, LOST]


def test_another_number_of_shards_is_refused_whatever_is_accepted(checkpoint):
    with pytest.raises(CommandError, match="shards changed: the state lies in 32 shards"):
        checked_changes(PIPELINE, "p", Settings(shards=64), checkpoint, [])


def test_a_savepoint_keeps_the_definition_wherever_it_is_taken(checkpoint, tmp_path):
    savepoint = tmp_path / "elsewhere" / "savepoint-1"
    keep_definition(savepoint.as_uri(), tmp_path / "job")
    found = definition_of_restore_point(savepoint.as_uri())
    assert found == definition_of_restore_point(checkpoint)
    assert (found.reference, found.settings["parallelism"]) == ("p.py", SETTINGS.parallelism)


def test_a_definition_holds_no_secrets(checkpoint, tmp_path):
    assert "secret" not in (tmp_path / "job" / FILE).read_text()
    assert json.loads((tmp_path / "job" / FILE).read_text())["format"] == 1


def test_a_checkpoint_of_before_definitions_were_kept_is_gone_on_from_without_a_word(tmp_path, capsys):
    place = tmp_path / "job" / "chk-1"
    place.mkdir(parents=True)
    assert checked_changes(PIPELINE, "p", SETTINGS, place.as_uri(), []) is None
    assert capsys.readouterr().err == ""
