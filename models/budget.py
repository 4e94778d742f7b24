"""Models that answer in time or not at all: a call over its budget is stopped, and one that does not stop is left.

onnxruntime looks at `RunOptions.terminate` between two operators and two rounds of a loop. An operator that takes long
by itself goes on; so calls run in a thread of their own, which nobody waits for any longer than the budget.
"""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from models.circuit import Circuit, CircuitState

Floats = npt.NDArray[np.float64]
_ort: Any = onnxruntime  # its names are re-exported in a way mypy does not take


class OverBudgetError(RuntimeError):
    """The model gave no answer in time; that is no row's fault."""


class Stoppable(Protocol):
    """What is needed of a model; see `OnnxModel.predict`."""

    def predict(self, features: Floats, stop: Any = None) -> Floats:
        """Scores (n,) of features (n, F)."""


class _Call(NamedTuple):
    features: Floats
    stop: Any
    answer: "queue.SimpleQueue[Floats | Exception]"


class TimedModel:
    """A model with a budget of time for each batch, and a circuit.

    Args:
        model: What scores.
        budget_ms: For all calls of a batch together.
        clock_s: Seconds that never go back.

    Attributes:
        circuit: Open while the model is not asked.
    """

    def __init__(
        self, model: Stoppable, budget_ms: float, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.circuit = Circuit(clock_s)
        self._budget_ms, self._clock_s = budget_ms, clock_s
        self._until_s: float | None = None
        self._running: queue.SimpleQueue[Floats | Exception] | None = None
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        # a daemon: a call that never ends must not keep the process
        self._thread = threading.Thread(
            target=answer_calls, args=(model, self._calls), name="model-calls", daemon=True
        )
        weakref.finalize(self, self._calls.put, None)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Within it `predict` may be called, several times; the budget runs from its beginning."""
        asked = self._may_be_asked()
        self._until_s = self._clock_s() + self._budget_ms / 1e3 if asked else None
        try:
            yield
        finally:
            if asked:
                self.circuit.tell(in_time=self._until_s is not None)
            self._until_s = None

    def predict(self, features: Floats) -> Floats:
        """Scores (n,) of features (n, F).

        Raises:
            OverBudgetError: Not in time; nor is it asked again in this batch.
            Exception: Whatever the model raised.
        """
        if self._until_s is None:
            message = f"the model is over its {self._budget_ms:g} ms and not asked now"
            raise OverBudgetError(message)
        if self._thread.ident is None:  # not before: it would have the low priority of whoever opened the model
            self._thread.start()
        call = _Call(features, _ort.RunOptions(), queue.SimpleQueue())
        self._calls.put(call)
        try:
            answer = call.answer.get(timeout=max(0.0, self._until_s - self._clock_s()))
        except queue.Empty:
            call.stop.terminate = True
            self._running, self._until_s = call.answer, None
            message = f"the model took more than {self._budget_ms:g} ms"
            raise OverBudgetError(message) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _may_be_asked(self) -> bool:
        if self._running is not None and self._running.empty():  # the call that was left behind goes on
            if self.circuit.state is CircuitState.CLOSED:
                self.circuit.tell(in_time=False)
            return False
        self._running = None
        return self.circuit.lets_through()

def answer_calls(model: Stoppable, calls: "queue.SimpleQueue[_Call | None]") -> None:
    """Answer one call after the other until there comes None."""
    while (call := calls.get()) is not None:
        try:
            answer: Floats | Exception = model.predict(call.features, call.stop)
        except Exception as error:  # it is raised where the call was made
            answer = error
        call.answer.put(answer)
        del call
