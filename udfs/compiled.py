"""The one place numba is used from: typed decorators with the settings every kernel has, and parcels of arrays.

No fastmath: the bits of a feature matter. What is compiled is kept on disk by its content, in `$MILLRACE_CACHE/kernels`
or `~/.cache/millrace/kernels`: code that is shipped to a cluster lies in a new folder at each start, and must not be
compiled anew in each.
"""

import builtins
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, cast

import numpy as np


def print(*_values: object) -> None:  # noqa: A001  # it stands in for the builtin
    """Stand in for a replaced `print` while numba is imported."""


# A Flink worker replaces the builtin by a bound method. numba registers `print` under its module's name when it is
# imported, and a method cannot be found there.
_replaced = builtins.print
if not isinstance(_replaced, type(len)):
    builtins.print = print  # type: ignore[assignment]  # never called with the builtin's keywords
try:
    from numba import njit, typeof, types
    from numba.core.caching import CompileResultCacheImpl, _CacheLocator
    from numba.core.dispatcher import Dispatcher
    from numba.extending import intrinsic
finally:
    builtins.print = _replaced

# typed as Any: numba leaves much out of its type hints
_njit: Any = njit
_typeof: Any = typeof
_types: Any = types
_locators: Any = CompileResultCacheImpl

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")


def _stamp(function: Any) -> str:
    """Changes with anything that is compiled into a kernel: its code, what it inlines, and constants."""
    seen: dict[Any, list[str]] = {}
    waiting = [function]
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        code = each.__code__
        seen[each] = [code.co_code.hex(), repr(code.co_names), repr([c for c in code.co_consts if _is_plain(c)])]
        modules = [value for value in each.__globals__.values() if isinstance(value, ModuleType)]
        for name in code.co_names:
            for found in (each.__globals__.get(name), *(vars(module).get(name) for module in modules)):
                if isinstance(found, Dispatcher):
                    waiting.append(found.py_func)
                elif _is_plain(found):
                    seen[each].append(f"{name} = {found!r}")
    return hashlib.sha256(repr(list(seen.values())).encode()).hexdigest()


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str | tuple | np.ndarray | np.dtype | types.Type)


def kernel_folders() -> list[Path]:
    """Where compiled kernels may be kept, the best place first."""
    configured = os.environ.get("MILLRACE_CACHE")
    kept = Path(configured).expanduser() if configured else Path.home() / ".cache" / "millrace"
    return [kept / "kernels", Path(tempfile.gettempdir()) / f"millrace-kernels-{os.getuid()}"]


class _ByContent(_CacheLocator):
    """Keeps each of our kernels in a folder that its content names.

    numba itself would look only at the kernel's own file, but a kernel holds what it inlines from others.
    """

    def __init__(self, folder: Path, stamp: str, line: int) -> None:
        self._folder, self._source_stamp, self._line = folder, stamp, line

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._source_stamp

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, function: Any, _file: str) -> "_ByContent | None":
        if function.__module__.partition(".")[0] != __package__:
            return None
        stamp = _stamp(function)
        for kept in kernel_folders():
            folder = kept / stamp[:24]
            if _may_use(folder):
                return cls(folder, stamp, function.__code__.co_firstlineno)
        return None


def _may_use(folder: Path) -> bool:
    """Whether the folder is there, or can be made, and nobody but us or root owns it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        parts = [each.stat() for each in (folder, folder.parent)]
    except OSError:
        return False
    return all(part.st_uid in (0, os.getuid()) and not part.st_mode & 0o002 for part in parts)


_locators._locator_classes = [_ByContent, *_locators._locator_classes]


def compiled(function: F) -> F:
    """Compile at the first call, without reference counts: kernels make no arrays and return none."""
    return cast(F, _njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function))


def inlined(function: F) -> F:
    """Compile into each caller: handing a tuple of arrays over costs a microsecond, more than most kernels do."""
    return cast(F, _njit(nogil=True, error_model="numpy", forceinline=True, _nrt=False)(function))


def called(function: F) -> F:
    """Compile once for all callers, which hand over the address of a parcel: what is large or seldom needed."""
    return cast(F, _njit(nogil=True, error_model="numpy", _nrt=False)(function))


def _intrinsic(function: Callable[..., Any]) -> Any:
    """A function of kernels whose code is given as LLVM instructions."""
    return intrinsic(function)


@_intrinsic
def _size_of(_context: Any, content: Any) -> Any:
    def code(context: Any, _builder: Any, signature: Any, _values: Any) -> Any:
        size = context.get_abi_sizeof(context.get_value_type(signature.args[0]))
        return context.get_constant(_types.int64, size)

    return _types.int64(content), code


@_intrinsic
def _put(_context: Any, address: Any, content: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = context.get_value_type(signature.args[1])
        builder.store(values[1], builder.inttoptr(values[0], kind.as_pointer()))
        return context.get_dummy_value()

    return _types.void(address, content), code


@_intrinsic
def _get(_context: Any, address: Any, kind: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = context.get_value_type(signature.return_type)
        return builder.load(builder.inttoptr(values[0], value.as_pointer()))

    return kind.instance_type(address, kind), code


@compiled
def _size(content: Any) -> int:
    size: int = _size_of(content)
    return size


@compiled
def _pack(address: int, content: Any) -> None:
    _put(address, content)


opened: Any = _get
"""In a kernel: the content of the parcel at an address, of a kind given by `kind_of`."""


def kind_of(content: Any) -> Any:
    """What a kernel must know to open parcels like this one."""
    return _typeof(content)


def _form_of(content: Any) -> Any:
    """Differs for any two contents that numba would lay out differently."""
    if isinstance(content, np.ndarray):
        return content.dtype, content.ndim, content.flags.carray
    return (type(content), *map(_form_of, content)) if isinstance(content, tuple) else type(content)


class Parcel:
    """A named tuple of arrays, taken apart once; a kernel gets its address.

    numba takes a tuple apart at every call, and for forty arrays that costs more than a small batch does.

    Args:
        content: The tuple; its field `address` is filled in.
        kind: What kernels will open it as, from `kind_of`.

    Attributes:
        content: The tuple; it is kept alive, and must not be changed but in the arrays' elements.
        address: Where its parts are; valid as long as the parcel lives.
    """

    _fitting: ClassVar[set[Any]] = set()

    def __init__(self, content: Any, kind: Any) -> None:
        # numba takes a millisecond to say what a tuple is
        form = (str(kind), _form_of(content))
        if form not in self._fitting:
            if kind_of(content) != kind:
                raise TypeError(f"a parcel of {kind_of(content)} cannot be opened as {kind}")
            self._fitting.add(form)
        self._parts = np.zeros(_size(content) // 8 + 1, np.int64)
        self.address = self._parts.ctypes.data
        self.content = content._replace(address=self.address)
        _pack(self.address, self.content)
