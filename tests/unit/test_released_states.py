"""States of released versions go on under this one; `kept_savepoints.py` says how they were made."""

import numpy as np
import pytest
from kept_savepoints import FOLDER, KEPT, LOGS, advance, decoded, kept_events, kept_pipeline

from udfs.entity_state import ShardState
from udfs.plan import FeaturePlan
from udfs.state_file import unpacked
from udfs.state_log import EVENTS, SNAPSHOT, VERSION, decode

OLDEST = 2
"""The first version that was released."""
KEPT_LOGS = sorted(LOGS.glob("*.state"))


def versions(log):
    return {int.from_bytes(entry[4:6], "little") for _, entry in unpacked(log.read_bytes())}


def test_every_version_since_the_first_released_one_is_kept():
    """A new version needs fixtures of its own, made by the code that writes it."""
    assert set().union(*map(versions, KEPT_LOGS)) == set(range(OLDEST, VERSION + 1))
    assert [log.stem for log in KEPT_LOGS] == sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("log", KEPT_LOGS, ids=lambda log: log.stem)
def test_features_go_on_from_a_released_state_to_the_last_bit(log):
    pipeline, entries = kept_pipeline(None), unpacked(log.read_bytes())
    assert {decode(entry).kind for _, entry in entries} == {EVENTS, SNAPSHOT}
    plan, events = FeaturePlan.build(pipeline), decoded(pipeline, kept_events())
    uninterrupted = ShardState(plan, log_changes=False)
    advance(uninterrupted, pipeline, events[:KEPT])
    restored = ShardState.restore(plan, entries)
    expected, found = (advance(state, pipeline, events[KEPT:]) for state in (uninterrupted, restored))
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.flags, expected.flags)
    assert found.warming is None
