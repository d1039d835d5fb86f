"""Trivial numbers of stamps, by which `report` looks for shortcuts and for drift. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Stamps at a time, which bounds the memory.
_CHUNK = 256
# Their robust sigma is good to 4 %, at a tenth of what sorting all of the frame costs.
_FRAME_PIXELS = 500


def stamp_statistics(
    image_NCHW: NDArray[np.float32], mask_NCHW: NDArray[np.uint8], bands: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Measure flux, noise, centroid and masked pixels of each stamp.

    Parameters
    ----------
    image_NCHW : (N, band, y, x) float32
        nJy; may be a memory map.
    mask_NCHW : (N, band, y, x) uint8
        0 where a pixel is good.
    bands : sequence of str
        Names of the bands.

    Returns
    -------
    dict of (N,) float32
        ``stamp_flux_<band>_njy`` (sum of the good pixels above the frame's median),
        ``stamp_noise_<band>_njy`` (1.4826 MAD of the frame, a fifth of the width on each side),
        ``stamp_offset_pix`` (of the centroid of what is 3 sigma above the sky in any band, from
        the centre) and ``stamp_masked_fraction``. NaN where no pixel tells.
    """
    n, n_bands, height, width = image_NCHW.shape
    flux_NC, noise_NC = np.full((2, n, n_bands), np.nan, np.float32)
    offset_N, masked_N = np.full((2, n), np.nan, np.float32)
    frame_F = _frame(height, width)
    y_H, x_W = np.arange(height) - height // 2.0, np.arange(width) - width // 2.0
    for start in range(0, n, _CHUNK):
        rows = slice(start, start + _CHUNK)
        image = np.asarray(image_NCHW[rows])
        good = np.isfinite(image)
        good &= np.asarray(mask_NCHW[rows]) == 0
        n_good_NC = np.count_nonzero(good, axis=(2, 3))
        masked_N[rows] = 1.0 - n_good_NC.sum(axis=1) / (n_bands * height * width)
        frame_NCF = np.where(good, image, np.nan).reshape(*image.shape[:2], -1)[..., frame_F]
        sky_NC = _median(frame_NCF)
        noise_NC[rows] = 1.4826 * _median(np.abs(frame_NCF - sky_NC[..., None]))
        above = np.where(good, image - sky_NC[..., None, None], np.float32(0.0))
        # A band whose sky is not known has no flux.
        flux_NC[rows] = np.where(n_good_NC > 0, above.sum(axis=(2, 3)), np.nan)
        above[~(above > 3.0 * noise_NC[rows, :, None, None])] = 0.0
        signal_NHW = above.sum(axis=1)
        total_N = signal_NHW.sum(axis=(1, 2), dtype=np.float64)
        lit_N = total_N > 0.0
        x_N, y_N = signal_NHW.sum(axis=1) @ x_W, signal_NHW.sum(axis=2) @ y_H
        offset_N[start + np.flatnonzero(lit_N)] = np.hypot(x_N[lit_N], y_N[lit_N]) / total_N[lit_N]
    columns = {f"stamp_flux_{band}_njy": flux_NC[:, c] for c, band in enumerate(bands)}
    columns |= {f"stamp_noise_{band}_njy": noise_NC[:, c] for c, band in enumerate(bands)}
    return columns | {"stamp_offset_pix": offset_N, "stamp_masked_fraction": masked_N}


def _frame(height: int, width: int) -> NDArray[np.intp]:
    """Flat indices of pixels evenly spread over the frame, a fifth of the width on each side."""
    rim = max(1, min(height, width) // 5)
    frame_HW = np.ones((height, width), dtype=bool)
    frame_HW[rim : height - rim, rim : width - rim] = False
    pixels = np.flatnonzero(frame_HW)
    return pixels[:: max(1, len(pixels) // _FRAME_PIXELS)]


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median over the last axis without NaN; NaN where there is nothing else.

    Sorting moves NaN to the end, where it is counted off: numpy's own is slower, and warns.
    """
    ordered = np.sort(values, axis=-1)
    n_good = np.count_nonzero(np.isfinite(ordered), axis=-1)
    middle = np.stack([np.maximum(n_good - 1, 0) // 2, n_good // 2], axis=-1)
    middle = np.minimum(middle, values.shape[-1] - 1)
    pair = np.take_along_axis(ordered, middle, axis=-1)
    median: NDArray[np.float32] = np.where(n_good > 0, pair.mean(axis=-1), np.float32(np.nan))
    return median
