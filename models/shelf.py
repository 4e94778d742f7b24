"""Opened models, by what they are called: the next one is opened beside those that score, in a thread of its own."""

import contextlib
import os
import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Opened = TypeVar("Opened")
_NICENESS = 10


class ModelShelf(Generic[Key, Opened]):
    """Opens models and keeps those that are needed.

    Args:
        opened: Opens and warms a model; raises why it cannot.
    """

    def __init__(self, opened: Callable[[Key], Opened]) -> None:
        self._open = opened
        self._models: dict[Key, Future[Opened]] = {}
        self._opener = ThreadPoolExecutor(1, "model-opener", initializer=_step_back)

    def put(self, key: Key, model: Opened) -> None:
        """Take in a model that is open already."""
        done: Future[Opened] = Future()
        done.set_result(model)
        self._models[key] = done

    def prepare(self, key: Key) -> None:
        """Begin to open a model that is not here; what it raised before is forgotten."""
        found = self._models.get(key)
        if found is None or (found.done() and found.exception() is not None):
            self._models[key] = self._opener.submit(self._open, key)

    def is_done(self, key: Key) -> bool:
        """Whether a model that was prepared is open, or cannot be opened."""
        found = self._models.get(key)
        return found is None or found.done()

    def get(self, key: Key) -> Opened:
        """The model: at once if it is open; else it is waited for.

        Raises:
            Exception: Whatever its opening raised.
        """
        self.prepare(key)
        return self._models[key].result()

    def opened(self) -> dict[Key, Opened]:
        """Those that are open."""
        done = {key: each for key, each in self._models.items() if each.done() and not each.cancelled()}
        return {key: each.result() for key, each in done.items() if each.exception() is None}

    def keep(self, keys: Iterable[Key]) -> None:
        """Let go of all others."""
        kept = set(keys)
        for key in [each for each in self._models if each not in kept]:
            self._models.pop(key).cancel()

    def __len__(self) -> int:
        """How many models are here, or on their way."""
        return len(self._models)


def _step_back() -> None:
    """Opening a model is no hurry; scoring is. On Linux a thread has a priority of its own."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
