"""Kernels compiled for the processor at hand, in place of those that cost the most in torch."""

from __future__ import annotations

import importlib.util

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
