"""State written under many keys in one go: PyFlink waits for the answer to each key's write before it sends the next.

At the end of a bundle PyFlink commits the states of all keys one by one, each a round trip to the JVM. Before a
checkpoint the states of all shards are written, with events waiting behind the checkpoint's barrier. Here all writes of
a commit are sent, and then all answers awaited: the JVM takes them in order from one stream.
"""

from typing import Any

from pyflink.fn_execution.state_impl import CachingMapStateHandler, RemoteKeyedStateBackend

_extend: Any = CachingMapStateHandler.extend
_commit: Any = RemoteKeyedStateBackend.commit


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


def _commit_and_wait(backend: RemoteKeyedStateBackend) -> None:
    handler: Any = backend._map_state_handler
    handler.unanswered = []
    try:
        _commit(backend)
        for answer in handler.unanswered:
            answer.get()
    finally:
        handler.unanswered = None
