"""Stamps of another pixel scale or a narrower PSF, made to look like what a model knows. Pure.

Resampling is linear and separable: an output pixel is the integral, over its area, of a surface
whose own integrals over the input's pixels are the input. So flux is conserved exactly.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema

# Bands of one survey differ more than this from night to night; below it a PSF is left alone.
PSF_TOLERANCE = 0.02
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
# Share of an output pixel that a bad input pixel must cover to spoil it.
_SPOILS = 0.01


def input_size(size: int, scale_arcsec: float, input_scale_arcsec: float) -> int:
    """Return the odd side of input stamps that cover output stamps, with a pixel to spare."""
    needed = math.ceil(size * scale_arcsec / input_scale_arcsec) + 2
    return needed + 1 - needed % 2


def resample(
    image_NCHW: NDArray[np.float32],
    mask_NCHW: NDArray[np.uint8],
    zoom: float,
    size: int,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Resample stamps about their central pixel.

    Parameters
    ----------
    image_NCHW : (N, band, y, x) float32
        nJy a pixel; odd sides.
    mask_NCHW : (N, band, y, x) uint8
        0 good.
    zoom : float
        Side of an output pixel in input pixels.
    size : int
        Odd side of the output.

    Returns
    -------
    image_NCHW : (N, band, size, size) float32
        nJy a (new) pixel; NaN where `mask_NCHW` has no data.
    mask_NCHW : (N, band, size, size) uint8
        Bits of every input pixel that covers more than a hundredth of an output pixel.
    """
    n_in = image_NCHW.shape[-1]
    smooth, cover = _weights(n_in, size, zoom)
    good = (mask_NCHW == 0) & np.isfinite(image_NCHW)
    # Bad pixels end up masked; the level around them keeps their neighbours from ringing.
    level_NC11 = _level(image_NCHW, good)
    filled = np.where(good, image_NCHW, level_NC11) - level_NC11
    image = np.einsum("ai,ncij,bj->ncab", smooth, filled, smooth, optimize=True)
    image += level_NC11 * zoom**2
    mask = np.zeros(image.shape, np.uint8)
    for bit in (schema.MASK_NO_DATA, schema.MASK_SATURATED, schema.MASK_BAD):
        if not (spoilt := (mask_NCHW & bit) != 0).any():
            continue
        share = np.einsum("ai,ncij,bj->ncab", cover, spoilt.astype(float), cover, optimize=True)
        mask[share > _SPOILS] |= bit
    outside = cover.sum(axis=1) < 1 - _SPOILS
    mask[:, :, outside] |= schema.MASK_NO_DATA
    mask[:, :, :, outside] |= schema.MASK_NO_DATA
    image[(mask & schema.MASK_NO_DATA) != 0] = np.nan
    return image.astype(np.float32), mask


def widen(
    image_NCHW: NDArray[np.float32],
    mask_NCHW: NDArray[np.uint8],
    fwhm_pix_NC: NDArray[np.floating],
    wanted_pix_C: NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Convolve stamps with the Gaussian that brings their PSF to a given width.

    FWHMs add in quadrature, which is exact for Gaussian PSFs.

    Parameters
    ----------
    image_NCHW : (N, band, y, x) float32
    mask_NCHW : (N, band, y, x) uint8
    fwhm_pix_NC : (N, band) float
        Of the stamps' PSFs, pixels; NaN where not known.
    wanted_pix_C : (band,) float
        Pixels; NaN where not known.

    Returns
    -------
    image_NCHW : (N, band, y, x) float32
    widened_N : (N,) bool
        Stamps of which a band was convolved. A PSF wider than the wanted one is left alone.
    """
    widened_NC = wanted_pix_C > fwhm_pix_NC * (1 + PSF_TOLERANCE)
    widened_N: NDArray[np.bool_] = np.logical_or.reduce(widened_NC, axis=1)
    if not widened_N.any():
        return image_NCHW, widened_N
    image_NCHW = image_NCHW.copy()
    size = image_NCHW.shape[-1]
    with np.errstate(invalid="ignore"):
        sigma_NC = np.sqrt(wanted_pix_C**2 - fwhm_pix_NC**2) / FWHM_PER_SIGMA
    # Few tiles' worth of widths; a hundredth of a pixel is far below what a PSF is known to.
    sigma_NC = np.where(widened_NC, np.maximum(np.round(sigma_NC, 2), 0.01), 0.0)
    for c in range(image_NCHW.shape[1]):
        for sigma in np.unique(sigma_NC[:, c][widened_NC[:, c]]):
            rows = np.flatnonzero(sigma_NC[:, c] == sigma)
            blur = _blur(size, float(sigma))
            image, mask = image_NCHW[rows, c][:, None], mask_NCHW[rows, c][:, None]
            good = (mask == 0) & np.isfinite(image)
            level = _level(image, good)
            filled = np.where(good, image, level) - level
            done = np.einsum("ai,ncij,bj->ncab", blur, filled, blur, optimize=True) + level
            done[~good] = image[~good]
            image_NCHW[rows, c] = done[:, 0]
    return image_NCHW, widened_N


def _level(image_NCHW: NDArray[Any], good_NCHW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Median of the good pixels, 0 where there are none, (N, band, 1, 1)."""
    count = np.count_nonzero(good_NCHW, axis=(2, 3))
    ordered = np.sort(
        np.where(good_NCHW, image_NCHW, np.inf).reshape(*image_NCHW.shape[:2], -1), axis=-1
    )
    middle = np.maximum(count - 1, 0) // 2
    level = np.take_along_axis(ordered, middle[..., None], axis=-1)[..., 0]
    return np.where(count > 0, level, 0.0)[..., None, None].astype(np.float64)


@lru_cache(maxsize=8)
def _weights(n_in: int, n_out: int, zoom: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two (n_out, n_in) matrices: flux smoothly, and the share of each output pixel covered."""
    from scipy.interpolate import CubicSpline

    edges_in = np.arange(n_in + 1) - n_in / 2
    edges_out = (np.arange(n_out + 1) - n_out / 2) * zoom
    inside = np.clip(edges_out, edges_in[0], edges_in[-1])
    # The integral up to an edge, of each input pixel alone: a step that the spline smooths.
    steps = np.vstack([np.zeros(n_in), np.cumsum(np.eye(n_in), axis=0)])
    smooth = np.diff(CubicSpline(edges_in, steps, axis=0)(inside), axis=0)
    low, high = edges_out[:-1, None], edges_out[1:, None]
    overlap = np.minimum(high, edges_in[1:]) - np.maximum(low, edges_in[:-1])
    return smooth, np.clip(overlap, 0.0, None) / zoom


@lru_cache(maxsize=64)
def _blur(size: int, sigma_pix: float) -> NDArray[np.float64]:
    """Matrix (size, size) of a Gaussian integrated over pixels; beyond the edge lies the level."""
    from scipy.special import erf

    apart = np.arange(size)[:, None] - np.arange(size)[None, :]
    scale = sigma_pix * math.sqrt(2)
    blur: NDArray[np.float64] = 0.5 * (erf((apart + 0.5) / scale) - erf((apart - 0.5) / scale))
    return blur
