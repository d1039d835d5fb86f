"""Augmentation: exact flips and quarter turns, and shifts by whole pixels.

What happens to an object in an epoch depends on (seed, epoch, object index) alone: not on the
rank that reads it, nor on its place in the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Keeps these random numbers apart from those of the order of objects, see `loop`.
_STREAM = 2


class Augmentation(NamedTuple):
    """One way to look at a stamp: mirror, then turn, then shift."""

    mirror: bool
    quarter_turns: int  # 0 to 3
    shift_y: int  # pixels
    shift_x: int


def draw(seed: int, epoch: int, count: int, shift_pixels: int) -> npt.NDArray[np.int64]:
    """Draw the augmentation of each object of an epoch, as rows of `Augmentation`, (count, 4).

    A row depends on its index alone, not on how many follow.
    """
    rng = np.random.default_rng((seed, _STREAM, epoch))
    # One table of like numbers, since rows must come one after another out of the generator.
    span = 2 * shift_pixels + 1
    number_N2 = rng.integers((8, span * span), size=(count, 2))
    mirror_N, quarter_turns_N = np.divmod(number_N2[:, 0], 4)
    shift_y_N, shift_x_N = np.divmod(number_N2[:, 1], span)
    columns = (mirror_N, quarter_turns_N, shift_y_N - shift_pixels, shift_x_N - shift_pixels)
    return np.stack(columns, axis=1)


def view_onto(stamp_CHW: npt.NDArray[Any], augmentation: Augmentation) -> npt.NDArray[Any]:
    """Look at a stamp as `augmentation` says.

    Shifted-in rows and columns are reflected at the edge, so that the noise there goes on: blank
    ones would tell the network which stamps were augmented.
    """
    mirror, quarter_turns, shift_y, shift_x = augmentation
    if mirror:
        stamp_CHW = stamp_CHW[:, :, ::-1]
    stamp_CHW = np.rot90(stamp_CHW, quarter_turns, axes=(1, 2))
    if shift_y or shift_x:
        rows = _reflected(stamp_CHW.shape[1], shift_y)
        columns = _reflected(stamp_CHW.shape[2], shift_x)
        stamp_CHW = stamp_CHW[:, rows][:, :, columns]
    return stamp_CHW


def _reflected(size: int, shift: int) -> npt.NDArray[np.int64]:
    """Return where each pixel of a shifted axis comes from."""
    last = size - 1
    from_N: npt.NDArray[np.int64] = np.abs(np.arange(size) - shift)
    return np.asarray(last - np.abs(last - from_N))
