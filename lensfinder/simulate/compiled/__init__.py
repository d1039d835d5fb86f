"""Kernels compiled for the processor at hand, in place of those that cost the most in torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from functools import lru_cache
from pathlib import Path

from lensfinder.errors import RequestError


def require_numba() -> None:
    """Check that kernels can be compiled here.

    Raises
    ------
    RequestError
        without numba
    """
    if importlib.util.find_spec("numba") is None:
        raise RequestError(
            "compiled kernels (simulate.compile) need numba, which is not installed",
            "pip install 'lensfinder[compile]', or --no-compile",
        )


def folder() -> Path:
    """Where machine code is kept: the name holds the sources of all that simulates.

    Raises
    ------
    OSError, RuntimeError
        if it can't be made or written to, or there is no home
    """
    own = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    caches = Path(own) if own else Path.home() / ".cache"
    kept = caches / "lensfinder" / f"kernels-{_sources()}"
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(kept, os.W_OK):
        raise PermissionError(f"{kept} can't be written to")
    return kept


@lru_cache(maxsize=1)
def _sources() -> str:
    """Hash the sources of all that simulates, 16 letters."""
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        sources.update(path.read_bytes())
    return sources.hexdigest()[:16]


def wait_ahead() -> str:
    """Say what there is to wait for before the first mock; nothing if kernels were kept."""
    try:
        kept = folder()
    except (OSError, RuntimeError) as error:
        return f"each process compiles kernels first, some half a minute: can't keep them ({error})"
    if next(kept.rglob("*.nbi"), None) is None:
        return f"kernels are compiled first, some half a minute, and kept in {kept}"
    return ""
