"""Stamps as small pictures that still hold every band, so that the page can stretch them anew.

A pixel is stored as the arcsinh of its signal in units of the band's own sky noise, in steps of a
fraction of that noise: what a picture of noise costs is set by this step. The first three bands
shown are the red, green and blue of a PNG, which is therefore a colour picture by itself where no
script runs; further bands follow as another.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The stretch is linear up to this many sigma of the sky, logarithmic above it.
SOFTENING_SIGMA = 3.0
# Below this the sky is as good as black; resampling artefacts can be far below.
_DARKEST_SIGMA = -4.0
# A stamp of pure noise is not stretched until the noise fills the range.
_FAINTEST_WHITE_SIGMA = 25.0
# Of all candidates together: base64 adds a third, and the page shall stay below 60 MB.
_MOST_BYTES = 40_000_000
# In arcsinh; times the softening it is the step in sigma of the sky.
_STEPS = (0.12, 0.2, 0.35, 0.6, 1.0)
_LEVELS = 255


@dataclass(frozen=True, slots=True)
class CodedStamp:
    """Pictures of a stamp, and what turns their values into signal.

    Attributes
    ----------
    pngs : tuple of bytes
        8-bit PNGs, highest y first, of up to three bands each; value 0 is no data.
    low, step : float
        A value v > 0 stands for ``arcsinh(s / SOFTENING_SIGMA) = low + (v - 1) step``, with s the
        signal above the sky in sigma.
    white_sigma : float
        Signal that is shown white by default.
    noise_njy : tuple of float
        Sky sigma of each band, in the order of the bands.
    """

    pngs: tuple[bytes, ...]
    low: float
    step: float
    white_sigma: float
    noise_njy: tuple[float, ...]


def shown_bands(n_bands: int) -> tuple[int, ...]:
    """Bands in the order of the PNGs' channels: the colour picture's red, green, blue, the rest.

    Of more than three, the reddest, the middle and the bluest are shown; of two, green holds a
    copy of the redder one; one gives grey. Bands run from blue to red.

    Parameters
    ----------
    n_bands : int
        1 or more.
    """
    if n_bands == 1:
        return (0,)
    if n_bands == 2:
        return (1, 1, 0)
    colour = (n_bands - 1, n_bands // 2, 0)
    return colour + tuple(band for band in range(n_bands) if band not in colour)


def sky_and_noise(image_HW: NDArray[np.floating]) -> tuple[float, float]:
    """Median and robust sigma (1.4826 MAD) of the stamp's outer frame, ignoring NaN.

    Parameters
    ----------
    image_HW : float array, shape (y, x)
        Fluxes; NaN where masked.

    Returns
    -------
    sky, sigma : float
        In the image's unit; (0, 0) where no pixel is good.
    """
    height, width = image_HW.shape
    rim = max(1, min(height, width) // 5)
    frame = np.ones((height, width), dtype=bool)
    frame[rim : height - rim, rim : width - rim] = False
    pixels = image_HW[frame & np.isfinite(image_HW)]
    if pixels.size == 0:
        pixels = image_HW[np.isfinite(image_HW)]
    if pixels.size == 0:
        return 0.0, 0.0
    sky = float(np.median(pixels))
    return sky, 1.4826 * float(np.median(np.abs(pixels - sky)))


def encode(image_CHW: NDArray[np.floating], step: float = _STEPS[0]) -> CodedStamp:
    """Code a stamp.

    Parameters
    ----------
    image_CHW : float array, shape (band, y, x)
        Fluxes in nJy, NaN where masked, bands from blue to red.
    step : float
        Smallest step in arcsinh; a brighter stamp has as large a one as 255 levels ask for.
    """
    snr_CHW = image_CHW.astype(np.float64)
    noise_C = np.ones(len(image_CHW))
    for c, image_HW in enumerate(image_CHW):
        sky, sigma = sky_and_noise(image_HW)
        snr_CHW[c] -= sky
        good = snr_CHW[c][np.isfinite(snr_CHW[c])]
        if sigma == 0.0 and good.size:
            # Without noise there is no scale but the signal's own.
            sigma = 0.01 * float(np.abs(good).max())
        noise_C[c] = sigma or 1.0
        snr_CHW[c] /= noise_C[c]
    is_good_CHW = np.isfinite(snr_CHW)
    low = float(np.arcsinh(_DARKEST_SIGMA / SOFTENING_SIGMA))
    stretched_CHW = np.maximum(
        np.arcsinh(np.where(is_good_CHW, snr_CHW, 0.0) / SOFTENING_SIGMA), low
    )
    step = max(step, (float(stretched_CHW.max()) - low) / (_LEVELS - 1))
    level_CHW = np.round((stretched_CHW - low) / step)
    # Spread over the range of a picture, for where it is shown as it is.
    spacing = max(1, (_LEVELS - 1) // max(1, int(level_CHW.max())))
    value_CHW = np.where(is_good_CHW, 1 + spacing * level_CHW, 0).astype(np.uint8)
    step /= spacing
    order = shown_bands(len(image_CHW))
    pngs = [_png(value_CHW[list(order[i : i + 3])]) for i in range(0, len(order), 3)]
    return CodedStamp(
        tuple(pngs), low, step, _white(snr_CHW, is_good_CHW), tuple(float(s) for s in noise_C)
    )


def _white(snr_CHW: NDArray[np.float64], is_good_CHW: NDArray[np.bool_]) -> float:
    """Signal of all but the brightest 0.2 % of the pixels, averaged over the bands."""
    n_good_HW = is_good_CHW.sum(axis=0)
    if not n_good_HW.any():
        return _FAINTEST_WHITE_SIGMA
    mean_HW = np.where(is_good_CHW, snr_CHW, 0.0).sum(axis=0) / np.maximum(n_good_HW, 1)
    return max(float(np.quantile(mean_HW[n_good_HW > 0], 0.998)), _FAINTEST_WHITE_SIGMA)


def encode_all(stamps: Sequence[NDArray[np.floating] | None]) -> list[CodedStamp | None]:
    """Code the stamps of a page, in coarser steps where they would make it too large.

    Parameters
    ----------
    stamps : sequence of float arrays of shape (band, y, x), or None
        None where an object has no pixels.
    """
    coded: list[CodedStamp | None] = []
    for step in _STEPS:
        coded = [None if stamp is None else encode(stamp, step) for stamp in stamps]
        if sum(len(png) for item in coded if item for png in item.pngs) <= _MOST_BYTES:
            break
    return coded


def _png(value_CHW: NDArray[np.uint8]) -> bytes:
    """PNG (ISO/IEC 15948) of one or three channels without row filters.

    Filters guess a pixel from its neighbours: they make noise larger, and every library at hand
    insists on them.
    """
    if len(value_CHW) == 2:
        value_CHW = np.concatenate([value_CHW, np.zeros_like(value_CHW[:1])])
    channels, height, width = value_CHW.shape
    pixels_HWC = np.moveaxis(value_CHW, 0, -1)[::-1].reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels_HWC], axis=1).tobytes()
    # Noise repeats nothing: looking for more than runs takes ten times as long for 2 % less.
    packer = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    colour_type = 2 if channels == 3 else 0
    head = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in (
            (b"IHDR", head),
            (b"IDAT", packer.compress(lines) + packer.flush()),
            (b"IEND", b""),
        )
    )
