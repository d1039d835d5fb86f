"""Widths of point-spread functions. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SUPERSAMPLING = 8


def fwhm_pix(psf_YX: NDArray[Any]) -> float:
    """Measure the FWHM of a picture of a PSF.

    Parameters
    ----------
    psf_YX : (Y, X) array
        The PSF, its background 0.

    Returns
    -------
    float
        Diameter of the circle with the area above half of the peak, in pixels; NaN if there is no
        peak. The picture is interpolated, since narrow PSFs have few pixels there.
    """
    from scipy.ndimage import zoom

    psf = np.nan_to_num(np.asarray(psf_YX, np.float64), posinf=0.0, neginf=0.0)
    if min(psf.shape) < 3 or not psf.max() > 0:
        return math.nan
    fine = zoom(psf, _SUPERSAMPLING, order=3, mode="grid-constant", grid_mode=True)
    area = np.count_nonzero(fine > fine.max() / 2) / _SUPERSAMPLING**2
    return 2 * math.sqrt(area / math.pi)
