"""Augmentation: other looks at the same object.

Flips, quarter turns and shifts by whole pixels move pixels and change none; rotations and zooms
interpolate; noise, PSF blur and missing bands make worse data of good ones. All act on pixels in
nJy, and know which are bad. What happens to an object in an epoch depends on (seed, epoch, object
index) alone: not on the rank that reads it, nor on its place in the batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from lensfinder.pixels import good_pixels

# Keep these random numbers apart from each other and from those of the order of objects.
_VIEWS, _AMOUNTS, _NOISE = 2, 3, 4
_MISSING = 1  # mask bit "outside or no data"
_ANGLE, _ZOOM, _NOISE_AMOUNT, _BLUR, _FIRST_BAND = range(5)  # columns of the amounts


class Ranges(NamedTuple):
    """How far each augmentation goes; amounts are drawn evenly up to it, zooms in the logarithm."""

    flips: bool = True  # mirror images and quarter turns
    shift_pixels: int = 0
    rotation_deg: float = 0.0  # beyond quarter turns, either way
    zoom: float = 1.0  # smallest share of the side that is shown
    noise: float = 0.0  # sigma, in units of the band's scale
    blur_pixels: float = 0.0  # sigma of a Gaussian
    band_dropout: float = 0.0  # chance of each band

    @property
    def has_amounts(self) -> bool:
        """Whether anything but exact views is asked for."""
        return self._replace(flips=True, shift_pixels=0) != Ranges()


class Augmentation(NamedTuple):
    """One exact view of a stamp: mirror, then turn, then shift."""

    mirror: bool
    quarter_turns: int  # 0 to 3
    shift_y: int  # pixels
    shift_x: int


def draw(seed: int, epoch: int, count: int, ranges: Ranges) -> npt.NDArray[np.int64]:
    """Draw the exact view of each object of an epoch, as rows of `Augmentation`, (count, 4).

    A row depends on its index alone, not on how many follow.
    """
    rng = np.random.default_rng((seed, _VIEWS, epoch))
    # One table of like numbers, since rows must come one after another out of the generator.
    span = 2 * ranges.shift_pixels + 1
    number_N2 = rng.integers((8, span * span), size=(count, 2))
    mirror_N, quarter_turns_N = np.divmod(number_N2[:, 0] * ranges.flips, 4)
    shift_y_N, shift_x_N = np.divmod(number_N2[:, 1], span)
    shift = ranges.shift_pixels
    return np.stack((mirror_N, quarter_turns_N, shift_y_N - shift, shift_x_N - shift), axis=1)


def draw_amounts(seed: int, epoch: int, count: int, bands: int) -> npt.NDArray[np.float64]:
    """Draw numbers in [0, 1) that say how much of the rest each object gets, (count, 4 + bands)."""
    return np.random.default_rng((seed, _AMOUNTS, epoch)).random((count, _FIRST_BAND + bands))


def draw_noise(
    seed: int, epoch: int, index_B: npt.NDArray[np.int64], shape: tuple[int, int, int]
) -> npt.NDArray[np.float32]:
    """Draw white noise of unit sigma for some objects, (B, band, y, x)."""
    fields = [
        np.random.default_rng((seed, _NOISE, epoch, int(index))).standard_normal(shape, np.float32)
        for index in index_B
    ]
    return np.stack(fields)


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


def alter(
    image_NCHW: torch.Tensor,
    mask_NCHW: torch.Tensor,
    amount_NK: torch.Tensor,
    noise_NCHW: torch.Tensor | None,
    ranges: Ranges,
    scale_njy_C: tuple[float, ...],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate, zoom, blur, add noise to and leave out bands of stamps.

    Parameters
    ----------
    image_NCHW : torch.Tensor
        Pixels, nJy; bad ones may be NaN.
    mask_NCHW : torch.Tensor
        uint8, 0 where a pixel is good.
    amount_NK : torch.Tensor
        Rows of `draw_amounts`.
    noise_NCHW : torch.Tensor or None
        From `draw_noise`, where `ranges` has noise.
    ranges : Ranges
    scale_njy_C : tuple of float
        The unit of noise for each band, nJy.

    Returns
    -------
    image_NCHW, mask_NCHW
        What came of good pixels; the mask tells where there was none.
    """
    good_NCHW = good_pixels(image_NCHW, mask_NCHW)
    image_NCHW = torch.where(good_NCHW, image_NCHW, 0)
    weight_NCHW = good_NCHW.to(image_NCHW)
    if ranges.rotation_deg or ranges.zoom < 1:
        image_NCHW, weight_NCHW = _warp(image_NCHW, weight_NCHW, amount_NK, ranges)
    if ranges.blur_pixels:
        sigma_N = ranges.blur_pixels * amount_NK[:, _BLUR]
        image_NCHW, weight_NCHW = _blur(image_NCHW, weight_NCHW, sigma_N, ranges.blur_pixels)
    if noise_NCHW is not None:
        sigma_N = ranges.noise * amount_NK[:, _NOISE_AMOUNT]
        sigma_NC = sigma_N[:, None] * torch.tensor(scale_njy_C).to(sigma_N)
        image_NCHW = image_NCHW + sigma_NC[..., None, None] * noise_NCHW
    bad_NCHW = weight_NCHW < 0.5
    if ranges.band_dropout:
        dropped_NC = amount_NK[:, _FIRST_BAND:] < ranges.band_dropout
        # The band that came off best stays where all would go.
        dropped_NC[torch.arange(len(dropped_NC)), amount_NK[:, _FIRST_BAND:].argmax(dim=1)] = False
        bad_NCHW = bad_NCHW | dropped_NC[..., None, None]
    return image_NCHW, torch.where(bad_NCHW, _MISSING, 0).to(torch.uint8)


