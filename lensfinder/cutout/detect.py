"""Find galaxies in a tile where there is no catalogue. Pure: arrays in, arrays out.

Background, detection, deblending and photometry are photutils'.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.convolution import convolve_fft
from numpy.typing import NDArray
from photutils.background import Background2D, MedianBackground
from photutils.segmentation import SourceCatalog, SourceFinder, make_2dgaussian_kernel

_BACKGROUND_BOX_PIX = 64
_DEBLEND_CONTRAST = 0.005


def detect(
    flux_YX: NDArray[np.float32],
    bad_YX: NDArray[np.bool_],
    psf_fwhm_pix: float,
    *,
    sigma: float,
    pixels: int,
) -> dict[str, NDArray[Any]]:
    """Detect objects above a smoothed threshold.

    Parameters
    ----------
    flux_YX : (Y, X) float32
        Pixels in nJy; NaN where there is no data.
    bad_YX : (Y, X) bool
        Pixels to leave out.
    psf_fwhm_pix : float
        FWHM of the PSF, which is also the smoothing kernel's.
    sigma : float
        Threshold in units of the smoothed sky's rms.
    pixels : int
        Least number of connected pixels.

    Returns
    -------
    dict
        ``x``, ``y`` (0-based centroid), ``flux_njy`` (Kron), ``half_light_radius_pix``; empty
        arrays if nothing was found.
    """
    bad = bad_YX | ~np.isfinite(flux_YX)
    empty = {name: np.zeros(0) for name in ("x", "y", "flux_njy", "half_light_radius_pix")}
    if bad.mean() > 0.99:
        return empty
    filled = np.where(bad, 0.0, flux_YX).astype(np.float64)
    box = tuple(min(_BACKGROUND_BOX_PIX, side) for side in filled.shape)
    background = Background2D(
        filled,
        box,
        mask=bad,
        filter_size=3,
        bkg_estimator=MedianBackground(),
        exclude_percentile=90.0,
    )
    signal = np.where(bad, 0.0, filled - background.background)
    side = int(np.ceil(2 * psf_fwhm_pix)) // 2 * 2 + 1
    smoothed = convolve_fft(signal, make_2dgaussian_kernel(psf_fwhm_pix, size=side))
    rms = 1.4826 * np.median(np.abs(smoothed[~bad] - np.median(smoothed[~bad])))
    if not rms > 0:
        return empty
    finder = SourceFinder(pixels, contrast=_DEBLEND_CONTRAST, progress_bar=False)
    segments = finder(smoothed, sigma * rms, mask=bad)
    if segments is None:
        return empty
    catalog = SourceCatalog(signal, segments, convolved_data=smoothed, mask=bad)
    found = {
        "x": np.atleast_1d(catalog.x_centroid),
        "y": np.atleast_1d(catalog.y_centroid),
        "flux_njy": np.atleast_1d(catalog.kron_flux),
        "half_light_radius_pix": np.atleast_1d(catalog.flux_radius(0.5).value),
    }
    whole = np.isfinite(found["x"]) & np.isfinite(found["y"]) & (found["flux_njy"] > 0)
    return {name: np.asarray(values, np.float64)[whole] for name, values in found.items()}


def galaxies(
    half_light_radius_pix: NDArray[np.float64], psf_fwhm_pix: float, ratio: float
) -> NDArray[np.bool_]:
    """Tell extended objects from stars by their half-light radius.

    Parameters
    ----------
    half_light_radius_pix : (N,) float64
    psf_fwhm_pix : float
        A Gaussian PSF's half-light radius is half its FWHM.
    ratio : float
        Least ratio to the PSF's; 0 keeps everything.

    Returns
    -------
    (N,) bool
    """
    if ratio == 0:
        return np.ones(len(half_light_radius_pix), dtype=bool)
    return half_light_radius_pix > ratio * psf_fwhm_pix / 2
