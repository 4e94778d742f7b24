"""A job goes on from a savepoint of one that read more topics: requests, or rows of lookups.

Flink refuses state that no operator takes, which is right of all others: a job without it would not be the same.
"""

from typing import TYPE_CHECKING, Any

from flink_jobs.environment import LEAVE_UNCLAIMED, configuration_of
from flink_jobs.restore_points import RestorePointError, load_metadata, operator_uid

if TYPE_CHECKING:
    from pyflink.datastream import StreamExecutionEnvironment

REQUESTS_NAME = "requests"
_LOOKUPS = "lookups-"


def lookups_name(topic: str) -> str:
    """What the operators that read a topic of rows are named by."""
    return f"{_LOOKUPS}{topic}"


def leave_dropped_inputs(environment: "StreamExecutionEnvironment", restore_from: str) -> list[str]:
    """Allow that positions in topics of requests and lookups are left, if nothing else of a restore point would be.

    Args:
        environment: Has the whole job.
        restore_from: Where it goes on from. Of one that is not on this machine nothing is left.

    Returns:
        The uids of the operators whose state is left.
    """
    try:
        operators = load_metadata(restore_from).getOperatorStates().toArray()
    except RestorePointError:  # Flink says what is wrong with it, where the job runs
        return []
    nodes = environment._j_stream_execution_environment.getStreamGraph(False).getStreamNodes().toArray()
    taken = {str(node.getTransformationUID()) for node in nodes}
    left = [uid for uid in map(operator_uid, filter(_has_state, operators)) if uid not in taken]
    if not left or not all(uid.startswith((f"{REQUESTS_NAME}_", _LOOKUPS)) for uid in left):
        return []
    environment.configure(configuration_of(LEAVE_UNCLAIMED))
    return left


def _has_state(operator: Any) -> bool:
    """As Flink asks of an operator that nobody takes."""
    states = operator.getStates().toArray()
    return operator.getCoordinatorState() is not None or any(each.hasState() for each in states)
