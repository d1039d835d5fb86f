"""What a telescope does to a scene: PSF and pixels.

A scene is sampled on a grid `supersampling` times finer than the pixels. It is convolved in
Fourier space with an optical transfer function that holds the PSF and the response of the pixel,
and taken at the pixel centres, without transforming the whole fine image back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lensfinder.simulate import gridding, psfs
from lensfinder.simulate.grid import Columns, FineGrid
from lensfinder.simulate.observation import Observation

# Of a Gaussian.
_FWHM2_PER_VARIANCE = 8 * math.log(2)


def frequencies(n_fine: int, fine_scale_arcsec: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Frequencies (cycles per arcsec) of `torch.fft.rfft2` on an n_fine x n_fine grid.

    Returns ky of shape (n_fine, 1) and kx of shape (1, n_fine // 2 + 1).
    """
    ky = torch.fft.fftfreq(n_fine, d=fine_scale_arcsec, dtype=dtype)[:, None]
    kx = torch.fft.rfftfreq(n_fine, d=fine_scale_arcsec, dtype=dtype)[None, :]
    return ky, kx


def gaussian_otf(ky: Tensor, kx: Tensor, fwhm_arcsec: Tensor) -> Tensor:
    """Transfer function of a round Gaussian PSF; 1 at zero frequency, so that flux is kept."""
    sigma2 = fwhm_arcsec**2 / _FWHM2_PER_VARIANCE
    return torch.exp(-2 * math.pi**2 * sigma2 * (kx**2 + ky**2))


def moffat_otf(ky: Tensor, kx: Tensor, fwhm_arcsec: Tensor, beta: float = 3.5) -> Tensor:
    """Transfer function of a round Moffat PSF I ~ (1 + (r/a)^2)^-beta; 1 at zero frequency.

    Its Fourier transform is (k a)^(beta-1) K_(beta-1)(k a) up to a constant (Trujillo et al. 2001,
    MNRAS 328, 977, eq. 6), which is elementary for half-integer beta. Nothing is cut off in the
    wings: what leaves the grid on one side returns on the other.

    Parameters
    ----------
    ky, kx : cycles per arcsec
    fwhm_arcsec : full width at half maximum, > 0; broadcasts against ky and kx
    beta : 2.5, 3.5 or 4.5

    Raises
    ------
    ValueError
        for another beta
    """
    if beta not in (2.5, 3.5, 4.5):
        raise ValueError(f"Moffat beta is {beta}; expected 2.5, 3.5 or 4.5")
    a = fwhm_arcsec / (2 * math.sqrt(2 ** (1 / beta) - 1))
    z = 2 * math.pi * a * torch.sqrt(kx**2 + ky**2)
    if beta == 2.5:
        polynomial = 1 + z
    elif beta == 3.5:
        polynomial = 1 + z * (1 + z / 3)
    else:
        polynomial = 1 + z * (1 + z * (0.4 + z / 15))
    return torch.exp(-z) * polynomial


def pixel_response(ky: Tensor, kx: Tensor, pixel_arcsec: float) -> Tensor:
    """Transfer function of a square pixel: integrates a PSF that is given as a point response."""
    return torch.sinc(kx * pixel_arcsec) * torch.sinc(ky * pixel_arcsec)


def unbroadened_fwhm(fwhm_arcsec: Tensor, pixel_arcsec: float, beta: float | None = None) -> Tensor:
    """FWHM that, once integrated over pixels, is observed as `fwhm_arcsec`.

    A pixel of side p adds p^2/24 times its Laplacian to a profile. Expanding a Moffat about its
    half maximum gives FWHM^2 + (2/3) p^2 (h - 1) (1 + (beta + 1) / h) with h = 2^(1/beta); a
    Gaussian, its limit, gives (2/3) ln 2.

    Parameters
    ----------
    fwhm_arcsec : as observed
    pixel_arcsec : side of a pixel
    beta : of a Moffat; None: Gaussian

    Raises
    ------
    ValueError
        if an observed FWHM is not a number, or not wider than a pixel makes a point
    """
    least = narrowest_fwhm(pixel_arcsec, beta)
    width2 = fwhm_arcsec**2 - least**2
    if not bool((width2 > 0).all()):
        raise ValueError(
            f"PSF FWHM is {float(fwhm_arcsec.min()):.3g} arcsec; expected more than {least:.3g}, "
            f"which a pixel of {pixel_arcsec} arcsec alone gives"
        )
    return torch.sqrt(width2)


def narrowest_fwhm(pixel_arcsec: float, beta: float | None = None) -> float:
    """FWHM that pixels alone give a point, arcsec; parameters as in `unbroadened_fwhm`."""
    factor = 2 / 3 * math.log(2)
    if beta is not None:
        half = 2 ** (1 / beta)
        factor = 2 / 3 * (half - 1) * (1 + (beta + 1) / half)
    return math.sqrt(factor) * pixel_arcsec


