"""Training stamps as the network sees them: transformed once, then looked at anew each epoch.

Flips, quarter turns and shifts move pixels and change none, so that they may as well follow the
transform. A set that fits is kept transformed in memory: what is left to do for a batch is to copy
its pixels, each from where the view has it. That is numpy's work, on one thread beside those on
which the network computes; torch would start as many again.
"""

from __future__ import annotations

import numpy as np
import torch

from lensfinder.pixels import PixelTransform
from lensfinder.train.augment import Augmentation
from lensfinder.train.data import Pixels
from lensfinder.train.order import Index

# Of a larger set each view is transformed anew. No choice of the user's, since it shows: the level
# that a transform takes off is then that of the shifted stamp's border.
KEPT_BYTES = 2**31
_PIECE = 256  # stamps transformed at once


def view_pixels(size: int, view_B4: Index) -> Index:
    """Return which pixel of a stamp, row by row from 0, each pixel of its view shows.

    Parameters
    ----------
    size : int
        Pixels a side.
    view_B4 : ndarray of int
        Rows of `augment.Augmentation`, as `augment.view_onto` understands them.

    Returns
    -------
    ndarray of int
        (B, y, x).
    """
    pixel_YX = np.arange(size * size).reshape(size, size)
    turned_8YX = np.stack(
        [np.rot90(p, turns) for p in (pixel_YX, pixel_YX[:, ::-1]) for turns in range(4)]
    )
    which_B = 4 * view_B4[:, 0] + view_B4[:, 1]
    from_y_BY, from_x_BX = (_reflected(size, view_B4[:, column]) for column in (2, 3))
    rows, columns = from_y_BY[:, :, None], from_x_BX[:, None, :]
    return np.asarray(turned_8YX[which_B[:, None, None], rows, columns])


def _reflected(size: int, shift_B: Index) -> Index:
    """Return where each pixel of shifted axes comes from, (B, size)."""
    last = size - 1
    from_BP = np.abs(np.arange(size) - shift_B[:, None])
    return np.asarray(last - np.abs(last - from_BP))


class SeenStamps:
    """Transformed stamps of a split, in any view.

    Parameters
    ----------
    pixels : Pixels
        Where they come from.
    transform : PixelTransform
        Fitted.
    index_N : ndarray of int
        Which may be asked for.
    device, dtype : torch.device, torch.dtype
        Where and how they are transformed.
    """

    def __init__(
        self,
        pixels: Pixels,
        transform: PixelTransform,
        index_N: Index,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        size = pixels.stamp_shape[-1]
        self._row_N = np.zeros(index_N.max(initial=-1) + 1, np.int64)
        self._row_N[index_N] = np.arange(len(index_N))
        kept_NYXC = torch.empty(len(index_N), size, size, transform.channel_count, dtype=dtype)
        for start in range(0, len(index_N), _PIECE):
            piece = slice(start, start + _PIECE)
            image_NCHW, mask_NCHW = pixels.gather(index_N[piece])
            x_NCHW = transform(image_NCHW.to(device, dtype), mask_NCHW.to(device))
            kept_NYXC[piece] = x_NCHW.permute(0, 2, 3, 1)
        self._kept_PC = kept_NYXC.flatten(0, 2).numpy()
        self._size = size

    @staticmethod
    def fit_in_memory(
        pixels: Pixels, transform: PixelTransform, stamps: int, dtype: torch.dtype
    ) -> bool:
        """Whether so many transformed stamps stay below `KEPT_BYTES`."""
        _, height, width = pixels.stamp_shape
        values = transform.channel_count * height * width
        return stamps * values * dtype.itemsize <= KEPT_BYTES

    def gather(self, index_B: Index, view_B4: Index | None = None) -> torch.Tensor:
        """Return stamps, or views of them, (B, C, y, x), laid out channels last."""
        size = self._size
        if view_B4 is None:
            view_B4 = np.zeros((len(index_B), len(Augmentation._fields)), np.int64)
        first_B = self._row_N[index_B] * size**2
        pixel_BYX = view_pixels(size, view_B4) + first_B[:, None, None]
        return torch.from_numpy(self._kept_PC.take(pixel_BYX, axis=0)).permute(0, 3, 1, 2)
