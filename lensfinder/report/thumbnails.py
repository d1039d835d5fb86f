"""Stamps in nJy as small colour pictures (Lupton et al. 2004), scaled by each stamp's noise."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

# Sky at a dark grey rather than at black, so that its noise, and with it the depth, is seen.
_SKY_LEVEL = 0.09
# The stretch is linear up to this many sigma of the sky, logarithmic above it.
_SOFTENING_SIGMA = 3.0
# Bluer bands count more, as in the SDSS's pictures (g 1.8, r 1.3, i 1): ellipticals come out
# orange and star-forming arcs blue, instead of everything red.
_BLUEST_WEIGHT = 1.8
# Noise does not compress; in steps that nobody sees a page of thousands is little more than half.
_COLOUR_STEP = 4
# A stamp of pure noise is not stretched until the noise fills the range.
_FAINTEST_WHITE_SIGMA = 25.0


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


def colour_image(image_CHW: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Arcsinh colour of a stamp: hue from the ratio of fluxes, brightness from their S/N.

    Brightness is the mean of the bands, each in units of its own sky noise, so that a noisy band
    does not drown the others. Bands run from blue to red; of more than three, the bluest, the
    middle and the reddest are shown; of two, the mean stands for green; one gives grey.

    Parameters
    ----------
    image_CHW : float array, shape (band, y, x)
        Fluxes in nJy, NaN where masked, bands from blue to red.

    Returns
    -------
    uint8 array, shape (y, x, 4)
        RGBA; transparent where no band has data.
    """
    n_bands = len(image_CHW)
    shown = sorted({0, n_bands // 2, n_bands - 1}) if n_bands >= 3 else range(n_bands)
    above_CHW, noise_C = _above_sky(image_CHW[list(shown)])
    good_CHW = np.isfinite(above_CHW)
    n_good_HW = good_CHW.sum(axis=0)
    flux_CHW = np.where(good_CHW, above_CHW, 0.0)
    snr_HW = (flux_CHW / noise_C[:, None, None]).sum(axis=0) / np.maximum(n_good_HW, 1)

    present = n_good_HW > 0
    peak = float(np.quantile(snr_HW[present], 0.998)) if present.any() else 0.0
    white = max(peak, _FAINTEST_WHITE_SIGMA)
    brightness_HW = np.arcsinh(snr_HW / _SOFTENING_SIGMA) / np.arcsinh(white / _SOFTENING_SIGMA)

    # Lupton et al. 2004, eq. 2: every band is the brightness times its share of the flux.
    weighted_CHW = flux_CHW * np.geomspace(_BLUEST_WEIGHT, 1.0, len(flux_CHW))[:, None, None]
    mean_HW = weighted_CHW.mean(axis=0)
    share_CHW = np.divide(
        weighted_CHW, mean_HW, out=np.ones_like(weighted_CHW), where=mean_HW > 0.0
    )
    # Where the signal is weak its colour is noise, and where a band is missing it is not known.
    saturation_HW = np.where(n_good_HW == len(flux_CHW), np.clip(snr_HW / 6.0, 0.0, 1.0), 0.0)
    hue_CHW = 1.0 + (np.clip(share_CHW, 0.0, 3.0) - 1.0) * saturation_HW
    if len(hue_CHW) == 2:
        hue_CHW = np.stack([hue_CHW[0], hue_CHW.mean(axis=0), hue_CHW[1]])
    rgb_CHW = _SKY_LEVEL + (1.0 - _SKY_LEVEL) * brightness_HW * hue_CHW
    rgb_CHW = np.broadcast_to(rgb_CHW, (3, *snr_HW.shape))[::-1]
    # Too bright a pixel keeps its hue: all three are divided by the largest.
    rgb_CHW = np.clip(rgb_CHW / np.maximum(rgb_CHW.max(axis=0), 1.0), 0.0, 1.0)
    rgba_HWC = np.zeros((*snr_HW.shape, 4), dtype=np.uint8)
    rgba_HWC[..., :3] = 255.0 * np.moveaxis(rgb_CHW, 0, -1)
    rgba_HWC[..., :3] -= rgba_HWC[..., :3] % _COLOUR_STEP
    rgba_HWC[..., 3] = np.where(present, 255, 0)
    return rgba_HWC


def _above_sky(
    image_CHW: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bands above their sky, and the noise of each; of a noiseless band, 1/100 of its peak."""
    above_CHW = image_CHW.astype(np.float64)
    noise_C = np.ones(len(image_CHW))
    for c, image_HW in enumerate(image_CHW):
        sky, sigma = sky_and_noise(image_HW)
        above_CHW[c] -= sky
        good = above_CHW[c][np.isfinite(above_CHW[c])]
        if sigma == 0.0 and good.size:
            sigma = 0.01 * float(np.abs(good).max())
        if sigma > 0.0:
            noise_C[c] = sigma
    return above_CHW, noise_C


def png(rgba_HWC: NDArray[np.uint8]) -> bytes:
    """RGBA picture with the north of the stamp (the highest y) at the top, as PNG bytes.

    Parameters
    ----------
    rgba_HWC : uint8 array, shape (y, x, 4)
        FITS order: row 0 at the bottom.
    """
    buffer = io.BytesIO()
    # Named instead of matplotlib's version, so that the bytes are the same every time.
    metadata = {"Software": "lensfinder"}
    imsave(buffer, rgba_HWC, format="png", origin="lower", metadata=metadata)
    return buffer.getvalue()
