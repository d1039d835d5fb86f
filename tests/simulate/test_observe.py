"""PSF, pixels and noise: flux kept, widths and variances as stated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import kv

from lensfinder.simulate import observe

SCALE, N, S = 0.2, 48, 3


def otf_of(psf: str, fwhm: float, beta: float = 3.5) -> torch.Tensor:
    ky, kx = observe.frequencies(N * S, SCALE / S, torch.float64)
    observed = torch.tensor(fwhm, dtype=torch.float64)
    width = observe.unbroadened_fwhm(observed, SCALE, None if psf == "gaussian" else beta)
    if psf == "gaussian":
        otf = observe.gaussian_otf(ky, kx, width)
    else:
        otf = observe.moffat_otf(ky, kx, width, beta)
    return otf * observe.pixel_response(ky, kx, SCALE) * S**2


def point(column: int, row: int) -> torch.Tensor:
    scene = torch.zeros(N * S, N * S, dtype=torch.float64)
    scene[row, column] = 1.0
    return torch.fft.rfft2(scene)


@pytest.mark.parametrize(
    ("psf", "beta"), [("gaussian", 0), ("moffat", 2.5), ("moffat", 3.5), ("moffat", 4.5)]
)
def test_psf_has_unit_sum_and_the_stated_width(psf: str, beta: float) -> None:
    for fwhm in (0.6, 0.8, 1.2):
        otf = otf_of(psf, fwhm, beta)
        star = observe.convolve_and_sample(point(24 * S, 24 * S), otf, S)
        assert float(star.sum()) == pytest.approx(1, abs=1e-9)
        # The profile between pixels: the star is moved instead, by steps of a third of a pixel.
        finer = [
            observe.convolve_and_sample(point(24 * S - k, 24 * S), otf, S)[24] for k in range(S)
        ]
        line = torch.stack(finer, dim=1).flatten().numpy()
        offset = (np.arange(N * S) - 24 * S) * SCALE / S
        half = np.interp(-line.max() / 2, -line[24 * S :], offset[24 * S :])
        assert 2 * half == pytest.approx(fwhm, rel=0.01)


@pytest.mark.parametrize("beta", [2.5, 3.5, 4.5])
def test_moffat_is_the_bessel_function_it_should_be(beta: float) -> None:
    k = torch.linspace(0.05, 4, 30, dtype=torch.float64)
    a = 0.7 / (2 * np.sqrt(2 ** (1 / beta) - 1))
    z = 2 * np.pi * a * k.numpy()
    shape = z ** (beta - 1) * kv(beta - 1, z)
    tiny = 1e-6
    expected = shape / (tiny ** (beta - 1) * kv(beta - 1, tiny))
    got = observe.moffat_otf(torch.zeros(1, dtype=torch.float64), k, torch.tensor(0.7), beta)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_other_moffats_and_bad_psfs_are_refused() -> None:
    k = torch.zeros(1)
    with pytest.raises(ValueError, match=r"beta is 3\.0; expected 2\.5"):
        observe.moffat_otf(k, k, torch.tensor(0.7), 3.0)
    with pytest.raises(ValueError, match="FWHM is nan"):
        observe.unbroadened_fwhm(torch.tensor(float("nan")), 0.2)
    with pytest.raises(ValueError, match=r"expected more than 0\.136"):
        observe.unbroadened_fwhm(torch.tensor(0.1), 0.2)


def test_sampling_equals_convolution_and_decimation() -> None:
    generator = torch.Generator().manual_seed(1)
    scene = torch.rand(2, N * S, N * S, generator=generator, dtype=torch.float64)
    fft, otf = torch.fft.rfft2(scene), otf_of("moffat", 0.7)
    plain = torch.fft.irfft2(fft * otf)[..., ::S, ::S]
    assert torch.allclose(observe.convolve_and_sample(fft, otf, S), plain, atol=1e-12)
