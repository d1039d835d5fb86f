"""Score stamps in batches. Pure: a model and arrays in, logits out."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lensfinder.model import Model

_Pixel = TypeVar("_Pixel", bound=np.generic)

# Multiples of a quarter turn, and whether to mirror first: the symmetries of a square.
_VIEWS = tuple((turns, mirror) for mirror in (False, True) for turns in range(4))


def score(
    model: Model,
    image_NCHW: NDArray[np.float32],
    mask_NCHW: NDArray[np.uint8],
    *,
    batch_size: int,
    views: int = 1,
) -> NDArray[np.float32]:
    """Return the logit of each stamp.

    Parameters
    ----------
    model : Model
    image_NCHW : (N, band, y, x) float32, nJy; may be a memory map
    mask_NCHW : (N, band, y, x) uint8
    batch_size : int
        Stamps in a forward pass, which bounds the memory.
    views : {1, 8}
        8: mean logit over flips and quarter turns.

    Returns
    -------
    (N,) float32
    """
    logit = np.empty(len(image_NCHW), np.float32)
    for start in range(0, len(logit), batch_size):
        batch = slice(start, start + batch_size)
        image, mask = np.asarray(image_NCHW[batch]), np.asarray(mask_NCHW[batch])
        seen = [
            model.logits(_turn(image, turns, mirror), _turn(mask, turns, mirror))
            for turns, mirror in _VIEWS[:views]
        ]
        logit[batch] = np.mean(seen, axis=0, dtype=np.float64)
    return logit


def _turn(array: NDArray[_Pixel], turns: int, mirror: bool) -> NDArray[_Pixel]:
    if mirror:
        array = array[..., ::-1]
    return np.ascontiguousarray(np.rot90(array, turns, axes=(-2, -1)))
