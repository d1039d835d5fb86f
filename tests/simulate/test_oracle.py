"""Whole images against lenstronomy at the same sampling: every lens, every kind of PSF."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from oracle import lens_names, model_kwargs, nothing_nearby, system
from scipy.special import erf

from lensfinder.simulate import observe
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.psfs import PsfImages
from lensfinder.simulate.render import render

SCALE, SIZE, S = 0.2, 31, 3
FINE = SCALE / S
# lenstronomy's own call of numpy's FFT.
pytestmark = pytest.mark.filterwarnings("ignore:`axes` should not be `None`:DeprecationWarning")


def theirs(row: dict, kernel: np.ndarray, n_fine: int, first: float) -> np.ndarray:
    """Flux of each fine pixel of the padded stamp, whose first is centred on `first`."""
    data = ImageData(
        image_data=np.zeros((n_fine, n_fine)),
        transform_pix2angle=np.eye(2) * FINE,
        ra_at_xy_0=first,
        dec_at_xy_0=first,
    )
    model = ImageModel(
        data,
        PSF("PIXEL", kernel_point_source=kernel, kernel_point_source_normalisation=False),
        LensModel(lens_names(row)),
        LightModel(["SERSIC_ELLIPSE"]),
        LightModel(["SERSIC_ELLIPSE"]),
        kwargs_numerics={"supersampling_factor": 1},
    )
    image: np.ndarray = model.image(**model_kwargs(row, "r", SCALE))
    return image


def kernel_of(psf: str, fwhm: float, reach: int) -> np.ndarray:
    """What a pixel records of a star at every fine pixel, worked out in real space."""
    axis = np.arange(-reach, reach + 1) * FINE
    if psf == "gaussian":
        own = float(observe.unbroadened_fwhm(torch.tensor(fwhm, dtype=torch.float64), SCALE))
        root = own / (2 * math.sqrt(math.log(2)))
        line = erf((axis + SCALE / 2) / root) - erf((axis - SCALE / 2) / root)
        return np.outer(line, line) / np.outer(line, line).sum()
    own = float(observe.unbroadened_fwhm(torch.tensor(fwhm, dtype=torch.float64), SCALE, 4.5))
    a = own / (2 * math.sqrt(2 ** (1 / 4.5) - 1))
    node, weight = np.polynomial.legendre.leggauss(6)
    total = np.zeros((len(axis), len(axis)))
    for v, weight_v in zip(node * SCALE / 2, weight, strict=True):
        for u, weight_u in zip(node * SCALE / 2, weight, strict=True):
            r2 = (axis[None, :] + u) ** 2 + (axis[:, None] + v) ** 2
            total += weight_u * weight_v * (1 + r2 / a**2) ** -4.5
    # A mean over the pixel's nodes (their weights sum to 4), times its density and area.
    return total / 4 * (4.5 - 1) / (math.pi * a**2) * FINE**2


@pytest.mark.parametrize("slope", [None, "power law"])
@pytest.mark.parametrize("psf", ["gaussian", "moffat", "image"])
def test_images_agree_with_lenstronomy(psf: str, slope: str | None) -> None:
    """200 systems in all six cases: lens light, arcs, PSF and pixels."""
    rng = np.random.default_rng(["gaussian", "moffat", "image"].index(psf) + 10 * (slope is None))
    fwhm = 0.7
    images = None
    if psf == "image":
        axis = np.arange(-15, 16) * FINE
        star = np.exp(-(axis[None, :] ** 2 + 0.7 * axis[:, None] ** 2) / 0.18)
        star *= 1 + 0.5 * np.tanh(3 * (axis[None, :] + axis[:, None]))
        images = PsfImages(star[None, None], step_pixel=1 / S)
    observation = Observation(
        bands=("r",),
        size=SIZE,
        pixel_scale_arcsec=SCALE,
        reference_band="r",
        psf=psf,  # type: ignore[arg-type]
        moffat_beta=4.5,
        psf_images=images,
        supersampling=S,
    )
    rows = [system(rng, {"r": fwhm}) for _ in range(34)]
    if slope is not None:
        for row in rows:
            row["lens_slope"] = rng.uniform(1.6, 2.4)
    grid = observation.grid(S, torch.float64)
    n_fine = len(grid.axis_arcsec)
    kernel = (
        images.images_PCYX[0, 0] if images is not None else kernel_of(psf, fwhm, (n_fine - 1) // 2)
    )
    oracle = [theirs(row, kernel, n_fine, float(grid.axis_arcsec[0])) for row in rows]
    expected = [
        observation.stamp(torch.from_numpy(image[::S, ::S] * S**2)).numpy() for image in oracle
    ]
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        rendered = render(rows, nothing_nearby(len(rows), 1), observation, dtype=dtype)
        ours = (rendered.background_NCHW + rendered.feature_NCHW)[:, 0]
        for mine, their in zip(ours, expected, strict=True):
            assert np.abs(mine - their).max() < tolerance * their.max()
            assert float(mine.sum(dtype=float)) == pytest.approx(their.sum(), rel=tolerance * 10)
