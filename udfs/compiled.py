"""The one place numba is used from: typed decorators with the settings every kernel has.

No fastmath: the bits of a feature matter. Kept on disk beside the module, so only the first process ever compiles.
"""

import builtins
from collections.abc import Callable
from typing import Any, TypeVar, cast


def print(*_values: object) -> None:  # noqa: A001  # it stands in for the builtin
    """Stand in for a replaced `print` while numba is imported."""


# A Flink worker replaces the builtin by a bound method. numba registers `print` under its module's name when it is
# imported, and a method cannot be found there.
_replaced = builtins.print
if not isinstance(_replaced, type(len)):
    builtins.print = print  # type: ignore[assignment]  # never called with the builtin's keywords
try:
    from numba import njit
finally:
    builtins.print = _replaced

# typed as Any: numba leaves _nrt out of its type hints
_njit: Any = njit

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile at the first call, without reference counts: kernels make no arrays and return none."""
    return cast(F, _njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function))


def inlined(function: F) -> F:
    """Compile into each caller: handing a tuple of arrays over costs a microsecond, more than most kernels do."""
    return cast(F, _njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)(function))
