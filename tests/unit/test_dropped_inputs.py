"""A job leaves state of a restore point only where it is of topics of requests or lookups that it no longer reads."""

from types import SimpleNamespace
from unittest import mock

import pytest

from flink_jobs import dropped_inputs
from flink_jobs.restore_points import RestorePointError


class Java:
    """An array or an optional value as Java has them."""

    def __init__(self, value):
        self._value = value

    def toArray(self):
        return self._value

    def orElse(self, other):
        return other if self._value is None else self._value


def operator(uid, *, has_state=True, coordinated=False):
    subtask = SimpleNamespace(hasState=lambda: has_state)
    return SimpleNamespace(
        getOperatorUid=lambda: Java(uid), getStates=lambda: Java([subtask]),
        getCoordinatorState=lambda: b"" if coordinated else None,
    )  # fmt: skip


def left(operators, taken=("events", "score-v1")):
    """What is left, and whether Flink was told to allow it."""
    nodes = [SimpleNamespace(getTransformationUID=lambda uid=uid: uid) for uid in taken]
    java = mock.Mock()
    java.getStreamGraph.return_value.getStreamNodes.return_value = Java(nodes)
    environment = SimpleNamespace(_j_stream_execution_environment=java, configure=mock.Mock())
    metadata = SimpleNamespace(getOperatorStates=lambda: Java(operators))
    with (
        mock.patch.object(dropped_inputs, "load_metadata", return_value=metadata),
        mock.patch.object(dropped_inputs, "configuration_of", side_effect=dict),
    ):
        found = dropped_inputs.leave_dropped_inputs(environment, "savepoint")
    allowed = [mock.call({"execution.state-recovery.ignore-unclaimed-state": "true"})]
    assert environment.configure.mock_calls == (allowed if found else [])
    return found


KEPT = [operator("events", coordinated=True), operator("score-v1")]


@pytest.mark.parametrize("uid", ["requests_source", dropped_inputs.lookups_name("products") + "_source"])
def test_positions_in_dropped_topics_are_left(uid):
    assert left([*KEPT, operator(uid)]) == [uid]
    assert left([*KEPT, operator(uid, has_state=False, coordinated=True)]) == [uid]


def test_nothing_is_left_where_all_is_taken():
    assert left(KEPT) == []
    assert left([*KEPT, operator("requests_source")], ("events", "score-v1", "requests_source")) == []
    assert left([*KEPT, operator("gather-requests-v1", has_state=False)]) == []


@pytest.mark.parametrize("uid", ["sessions-v1", None])
def test_no_other_state_is_ever_left(uid):
    assert left([*KEPT, operator(uid)]) == []
    assert left([*KEPT, operator("requests_source"), operator(uid)]) == []


def test_what_cannot_be_read_is_left_to_flink():
    with mock.patch.object(dropped_inputs, "load_metadata", side_effect=RestorePointError("it is elsewhere")):
        assert dropped_inputs.leave_dropped_inputs(mock.Mock(), "s3://bucket/savepoint") == []
