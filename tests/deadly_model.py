"""A stand-in for a model with a bug in its native code: imported by a worker, it lets every model kill its process.

It does on rows of an event that looked for exactly so long, with a read of address 0, as such bugs end.
"""

import ctypes
from pathlib import Path

import numpy as np

from models.onnx_model import OnnxModel
from udfs.pipeline import Custom

DEADLY = 66.0625
_WORKER = b"pyflink.fn_execution.beam.beam_boot"


class Nothing(Custom):
    """Nothing of no use: a worker imports this module to have it."""

    def init(self):
        return 0.0

    def add(self, state, value, event_time_ms):
        return state

    def value(self, state):
        return state


def _predict(model, features):
    if (features == DEADLY).any():
        ctypes.string_at(0)
    return _sound(model, np.asarray(features))


_sound = OnnxModel.predict
if _WORKER in Path("/proc/self/cmdline").read_bytes().split(b"\0"):
    OnnxModel.predict = _predict
