"""Compiling, and keeping what was compiled."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numba
from numba.core import config

_Function = TypeVar("_Function", bound=Callable[..., object])

# Products may be fused with sums and sums reordered, but a NaN stays a NaN.
_MAY = {"nsz", "arcp", "contract", "afn", "reassoc"}


def element(function: _Function) -> _Function:
    """Compile a function of numbers into every loop that calls it; else the loop is no vector's."""
    compiled: _Function = numba.njit(fastmath=_MAY, error_model="numpy", forceinline=True)(function)
    return compiled


def kernel(function: _Function) -> _Function:
    """Compile a function for this processor when it is called first.

    The machine code is kept for the next process, under a name that holds the sources of all
    kernels: numba looks at a function's own file alone, and would go on with what others of this
    package were. Where nothing can be written each process compiles for itself.
    """
    compiled = numba.njit(fastmath=_MAY, error_model="numpy")(function)
    configured = config.CACHE_DIR
    config.CACHE_DIR = str(_folder(configured))
    try:
        compiled.enable_caching()
    except (OSError, RuntimeError):  # no place to write to
        pass
    finally:
        config.CACHE_DIR = configured
    kept: _Function = compiled
    return kept


def _folder(configured: str) -> Path:
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    caches = Path(configured or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "lensfinder" / f"kernels-{sources.hexdigest()[:16]}"
