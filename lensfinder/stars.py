"""The width of the PSF as a tile's own stars show it. Pure: windows of pixels in, a number out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from lensfinder.psf import fwhm_pix

Reader = Callable[[slice, slice], tuple[NDArray[np.float32], NDArray[np.bool_]]]

_WINDOW_PIX = 384
_MOST_WINDOWS = 16
# A star's peak above the sky, in units of its rms: its width is then known to a few per cent.
_PEAK_SIGMA = 40.0
_FEWEST_STARS = 8
_ENOUGH_STARS = 40
# Stars have one width; galaxies, each its own. This is how closely stars agree.
_LOCUS = 0.08
_LEAST_SHARE = 0.2
# A picture reaches this many guessed FWHM from its star, and no other peak stands there.
_REACH = 2.5


def star_fwhm_pix(read: Reader, shape_YX: tuple[int, int], guess_pix: float) -> float:
    """Measure the FWHM of a tile's stars.

    Windows all over the tile are searched until there are enough bright, lone, unmasked peaks;
    the narrowest width that many of them share is the stars'.

    Parameters
    ----------
    read : callable
        Gives flux and bad pixels of a window.
    shape_YX : (int, int)
    guess_pix : float
        About how wide it is; within a factor of two.

    Returns
    -------
    float
        Pixels; NaN where too few stars agree.
    """
    widths: list[float] = []
    for rows, columns in _windows(shape_YX):
        flux, bad = read(rows, columns)
        widths += _widths(flux, bad | ~np.isfinite(flux), guess_pix)
        if len(widths) >= 3 * _ENOUGH_STARS:
            break
    return _locus(np.array(widths), guess_pix)


def _windows(shape_YX: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield windows spread over the tile, far from each other first."""
    along = []
    for side in shape_YX:
        # Without overlap, so that no star counts twice.
        n = min(math.isqrt(_MOST_WINDOWS), math.ceil(side / _WINDOW_PIX))
        width = min(_WINDOW_PIX, side // n)
        starts = np.linspace(0, side - width, n).astype(int).tolist()
        along.append([slice(start, start + width) for start in starts])
    every = [(rows, columns) for rows in along[0] for columns in along[1]]
    # A stride without a common divisor visits each once.
    stride = 7 if len(every) % 7 else 5
    yield from (every[(k * stride) % len(every)] for k in range(len(every)))


def _widths(flux: NDArray[np.float32], bad: NDArray[np.bool_], guess_pix: float) -> list[float]:
    """Measure the lone peaks of a window."""
    from scipy import ndimage

    good = flux[~bad]
    reach = max(4, math.ceil(_REACH * guess_pix))
    if good.size < flux.size / 2 or min(flux.shape) <= 2 * reach:
        return []
    sky = float(np.median(good))
    rms = 1.4826 * float(np.median(abs(good - sky)))
    if not rms > 0:
        return []
    signal = np.where(bad, 0, flux - sky)
    # A lone star is the only thing about it that stands out.
    peaks = (signal > _PEAK_SIGMA * rms) & (signal == ndimage.maximum_filter(signal, 3))
    y, x = np.nonzero(peaks)
    height, width = signal.shape
    inside = (y >= reach) & (y < height - reach) & (x >= reach) & (x < width - reach)
    found = []
    for row, column in zip(y[inside].tolist(), x[inside].tolist(), strict=True):
        near = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
        picture = signal[near]
        if signal[row, column] < picture.max() or bad[near].any():
            continue
        if np.count_nonzero(picture == picture.max()) > 1:
            continue  # clipped, or not a pixel's own peak
        labels, _ = ndimage.label(picture > max(5 * rms, 0.05 * picture.max()))
        if labels.max() > 1:
            continue
        found.append(fwhm_pix(picture))
    return [one for one in found if guess_pix / 2 < one < 2 * guess_pix]


def _locus(widths: NDArray[np.float64], guess_pix: float) -> float:
    """Return the width shared by enough of them, the narrower where there are several."""
    ordered = np.sort(widths)
    if len(ordered) < _FEWEST_STARS:
        return math.nan
    last = np.searchsorted(ordered, ordered * (1 + _LOCUS), side="right")
    crowd = last - np.arange(len(ordered))
    if crowd.max() < max(_FEWEST_STARS, _LEAST_SHARE * len(ordered)):
        return math.nan
    # Galaxies too can crowd; stars are the narrowest crowd of nearly that size.
    first = int(np.argmax(crowd >= max(_FEWEST_STARS, crowd.max() / 2)))
    best = first + int(np.argmax(crowd[first : last[first]]))
    return float(np.median(ordered[best : last[best]]))
