"""What a telescope and a survey fix for every mock: bands, pixels, kind of PSF, gain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate.grid import FineGrid
from lensfinder.simulate.noise import Noise
from lensfinder.simulate.psfs import PsfImages
from lensfinder.simulate.sources import SourceImages

# Light from objects outside the stamp still falls into it, and what the Fourier transform wraps
# around lands here.
MARGIN_ARCSEC = 2.0
# An adaptive grid has so many points in the FWHM of its sharpest PSF: less than 1e-3 of a star's
# power lies beyond its Nyquist frequency, and next to nothing of an arc's.
_POINTS_IN_FWHM = 3.0
_FINEST_GRID = 4


@dataclass(frozen=True)
class Observation:
    """What the telescope does to every mock; what it does to one stands in that mock's row.

    Attributes
    ----------
    bands : in the order of the images
    size : of a stamp, odd, pixels
    reference_band : in which `source_snr` is measured
    electrons_per_njy : in each band, for the object's own shot noise; None: sky dominated
    psf : 'moffat' and 'gaussian' are round, have the observed FWHM of each mock's row, and are
        integrated over the pixel here; 'image' takes `psf_images`, which hold the pixel's response
        (their FWHM is for the caller to write into the row: `psf_images.fwhm_arcsec`)
    moffat_beta : of a Moffat PSF: 2.5, 3.5 or 4.5
    psf_images : for psf 'image'
    supersampling : fine pixels along a pixel's side on a plain grid, each sampled once. None: an
        adaptive grid, no finer than each mock's PSF needs, whose cells are sampled more finely
        where the light needs it
    noise : kind of noise and of bad pixels
    sources : images that `source_stamp` of a row counts
    compiled : whether compiled kernels do the work, see `backends`; they are for adaptive grids
    """

    bands: tuple[str, ...]
    size: int
    pixel_scale_arcsec: float
    reference_band: str
    electrons_per_njy: tuple[float, ...] | None = None
    psf: Literal["moffat", "gaussian", "image"] = "moffat"
    moffat_beta: float = 3.5
    psf_images: PsfImages | None = None
    supersampling: int | None = None
    noise: Noise = field(default_factory=Noise)
    sources: SourceImages | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"stamp size is {self.size}; expected an odd number of pixels")
        if self.supersampling is not None and self.supersampling < 1:
            raise ValueError(f"supersampling is {self.supersampling}; expected at least 1")
        if self.supersampling is not None and self.compiled:
            raise ValueError(
                f"compiled, and supersampling is {self.supersampling}; expected None: compiled "
                "kernels are for adaptive grids"
            )
        if (self.psf == "image") != (self.psf_images is not None):
            given = "none are" if self.psf_images is None else "some are"
            raise ValueError(
                f"psf is '{self.psf}' and {given} given as psf_images; expected both or neither: "
                "psf = 'image' and its images"
            )
        if self.psf_images is not None and self.psf_images.images_PCYX.shape[1] != len(self.bands):
            raise ValueError(
                f"PSF images have {self.psf_images.images_PCYX.shape[1]} bands; expected "
                f"{len(self.bands)}: {', '.join(self.bands)}"
            )
        if self.reference_band not in self.bands:
            raise ValueError(
                f"reference band is '{self.reference_band}'; expected one of {list(self.bands)}"
            )
        if self.electrons_per_njy is not None and len(self.electrons_per_njy) != len(self.bands):
            raise ValueError(
                f"{len(self.electrons_per_njy)} gains; expected one for each of {list(self.bands)}"
            )

    @property
    def padded_size(self) -> int:
        """Stamp and margin, pixels: the next size whose transform is fast."""
        size = self.size + 2 * int(np.ceil(MARGIN_ARCSEC / self.pixel_scale_arcsec))
        while size % 2 or not _is_smooth(size):
            size += 1
        return size

    @property
    def half_width_arcsec(self) -> float:
        """Half the side of stamp and margin: where surroundings matter."""
        return self.padded_size * self.pixel_scale_arcsec / 2

    def grids_needed(self, fwhm_arcsec: np.ndarray) -> np.ndarray:
        """How many grid points along a pixel's side each mock needs, (N,).

        Parameters
        ----------
        fwhm_arcsec : of the sharpest PSF of each mock, as observed
        """
        if self.supersampling is not None:
            return np.full(len(fwhm_arcsec), self.supersampling)
        wanted = np.ceil(_POINTS_IN_FWHM * self.pixel_scale_arcsec / fwhm_arcsec - 1e-9)
        return np.clip(wanted, 1, _FINEST_GRID).astype(int)

    def grid(self, points: int, dtype: torch.dtype) -> FineGrid:
        """Stamp and margin with so many points along a pixel's side.

        Zero is the centre of the stamp's central pixel.
        """
        n = self.padded_size
        centre = (n - self.size) // 2 + self.size // 2
        # From the first on, every so many-th point lies at the centre of a pixel.
        pixels = torch.arange(n * points, dtype=torch.float64) / points - centre
        axis = (pixels * self.pixel_scale_arcsec).to(dtype)
        return FineGrid(axis, self.pixel_scale_arcsec / points, adaptive=self.supersampling is None)

    def stamp(self, image: Tensor) -> Tensor:
        """The stamp without its margin."""
        first = (self.padded_size - self.size) // 2
        return image[..., first : first + self.size, first : first + self.size]


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1
