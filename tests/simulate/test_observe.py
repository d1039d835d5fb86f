"""PSF, pixels and noise: flux kept, widths and variances as stated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.param_util import phi_q2_ellipticity
from scipy.special import kv

from lensfinder.simulate import lensing, light, observe

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
    kernel = torch.ones(1, 5, 5)
    kernel[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        observe.kernel_otf(kernel, 48)
    with pytest.raises(ValueError, match="expected square, odd"):
        observe.kernel_otf(torch.ones(1, 4, 4), 48)
    with pytest.raises(ValueError, match="expected an odd number"):
        observe.block_response(48, 2, torch.float64)


def test_sampling_equals_convolution_and_decimation() -> None:
    generator = torch.Generator().manual_seed(1)
    scene = torch.rand(2, N * S, N * S, generator=generator, dtype=torch.float64)
    fft, otf = torch.fft.rfft2(scene), otf_of("moffat", 0.7)
    plain = torch.fft.irfft2(fft * otf)[..., ::S, ::S]
    assert torch.allclose(observe.convolve_and_sample(fft, otf, S), plain, atol=1e-12)
    block = observe.block_response(N * S, S, torch.float64)
    summed = torch.roll(scene, (1, 1), dims=(-2, -1)).reshape(2, N, S, N, S).sum(dim=(2, 4))
    assert torch.allclose(observe.convolve_and_sample(fft, block, S), summed, atol=1e-10)


# lenstronomy's own call of numpy's FFT.
@pytest.mark.filterwarnings("ignore:`axes` should not be `None`:DeprecationWarning")
def test_image_agrees_with_lenstronomy() -> None:
    """A lensed Sersic source through a PSF image, at the same sampling."""
    rng = np.random.default_rng(11)
    n = 61
    x = (torch.arange(n * S, dtype=torch.float64) - (n * S) // 2) * SCALE / S
    axis = np.arange(-22, 23) * SCALE / S
    psf_image = np.exp(-(axis[None, :] ** 2 + 0.7 * axis[:, None] ** 2) / 0.18)
    otf = observe.kernel_otf(torch.tensor(psf_image)[None], n * S)[0]
    otf = otf * observe.block_response(n * S, S, torch.float64)
    half = (n // 2) * SCALE
    data = ImageData(
        image_data=np.zeros((n, n)),
        transform_pix2angle=np.eye(2) * SCALE,
        ra_at_xy_0=-half,
        dec_at_xy_0=-half,
    )
    psf = PSF("PIXEL", kernel_point_source=psf_image, point_source_supersampling_factor=S)
    numerics = {
        "supersampling_factor": S,
        "supersampling_convolution": True,
        "supersampling_kernel_size": None,  # the default keeps only the core of the kernel fine
    }
    for _ in range(5):
        theta_e, q, phi, shear, shear_phi = rng.uniform((0.8, 0.4, 0, 0, 0), (2, 0.95, 3, 0.1, 3))
        source_x, source_y = rng.uniform(-0.3, 0.3, 2)
        r_e, source_n, source_q, source_phi = rng.uniform((0.1, 0.6, 0.4, 0), (0.4, 2, 1, 3))
        lens = [torch.tensor(v) for v in (theta_e, q, phi, shear, shear_phi)]
        shape = [torch.tensor(v) for v in (r_e, source_n, source_q, source_phi)]
        bx, by = lensing.ray_shoot(x[None, :], x[:, None], *lens)
        scene = light.sersic(bx - source_x, by - source_y, *shape) * (SCALE / S) ** 2
        # Fine pixel 1 is the centre of pixel 0: bring the centres to every third one from zero.
        scene = torch.roll(scene, (-1, -1), dims=(0, 1))
        ours = observe.convolve_and_sample(torch.fft.rfft2(scene), otf, S).numpy()
        b, b_theirs = float(light.sersic_b(torch.tensor(source_n))), 1.9992 * source_n - 0.3271
        zero = torch.tensor(0.0, dtype=torch.float64)
        centre = float(light.sersic(zero, zero, *shape))
        e1, e2 = phi_q2_ellipticity(phi, q)
        s1, s2 = phi_q2_ellipticity(source_phi, source_q)
        model = ImageModel(
            data,
            psf,
            LensModel(["SIE", "SHEAR"]),
            LightModel(["SERSIC_ELLIPSE"]),
            kwargs_numerics=numerics,
        )
        theirs = model.image(
            kwargs_lens=[
                {"theta_E": theta_e, "e1": e1, "e2": e2},
                {
                    "gamma1": shear * np.cos(2 * shear_phi),
                    "gamma2": shear * np.sin(2 * shear_phi),
                },
            ],
            kwargs_source=[
                {
                    "amp": centre * np.exp(-b_theirs),
                    "R_sersic": r_e * (b_theirs / b) ** source_n,
                    "n_sersic": source_n,
                    "e1": s1,
                    "e2": s2,
                    "center_x": source_x,
                    "center_y": source_y,
                }
            ],
        )
        inner = slice(8, -8)  # they pad with zeros where we wrap around
        error = np.abs(ours - theirs)[inner, inner].max()
        assert error < 1e-6 * theirs.max()
