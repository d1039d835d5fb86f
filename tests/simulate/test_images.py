"""PSF images, random potentials and real sources: sums, widths, and what they must equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from lensfinder.psf import PsfexModel
from lensfinder.simulate import arcs, grf, observe, psfs
from lensfinder.simulate.grid import Columns, FineGrid
from lensfinder.simulate.sources import SourceImages, clean


def gaussian_image(size: int, step: float, sigma: float) -> np.ndarray:
    axis = (np.arange(size) - size // 2) * step
    return np.exp(-(axis[None, :] ** 2 + axis[:, None] ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("step", [1.0, 0.5, 1 / 3])
def test_psf_image_is_the_function_it_samples(step: float) -> None:
    """Whatever its sampling: sum 1, and the transfer function of the Gaussian."""
    sigma, scale, n = 0.3, 0.2, 96
    images = psfs.PsfImages(gaussian_image(61, step * scale, sigma)[None, None], step)
    otf = psfs.image_otf(torch.from_numpy(images.images_PCYX), step * scale, n, scale / 2)[0, 0]
    ky, kx = observe.frequencies(n, scale / 2, torch.float64)
    expected = observe.gaussian_otf(ky, kx, torch.tensor(sigma * np.sqrt(8 * np.log(2))))
    assert float(otf[0, 0].real) == pytest.approx(1, abs=1e-12)
    assert float((otf - expected).abs().max()) < 2e-3 if step == 1.0 else 1e-6
    fwhm = images.fwhm_arcsec(scale)
    assert float(fwhm[0, 0]) == pytest.approx(sigma * np.sqrt(8 * np.log(2)), rel=0.03)


def test_bad_psf_images_are_refused() -> None:
    good = gaussian_image(9, 0.2, 0.3)[None, None]
    broken = good.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="band 0 holds NaN"):
        psfs.PsfImages(broken)
    with pytest.raises(ValueError, match="expected a positive sum"):
        psfs.PsfImages(-good)
    with pytest.raises(ValueError, match="an odd k"):
        psfs.PsfImages(good[..., 1:, 1:])
    with pytest.raises(ValueError, match="at most 1"):
        psfs.PsfImages(good, 1.5)


def test_random_potential_has_the_stated_convergence() -> None:
    """Its divergence, by central differences along the waves that a grid resolves."""
    side = 8.0
    alpha = grf.draw_deflection(np.random.default_rng(3), side, 0.04)
    again = grf.draw_deflection(np.random.default_rng(3), side, 0.04)
    assert alpha.tobytes() == again.tobytes()
    k = 2j * np.pi * np.fft.fftfreq(grf.N_GRID, side / grf.N_GRID)
    ax, ay = np.fft.fft2(alpha)
    kappa = 0.5 * np.fft.ifft2(k[None, :] * ax + k[:, None] * ay).real
    curl = np.fft.ifft2(k[None, :] * ay - k[:, None] * ax).real
    assert kappa.std() == pytest.approx(0.04, rel=1e-6)
    assert np.abs(curl).max() < 1e-10
    assert np.abs(alpha.mean(axis=(1, 2))).max() < 1e-12


def test_random_potential_is_read_between_its_points() -> None:
    alpha = torch.from_numpy(grf.draw_deflection(np.random.default_rng(1), 8.0, 0.05))[None]
    j, i = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    zero = torch.zeros(64, 64, dtype=torch.long)
    on_x, on_y = grf.deflection(alpha, zero, i.double(), j.double() + 64)
    assert torch.equal(torch.stack([on_x, on_y]), alpha[0])
    # Against the field's own Fourier series, half a step off.
    k = torch.fft.fftfreq(64, d=1.0, dtype=torch.float64)
    shift = torch.exp(1j * np.pi * (k[None, :] + k[:, None]))
    halfway = torch.fft.ifft2(torch.fft.fft2(alpha[0, 0]) * shift).real
    got, _ = grf.deflection(alpha, zero, i + 0.5, j + 0.5)
    assert float((got - halfway).std()) < 0.02 * float(alpha.std())


def columns(**changed: float) -> Columns:
    row = {
        "dx": 0.0,
        "theta_e_arcsec": 1e-6,
        "q_lens": 0.9,
        "pa_lens_deg": 10.0,
        "shear": 0.0,
        "pa_shear_deg": 0.0,
        "source_x_arcsec": 0.11,
        "source_y_arcsec": -0.07,
        "source_re_arcsec": 0.2,
        "source_n": 1.0,
        "source_q": 0.8,
        "source_pa_deg": 30.0,
    } | changed
    return Columns(
        {name: torch.tensor([value], dtype=torch.float64) for name, value in row.items()}
    )


def grid(adaptive: bool) -> FineGrid:
    return FineGrid((torch.arange(64, dtype=torch.float64) - 32) * 0.2, 0.2, adaptive)


def blobs() -> SourceImages:
    rng = np.random.default_rng(0)
    y, x = np.indices((40, 44))
    image = 50 * np.exp(-((x - 20) ** 2 + (y - 22) ** 2) / 30)
    image += 30 * np.exp(-((x - 28) ** 2 + (y - 16) ** 2) / 8)
    return SourceImages.of([image + rng.standard_normal(image.shape)], ["blob"], [0.05])


def test_real_source_keeps_flux_and_place() -> None:
    images = blobs()
    assert images.images_SYX.sum() == pytest.approx(1)
    zero = torch.zeros(1, dtype=torch.float64)
    image = arcs.lensed_source(grid(True), columns(source_stamp=0.0), zero, zero, images)[0, 0]
    assert float(image.sum()) == pytest.approx(1, abs=1e-3)
    axis = grid(True).axis_arcsec
    y, x = np.indices(images.images_SYX.shape[1:]) - images.images_SYX.shape[1] // 2
    share = images.images_SYX[0]
    turn = np.deg2rad(30.0)
    u, v = (share * x).sum() * 0.05, (share * y).sum() * 0.05
    expected = (
        np.cos(turn) * u - np.sin(turn) * v + 0.11,
        np.sin(turn) * u + np.cos(turn) * v - 0.07,
    )
    assert float((image.sum(dim=0) * axis).sum()) == pytest.approx(expected[0], abs=3e-3)
    assert float((image.sum(dim=1) * axis).sum()) == pytest.approx(expected[1], abs=3e-3)
    with pytest.raises(ValueError, match="source_stamp is 1, and there are 1"):
        arcs.lensed_source(grid(True), columns(source_stamp=1.0), zero, zero, images)


def test_a_profile_given_as_an_image_is_lensed_like_the_profile() -> None:
    """With a random potential and a power law too: the magnification agrees."""
    lens = {"theta_e_arcsec": 1.2, "shear": 0.03, "lens_slope": 2.1, "source_pa_deg": 0.0}
    lens |= {"grf_kappa_rms": 0.02, "grf_seed": 5.0}
    axis = (np.arange(121) - 60) * 0.02
    image = np.exp(-((axis[None, :] ** 2 + axis[:, None] ** 2) / (2 * 0.15**2)))
    images = SourceImages(image[None] / image.sum(), ("gaussian",), np.array([0.02]))
    zero = torch.zeros(1, dtype=torch.float64)
    profile = columns(**lens, source_n=0.5, source_q=1.0, source_re_arcsec=0.15 * 1.17741)
    stamped = columns(**lens, source_stamp=0.0)
    ours = arcs.lensed_source(grid(True), profile, zero, zero).sum()
    theirs = arcs.lensed_source(grid(True), stamped, zero, zero, images).sum()
    smooth = arcs.lensed_source(grid(True), columns(**lens | {"grf_kappa_rms": 0.0}), zero, zero)
    assert float(theirs) == pytest.approx(float(ours), rel=5e-3)
    assert abs(float(smooth.sum()) / float(ours) - 1) > 1e-3


def test_clean_leaves_the_galaxy_alone() -> None:
    rng = np.random.default_rng(1)
    y, x = np.indices((60, 60))
    galaxy = 40 * np.exp(-((x - 30) ** 2 + (y - 29) ** 2) / 40)
    neighbour = 60 * np.exp(-((x - 52) ** 2 + (y - 8) ** 2) / 6)
    cleaned = clean(galaxy + neighbour + 3 + rng.standard_normal(galaxy.shape))
    assert cleaned.sum() == pytest.approx(1)
    assert cleaned[4:12, 48:56].max() == 0
    assert not cleaned[[0, -1]].any()
    assert np.abs(cleaned - galaxy / galaxy.sum()).sum() < 0.15
    with pytest.raises(ValueError, match="nothing near its centre"):
        clean(np.where((x > 50) & (y > 50), 100.0, 0.0) + rng.standard_normal(galaxy.shape) * 0.1)
    with pytest.raises(ValueError, match="holds NaN"):
        clean(np.full((20, 20), np.nan))


@pytest.mark.real
def test_real_stamps_and_psfs_can_be_used(real_data: Path) -> None:
    with fits.open(real_data / "sources/hst_cosmos/real_galaxy_images_extension.fits") as hdus:
        stamps = [hdu.data.astype(float) for hdu in hdus[:20]]
    images = SourceImages.of(stamps, [str(k) for k in range(20)], [0.03] * 20)
    radii = images.half_light_radius_arcsec()
    assert ((radii > 0.05) & (radii < 1.5)).all()
    with fits.open(real_data / "psf/DECam_00154912_12_psfcat.psf") as hdus:
        header, planes = hdus[1].header, hdus[1].data["PSF_MASK"][0]
    model = PsfexModel.read(planes, header.get)
    assert model is not None
    star = model.at(1000.0, 2000.0)
    fwhm = psfs.PsfImages(star[None, None], header["PSF_SAMP"]).fwhm_arcsec(1.0)
    assert float(fwhm[0, 0]) == pytest.approx(header["PSF_FWHM"], rel=0.15)


def test_a_star_off_the_middle_of_its_image_is_refused() -> None:
    """It would shift every object, and truth would not say so."""
    axis = np.arange(-7, 8)
    for shift, step in ((3, 1.0), (5, 0.5)):
        star = np.exp(-((axis[None, :] - shift) ** 2 + axis[:, None] ** 2) / 4.0)
        with pytest.raises(ValueError, match=rf"column {7 + shift}\.0, row 7\.0 of 15"):
            psfs.PsfImages(star[None, None], step_pixel=step)
    star = np.exp(-((axis[None, :] - 0.6) ** 2 + axis[:, None] ** 2) / 4.0)
    assert len(psfs.PsfImages(star[None, None])) == 1
