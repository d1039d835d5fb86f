"""Stamps: from pixels and positions to arrays. Pure.

A stamp has an odd side and its central pixel is the one nearest to the target. At an edge it is
padded, never shifted, so that the target stays where it is said to be.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Plane(Protocol):
    """Whatever can be sliced as ``plane[y0:y1, x0:x1]``: an array, or a file read lazily."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: tuple[slice, slice], /) -> NDArray[Any]: ...


def central_pixels(x: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Split positions along one axis into the nearest pixel and the rest.

    Parameters
    ----------
    x : (N,) float64
        0-based positions; a pixel's centre has a whole number.

    Returns
    -------
    index : (N,) int64
    offset : (N,) float32
        Position minus pixel centre, in [-0.5, 0.5).
    """
    index = np.floor(x + 0.5).astype(np.int64)
    return index, (x - index).astype(np.float32)


def crop(
    plane: Plane,
    ix: NDArray[np.int64],
    iy: NDArray[np.int64],
    size: int,
    *,
    fill: float,
    dtype: Any,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Cut square stamps around pixels.

    Parameters
    ----------
    plane : Plane
        (Y, X) pixels.
    ix, iy : (N,) int64
        Central pixels; may lie anywhere, even outside.
    size : int
        Odd side of a stamp.
    fill : float
        Value of pixels outside the plane.
    dtype : numpy type
    out : (N, size, size) array, optional
        Where to put them.

    Returns
    -------
    (N, size, size) array

    Notes
    -----
    Targets sorted by row are read in the order of the file.
    """
    height, width = plane.shape
    half = size // 2
    stamps = np.empty((len(ix), size, size), dtype) if out is None else out
    for stamp, x, y in zip(stamps, ix.tolist(), iy.tolist(), strict=True):
        left, bottom = x - half, y - half
        if left >= 0 and bottom >= 0 and left + size <= width and bottom + size <= height:
            stamp[:] = plane[bottom : bottom + size, left : left + size]
            continue
        stamp[:] = fill
        x0, x1 = max(0, left), min(width, left + size)
        y0, y1 = max(0, bottom), min(height, bottom + size)
        if x0 < x1 and y0 < y1:
            stamp[y0 - bottom : y1 - bottom, x0 - left : x1 - left] = plane[y0:y1, x0:x1]
    return stamps