def convolve_and_sample(scene_fft: Tensor, otf: Tensor, supersampling: int) -> Tensor:
    """Convolve a finely sampled scene and take it at the pixel centres, every s-th fine pixel.

    Equal to irfft2(scene_fft * otf)[..., ::s, ::s]. Leaving out rows folds the spectrum s times
    along y, so that s times fewer rows are transformed back. With the response of the whole pixel
    in the transfer function, the values are the flux that each pixel collects.

    Parameters
    ----------
    scene_fft : `torch.fft.rfft2` of the scene, (..., n_fine, n_fine // 2 + 1), flux per fine pixel
    otf : transfer function of PSF and pixel, broadcasts against scene_fft
    supersampling : s, divides n_fine

    Returns
    -------
    image : (..., n_fine / s, n_fine / s), s**-2 times the flux per pixel where the OTF is 1 at zero
    """
    n_fine = scene_fft.shape[-2]
    product = scene_fft * otf
    if supersampling == 1:
        plain: Tensor = torch.fft.irfft2(product, s=(n_fine, n_fine))
        return plain
    folds = product.reshape(*product.shape[:-2], supersampling, -1, product.shape[-1])
    folded = folds.sum(dim=-3) / supersampling
    rows: Tensor = torch.fft.irfft(torch.fft.ifft(folded, dim=-2), n=n_fine, dim=-1)
    return rows[..., ::supersampling]


def transfer_function(c: Columns, observation: Observation, grid: FineGrid, points: int) -> Tensor:
    """Transfer function of PSF and pixel in each band, (N, C, F, F // 2 + 1).

    Its value at zero is the number of fine pixels in a pixel, which collects them all. The
    response of spreading is divided out.
    """
    dtype, n_fine = grid.axis_arcsec.dtype, len(grid.axis_arcsec)
    scale, beta = observation.pixel_scale_arcsec, observation.moffat_beta
    ky, kx = frequencies(n_fine, grid.scale_arcsec, dtype)
    if observation.psf_images is not None:
        # Images of PSFs hold the pixel's response.
        after = torch.full((n_fine, n_fine // 2 + 1), float(points**2), dtype=dtype)
        if grid.adaptive:
            after /= gridding.response(ky, kx, grid.scale_arcsec)
        which, row = torch.unique(c.get("psf_index", 0).long(), return_inverse=True)
        images = torch.from_numpy(observation.psf_images.images_PCYX).to(dtype)[which]
        step = observation.psf_images.step_pixel * scale
        otf = psfs.image_otf(images, step, n_fine, grid.scale_arcsec) * after
        return otf[row]
    # Round PSFs are even along y: one half is enough.
    half = n_fine // 2
    ky = ky[: half + 1].abs()
    after = pixel_response(ky, kx, scale) * points**2
    if grid.adaptive:
        after = after / gridding.response(ky, kx, grid.scale_arcsec)
    epochs = _epoch_fwhm(c, observation.bands)
    round_psf = torch.zeros(len(c["dx"]), len(observation.bands), *after.shape, dtype=dtype)
    for fwhm, weight in epochs:
        if observation.psf == "gaussian":
            own = unbroadened_fwhm(fwhm, scale)
            shape = gaussian_otf(ky, kx, own[:, :, None, None])
        else:
            own = unbroadened_fwhm(fwhm, scale, beta)
            shape = moffat_otf(ky, kx, own[:, :, None, None], beta)
        round_psf = shape if len(epochs) == 1 else round_psf + shape * weight[:, :, None, None]
    round_psf *= after
    return torch.cat([round_psf, round_psf[:, :, 1:half].flip(2)], dim=2)


def _epoch_fwhm(c: Columns, bands: tuple[str, ...]) -> list[tuple[Tensor, Tensor]]:
    """FWHM of each exposure and its weight in the coadd, each (N, C)."""
    whole = torch.stack([c[f"psf_fwhm_{b}_arcsec"] for b in bands], dim=1)
    numbers = range(1, c.count(f"psf_fwhm_{bands[0]}_epoch_{{}}_arcsec") + 1)
    epochs = [
        torch.stack([c[f"psf_fwhm_{b}_epoch_{k}_arcsec"] for b in bands], dim=1) for k in numbers
    ]
    if not epochs:
        return [(whole, torch.ones_like(whole))]
    there = torch.stack([torch.isfinite(fwhm) for fwhm in epochs])
    # A mock without exposures of its own is one exposure.
    single = ~there.any(dim=0)
    there[0] |= single
    weight = there / there.sum(dim=0)
    return [
        (torch.where(torch.isfinite(fwhm), fwhm, whole), w.to(whole.dtype))
        for fwhm, w in zip(epochs, weight, strict=True)
    ]
