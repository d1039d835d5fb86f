"""PSFs given as images: of one star or many, in each band.

An image is what a survey's pixels record of a point source, so that the pixel's response is in it.
It may be sampled more finely than the survey's pixels. Between its samples it is taken to be
band-limited; its transfer function is the Fourier sum over its samples, and zero beyond their
Nyquist frequency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PsfImages:
    """PSF images of a survey, from which each mock takes one.

    Attributes
    ----------
    images_PCYX : (P, bands, k, k) with k odd, the star in the middle; normalised to unit sum here
    step_pixel : distance of two samples in pixels of the survey, at most 1
    """

    images_PCYX: np.ndarray
    step_pixel: float = 1.0

    def __post_init__(self) -> None:
        images = np.asarray(self.images_PCYX, dtype=np.float64)
        if images.ndim != 4 or images.shape[-1] != images.shape[-2] or images.shape[-1] % 2 == 0:
            raise ValueError(
                f"PSF images have the shape {images.shape}; expected (PSFs, bands, k, k) with an "
                "odd k: cut or pad them so that the star is in the middle"
            )
        if not np.isfinite(images).all():
            bad = np.argwhere(~np.isfinite(images))[0]
            raise ValueError(
                f"PSF image {bad[0]}, band {bad[1]} holds NaN or infinity; expected finite values"
            )
        total = images.sum(axis=(2, 3), keepdims=True)
        if not (total > 0).all():
            bad = np.argwhere(~(total > 0))[0]
            raise ValueError(
                f"PSF image {bad[0]}, band {bad[1]} sums to {total[tuple(bad)]:.3g}; expected a "
                "positive sum: has a background been subtracted twice?"
            )
        if not 0 < self.step_pixel <= 1.0 + 1e-9:
            raise ValueError(
                f"PSF images are sampled every {self.step_pixel:g} pixels; expected at most 1, "
                "since a coarser image does not say what falls between"
            )
        for index, star in _off_centre(images, self.step_pixel):
            raise ValueError(
                f"PSF image {index[0]}, band {index[1]} has its star at column {star[0]:.1f}, row "
                f"{star[1]:.1f} of {images.shape[-1]}; expected the middle, or every object would "
                "be shifted as much"
            )
        object.__setattr__(self, "images_PCYX", images / total)

    def __len__(self) -> int:
        return len(self.images_PCYX)

    def fwhm_arcsec(self, pixel_arcsec: float) -> np.ndarray:
        """FWHM of each image, (P, bands): of the circle that holds its pixels above half maximum.

        The image is refined fourfold by its Fourier series first.
        """
        n = self.images_PCYX.shape[-1]
        spectrum = np.fft.fftshift(np.fft.fft2(self.images_PCYX), axes=(2, 3))
        pad = (3 * n) // 2 + 1
        padded = np.pad(spectrum, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        fine = np.fft.ifft2(np.fft.ifftshift(padded, axes=(2, 3))).real
        above = (fine > fine.max(axis=(2, 3), keepdims=True) / 2).sum(axis=(2, 3))
        step = self.step_pixel * pixel_arcsec * n / (n + 2 * pad)
        result: np.ndarray = 2 * np.sqrt(above / math.pi) * step
        return result


def _off_centre(
    images_PCYX: np.ndarray, step_pixel: float
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Those whose core lies more than a pixel from the middle, with its column and row."""
    middle = images_PCYX.shape[-1] // 2
    axis = np.arange(images_PCYX.shape[-1])
    for index in np.ndindex(images_PCYX.shape[:2]):
        image = images_PCYX[index]
        core = np.where(image > image.max() / 2, image, 0.0)
        centre = np.array([core.sum(axis=0) @ axis, core.sum(axis=1) @ axis]) / core.sum()
        if np.abs(centre - middle).max() * step_pixel > 1.0:
            yield (index[0], index[1]), centre


def image_otf(
    images_PCYX: Tensor, step_arcsec: float, n_fine: int, fine_scale_arcsec: float
) -> Tensor:
    """Transfer functions of PSF images on the grid of `torch.fft.rfft2`.

    Parameters
    ----------
    images_PCYX : (P, C, k, k), k odd, of unit sum
    step_arcsec : distance of two samples
    n_fine, fine_scale_arcsec : of the grid that a scene is sampled on

    Returns
    -------
    otf : complex, (P, C, n_fine, n_fine // 2 + 1); 1 at zero frequency
    """
    dtype, size = images_PCYX.dtype, images_PCYX.shape[-1]
    place = (torch.arange(size, dtype=dtype) - size // 2) * step_arcsec
    ky = torch.fft.fftfreq(n_fine, d=fine_scale_arcsec, dtype=dtype)
    kx = torch.fft.rfftfreq(n_fine, d=fine_scale_arcsec, dtype=dtype)
    nyquist = (1 + 1e-6) / (2 * step_arcsec)

    def waves(k: Tensor) -> Tensor:
        angle = -2 * math.pi * k[:, None] * place[None, :]
        kept = (k.abs() <= nyquist).to(dtype)[:, None]
        return torch.complex(torch.cos(angle) * kept, torch.sin(angle) * kept)

    images = torch.complex(images_PCYX, torch.zeros_like(images_PCYX))
    return waves(ky) @ images @ waves(kx).T
