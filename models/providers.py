"""Which of onnxruntime's execution providers scores: the CPU's, or CUDA's where it is there.

The choice is of the process, in its environment, so that everything that opens a model there opens it alike.
"""

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import onnxruntime

from models.json_document import ModelRefusedError

VARIABLE = "MILLRACE_ONNX_PROVIDERS"
CPU_ONLY, CUDA_IF_THERE, CUDA_ONLY = CHOICES = ("cpu", "auto", "cuda")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# by default products of matrices are rounded to ten bits of mantissa on newer GPUs
_CUDA_OPTIONS = {"use_tf32": "0"}

_ort: Any = onnxruntime
_logger = logging.getLogger(__name__)


def use_providers(choice: str) -> None:
    """Choose for the models that this process and those that it starts open from now on: one of `CHOICES`."""
    os.environ[VARIABLE] = choice


def on_providers(make: Callable[[list[Any]], Any], where: str) -> Any:
    """A session on the providers that were chosen; `auto` without CUDA is the CPU, and one line of the log says so.

    Args:
        make: Opens the session on a list of providers.
        where: What errors call the model.

    Returns:
        What `make` gave.

    Raises:
        ModelRefusedError: CUDA was asked for and is not there, or the choice is none.
    """
    choice = os.environ.get(VARIABLE, CPU_ONLY)
    if choice not in CHOICES:
        message = f"{VARIABLE} is {choice!r}: write {', '.join(CHOICES)}"
        raise ModelRefusedError(message)
    if choice == CPU_ONLY:
        return make([_CPU])
    session, why = _on_cuda(make)
    if session is not None:
        return session
    if choice == CUDA_ONLY:
        message = f"{where}: onnx_providers is cuda, but {why}; auto scores on the CPU then"
        raise ModelRefusedError(message)
    _tell(why)
    return make([_CPU])


def _on_cuda(make: Callable[[list[Any]], Any]) -> tuple[Any, str]:
    """A session on CUDA, or why there is none."""
    if _CUDA not in _ort.get_available_providers():
        return None, f"onnxruntime {_ort.__version__} has no CUDA here (the package onnxruntime-gpu has)"
    try:
        session = make([(_CUDA, _CUDA_OPTIONS), _CPU])
    except Exception as error:
        return None, f"CUDA did not start: {' '.join(str(error).split())}"
    if _CUDA not in session.get_providers():
        return None, "CUDA did not start (no driver, or none that onnxruntime was made for)"
    return session, ""


@functools.cache
def _tell(why: str) -> None:
    """Once for each reason: a model is opened by every subtask."""
    _logger.warning("models are scored on the CPU: %s", why)