def _warp(
    image_NCHW: torch.Tensor, weight_NCHW: torch.Tensor, amount_NK: torch.Tensor, ranges: Ranges
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn and magnify about the centre, bilinearly, with the edges reflected."""
    angle_N = torch.deg2rad(ranges.rotation_deg * (2 * amount_NK[:, _ANGLE] - 1))
    shown_N = torch.exp(math.log(ranges.zoom) * amount_NK[:, _ZOOM])
    cos_N, sin_N = shown_N * torch.cos(angle_N), shown_N * torch.sin(angle_N)
    zero_N = torch.zeros_like(cos_N)
    rows = [torch.stack([cos_N, -sin_N, zero_N], 1), torch.stack([sin_N, cos_N, zero_N], 1)]
    grid_NYX2 = functional.affine_grid(
        torch.stack(rows, 1).to(image_NCHW), list(image_NCHW.shape), align_corners=False
    )
    warped = [
        functional.grid_sample(x, grid_NYX2, padding_mode="reflection", align_corners=False)
        for x in (image_NCHW, weight_NCHW)
    ]
    return warped[0] / warped[1].clamp(min=1e-3), warped[1]


def _blur(
    image_NCHW: torch.Tensor, weight_NCHW: torch.Tensor, sigma_N: torch.Tensor, largest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolve each stamp with a Gaussian of its own, over its good pixels alone."""
    reach = math.ceil(3 * largest)
    offset_K = torch.arange(-reach, reach + 1).to(image_NCHW)
    # A tiny sigma leaves the central pixel alone.
    width_N1 = sigma_N[:, None].to(image_NCHW).clamp(min=1e-2)
    kernel_NK = torch.exp(-0.5 * (offset_K / width_N1) ** 2)
    kernel_NK = kernel_NK / kernel_NK.sum(dim=1, keepdim=True)
    n, bands = image_NCHW.shape[:2]
    kernels = kernel_NK.repeat_interleave(bands, dim=0)[:, None, None]  # (N C, 1, 1, K)

    def smooth(x_NCHW: torch.Tensor) -> torch.Tensor:
        x_1NCHW = x_NCHW.flatten(0, 1)[None]
        x_1NCHW = functional.conv2d(x_1NCHW, kernels, padding=(0, reach), groups=n * bands)
        x_1NCHW = functional.conv2d(
            x_1NCHW, kernels.transpose(2, 3), padding=(reach, 0), groups=n * bands
        )
        return x_1NCHW[0].reshape(image_NCHW.shape)

    total_NCHW = smooth(weight_NCHW).clamp(min=1e-6)
    # A bad pixel stays bad: what its neighbours say of it is not data.
    return smooth(image_NCHW * weight_NCHW) / total_NCHW, weight_NCHW
