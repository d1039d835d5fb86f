"""Widths of point-spread functions, as pictures or as PSFEx models. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_SUPERSAMPLING = 8
# Along each axis; a PSF varies slowly over an image.
_POINTS = 7


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


@dataclass(frozen=True)
class PsfexModel:
    """A PSF that varies over an image as PSFEx models it (Bertin 2011, ASPC 442, 435).

    Attributes
    ----------
    planes : (terms, Y, X) float64
        One for each term ``x^i y^j`` with i + j up to the degree, i running fastest.
    zero_xy, scale_xy : (float, float)
        What is taken off a position (pixels, counted from 1), and what it is divided by.
    degree : int
    step_pix : float
        Pixels of the image to one of the planes.
    """

    planes: NDArray[np.float64]
    zero_xy: tuple[float, float]
    scale_xy: tuple[float, float]
    degree: int
    step_pix: float

    @classmethod
    def read(cls, planes: NDArray[Any], said: Callable[[str], Any]) -> Self | None:
        """Make a model of what a file says of it; None if it depends on more than the position.

        Parameters
        ----------
        planes : array
            ``PSF_MASK``.
        said : callable
            Gives ``POLDEG1``, ``POLZERO1`` and so on; None for what isn't there.
        """
        axes = [str(said(f"POLNAME{k}") or "").strip() for k in (1, 2)]
        varies = int(said("POLNAXIS") or 0) > 0
        degree = int(said("POLDEG1") or 0) if varies else 0
        planes = np.asarray(planes, np.float64)
        planes = planes.reshape(-1, *planes.shape[-2:])
        flat = varies and (axes != ["X_IMAGE", "Y_IMAGE"] or int(said("POLNAXIS")) != 2)
        if flat or len(planes) < (degree + 1) * (degree + 2) // 2:
            return None
        zero, scale = (
            (float(said(f"{card}1") or default), float(said(f"{card}2") or default))
            for card, default in (("POLZERO", 0), ("POLSCAL", 1))
        )
        return cls(planes, zero, scale, degree, float(said("PSF_SAMP") or 1))

    def at(self, x: float, y: float) -> NDArray[np.float64]:
        """Return the PSF at a 0-based position, on its own raster."""
        u = (x + 1 - self.zero_xy[0]) / self.scale_xy[0]
        v = (y + 1 - self.zero_xy[1]) / self.scale_xy[1]
        terms = [u**i * v**j for j in range(self.degree + 1) for i in range(self.degree + 1 - j)]
        picture: NDArray[np.float64] = np.tensordot(terms, self.planes[: len(terms)], 1)
        return picture

    def fwhm_pix(
        self, x: NDArray[np.float64], y: NDArray[np.float64], shape_YX: tuple[int, int]
    ) -> NDArray[np.float64]:
        """Measure the FWHM at 0-based positions, in pixels of the image.

        It is measured at points all over the image, and interpolated between them.
        """
        from scipy.interpolate import RegularGridInterpolator

        if self.degree == 0:
            return np.full(len(x), fwhm_pix(self.at(0, 0)) * self.step_pix)
        axes = [np.linspace(0, max(1, side - 1), _POINTS) for side in shape_YX]
        widths = np.array([[fwhm_pix(self.at(a, b)) for a in axes[1]] for b in axes[0]])
        between = RegularGridInterpolator(axes, widths, bounds_error=False, fill_value=None)
        found: NDArray[np.float64] = between(np.column_stack([y, x])) * self.step_pix
        return found
