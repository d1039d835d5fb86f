"""Compiling, and keeping what was compiled.

Nothing is rearranged on the way: sums keep their order and products are rounded before they are
added, so that a kernel gives the same bits however it was compiled, for whatever processor. A loop
over arrays is a vector's all the same, and costs no more.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numba
from numba.core import caching, config

from lensfinder.simulate.compiled import folder

_Function = TypeVar("_Function", bound=Callable[..., object])

# Of a full disk, of a file that may not be read, and what unpickling makes of a damaged one.
_ERRORS = (
    *(OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, LookupError),
    *(AttributeError, ImportError, MemoryError),
)


def element(function: _Function) -> _Function:
    """Compile a function of numbers into every loop that calls it; else the loop is no vector's."""
    compiled: _Function = numba.njit(error_model="numpy", forceinline=True)(function)
    return compiled


def kernel(function: _Function) -> _Function:
    """Compile a function for this processor when it is called first.

    The machine code is kept for later processes.
    """
    compiled: Any = numba.njit(error_model="numpy")(function)
    if not config.DISABLE_JIT:
        # Where no folder can be written to each process compiles for itself.
        with suppress(OSError, RuntimeError):
            compiled._cache = _Kept(function)
    kept: _Function = compiled
    return kept


class _Kept(caching.FunctionCache):  # type: ignore[misc]
    """Machine code in a folder of its own.

    numba looks at a function's own file alone, and would go on with what functions and constants
    of other files were. What can't be read is compiled, what can't be written is not kept.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        configured = config.CACHE_DIR
        # One that can't be written to raises: numba would go on to a folder beside the sources.
        config.CACHE_DIR = str(folder())
        try:
            super().__init__(function)
        finally:
            config.CACHE_DIR = configured

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        with suppress(*_ERRORS):
            return super().load_overload(signature, target_context)
        return None

    def save_overload(self, signature: Any, data: Any) -> None:
        with suppress(*_ERRORS):
            super().save_overload(signature, data)
