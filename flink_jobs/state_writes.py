"""State written under many keys in one go: PyFlink waits for the answer to each write before it sends the next.

At the end of a bundle PyFlink commits the states of all keys one by one, each a round trip to the JVM. Before a
checkpoint the states of all shards are written, with events waiting behind the checkpoint's barrier. Here all writes of
a commit are sent, and then all answers awaited: the JVM takes them in order from one stream.
"""

import functools
from typing import Any

from apache_beam.runners.worker.bundle_processor import SynchronousBagRuntimeState
from pyflink.fn_execution.state_impl import CachingMapStateHandler, RemoteKeyedStateBackend

_extend: Any = CachingMapStateHandler.extend
_commit: Any = RemoteKeyedStateBackend.commit
_commit_one: Any = RemoteKeyedStateBackend.commit_internal_state


def send_state_writes_together() -> None:
    """From now on, a commit of this process sends everything before it waits; once is enough."""
    CachingMapStateHandler.extend = _extend_without_waiting  # type: ignore[method-assign, assignment]
    RemoteKeyedStateBackend.commit = _commit_and_wait  # type: ignore[method-assign]


def _extend_without_waiting(handler: CachingMapStateHandler, *arguments: Any) -> Any:
    answer = _extend(handler, *arguments)
    unanswered = getattr(handler, "unanswered", None)
    if unanswered is None:  # not in a commit: whoever writes must wait
        return answer
    unanswered.append(answer)
    return None


def _commit_and_wait(backend: Any) -> None:
    handler: Any = backend._map_state_handler
    handler.unanswered = unanswered = list[Any]()
    # the handler of values is shared by the operators of a process, so what their commits wait for cannot be kept there
    backend.commit_internal_state = functools.partial(_send, unanswered)
    try:
        _commit(backend)
        for answer in unanswered:
            answer.get()
    finally:
        handler.unanswered = None
        del backend.commit_internal_state


def _send(unanswered: list[Any], state: Any) -> None:
    """The commit of one state; a value's without waiting, as `SynchronousBagRuntimeState.commit` would."""
    if isinstance(state, SynchronousBagRuntimeState):
        if state._cleared:
            unanswered.append(state._state_handler.clear(state._state_key))
        if state._added_elements:
            values = state._value_coder.get_impl(), state._added_elements
            unanswered.append(state._state_handler.extend(state._state_key, *values))
        state._cleared, state._added_elements = False, []
    else:
        _commit_one(state)
