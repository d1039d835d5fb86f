"""What a telescope and a survey fix for every mock: bands, pixels, kind of PSF, gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate.scene import FineGrid

# Light from objects outside the stamp still falls into it, and what the Fourier transform wraps
# around lands here.
MARGIN_ARCSEC = 2.0


@dataclass(frozen=True)
class Observation:
    """What the telescope does to every mock; what it does to one stands in that mock's row.

    Attributes
    ----------
    bands : in the order of the images
    size : of a stamp, odd, pixels
    reference_band : in which `source_snr` is measured
    electrons_per_njy : in each band, for the object's own shot noise; None: sky dominated
    moffat_beta : of a Moffat PSF: 2.5, 3.5 or 4.5
    supersampling : fine pixels along a pixel's side, odd
    """

    bands: tuple[str, ...]
    size: int
    pixel_scale_arcsec: float
    reference_band: str
    electrons_per_njy: tuple[float, ...] | None = None
    psf: Literal["moffat", "gaussian"] = "moffat"
    moffat_beta: float = 3.5
    supersampling: int = 3

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"stamp size is {self.size}; expected an odd number of pixels")
        if self.supersampling < 1 or self.supersampling % 2 == 0:
            raise ValueError(f"supersampling is {self.supersampling}; expected an odd number")
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
        while size % 2 or not _is_smooth(size * self.supersampling):
            size += 1
        return size

    @property
    def half_width_arcsec(self) -> float:
        """Half the side of stamp and margin: where surroundings matter."""
        return self.padded_size * self.pixel_scale_arcsec / 2

    def grid(self, dtype: torch.dtype) -> FineGrid:
        """Fine pixels of stamp and margin; zero is the centre of the stamp's central pixel."""
        s, n = self.supersampling, self.padded_size
        centre = (n - self.size) // 2 + self.size // 2
        # Every s-th fine pixel, from the first on, lies at the centre of a pixel.
        pixels = torch.arange(n * s, dtype=torch.float64) / s - centre
        axis = (pixels * self.pixel_scale_arcsec).to(dtype)
        return FineGrid(axis, self.pixel_scale_arcsec / s)

    def stamp(self, image: Tensor) -> Tensor:
        """The stamp without its margin."""
        first = (self.padded_size - self.size) // 2
        return image[..., first : first + self.size, first : first + self.size]


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1
