"""Laws of the PSF's width: whoever tells it, it is that of the pixels; and it is said who told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import tan_wcs, write_kids_tile, write_targets

from lensfinder import shards, survey, tiles
from lensfinder.ledger import products_of
from lensfinder.psf import PsfexModel, fwhm_pix
from lensfinder.stars import star_fwhm_pix

Command = Callable[..., Any]


def moffat(fwhm: float, x: float, y: float, side: int, beta: float = 3.0) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return (1 + ((columns - x) ** 2 + (rows - y) ** 2) / alpha**2) ** -beta


def star_field(
    seed: int, fwhm: float, n_stars: int, n_galaxies: int, side: int = 700, saturated: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw stars of one width and wider galaxies of many in noise; return image and bad pixels."""
    rng = np.random.default_rng(seed)
    image, bad = rng.normal(size=(side, side)), np.zeros((side, side), bool)
    reach = 20
    for k in range(n_stars + n_galaxies):
        x, y = rng.uniform(reach + 1, side - reach - 1, 2)
        width = fwhm if k < n_stars else np.hypot(fwhm, rng.uniform(0.8, 2.5) * fwhm)
        ix, iy = round(x), round(y)
        stamp = moffat(width, x - ix + reach, y - iy + reach, 2 * reach + 1)
        stamp *= 10 ** rng.uniform(1.8, 3.2)
        if k < saturated:
            stamp = np.minimum(stamp, 60)
            bad[iy - 3 : iy + 4, ix - 3 : ix + 4] = True
        image[iy - reach : iy + reach + 1, ix - reach : ix + reach + 1] += stamp
    return image.astype(np.float32), bad


@pytest.mark.parametrize("fwhm", [2.6, 3.5, 5.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_stars_tell_the_width_whatever_galaxies_stand_among_them(fwhm: float, seed: int) -> None:
    image, bad = star_field(seed, fwhm, 60, 60, saturated=15)

    def read(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        return image[rows, columns], bad[rows, columns]

    for guess in (0.75 * fwhm, 1.4 * fwhm):
        assert star_fwhm_pix(read, image.shape, guess) == pytest.approx(fwhm, rel=0.04)


@pytest.mark.parametrize(("stars", "galaxies"), [(0, 0), (3, 0), (0, 60)])
def test_without_stars_nothing_is_made_up(stars: int, galaxies: int) -> None:
    image, bad = star_field(4, 3.5, stars, galaxies)

    def read(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        return image[rows, columns], bad[rows, columns]

    width = star_fwhm_pix(read, image.shape, 3.5)
    # Galaxies alone may agree by chance, but never on less than the PSF.
    assert np.isnan(width) or (galaxies and width > 3.5)
    empty = np.full((100, 100), np.nan, np.float32)
    assert np.isnan(star_fwhm_pix(lambda r, c: (empty[r, c], empty[r, c] > 0), (100, 100), 3.5))


def psfex_file(path: Path, side: int = 35, columns: bool = False) -> None:
    """Write a model whose FWHM grows along x: 3 pixels at 0 and about 5 at 400, in PSFEx's way."""
    # Linear in x: narrow and wide are mixed, so that light, not width, is linear.
    middle = side // 2
    narrow, wide = (moffat(fwhm / 0.8, middle, middle, side) for fwhm in (3.0, 5.0))
    mean, slope = (narrow + wide) / 2, (wide - narrow) / 2
    planes = np.array([mean, slope, np.zeros_like(mean)], np.float32)
    cards = {
        "POLNAXIS": 2, "POLNAME1": "X_IMAGE", "POLNAME2": "Y_IMAGE", "POLDEG1": 1,
        "POLZERO1": 201.0, "POLSCAL1": 200.0, "POLZERO2": 201.0, "POLSCAL2": 200.0,
        "PSF_SAMP": 0.8,
    }  # fmt: skip
    dim = f"({side}, {side}, 3)"
    mask = fits.Column("PSF_MASK", f"{planes.size}E", dim=dim, array=planes[None])
    extra = []
    if columns:
        for name, value in cards.items():
            form = "8A" if isinstance(value, str) else "D"
            extra.append(fits.Column(name.lower(), form, array=[value]))
    hdu = fits.BinTableHDU.from_columns([mask, *extra], name="PSF_DATA")
    if not columns:
        hdu.header.update(cards)
    hdu.writeto(path, overwrite=True)


OWN = """
[files]
pattern = '(?P<tile>t)_(?P<band>[gr])_(?P<kind>sci|psfcat)\\.(?:fits|psf)'
kinds = { sci = "image", psfcat = "psf" }
"""


@pytest.mark.parametrize("columns", [False, True], ids=["cards", "columns"])
def test_a_model_is_evaluated_where_each_target_is(
    tmp_path: Path, command: Command, columns: bool
) -> None:
    shape = (400, 400)
    wcs = tan_wcs(10.0, 0.0, shape)
    kids = survey.load("kids")
    text = f"""
name = "own"
title = ""
source = ""
pixel_scale_arcsec = 0.2
bands = ["g", "r"]
default_bands = ["g", "r"]
reference_band = "r"
psf_fwhm_arcsec = {{ g = 0.9, r = 0.7 }}
sky_rms_njy = {{ g = {kids.sky_rms_njy["g"]}, r = {kids.sky_rms_njy["r"]} }}
zero_point = {{ value = 0.0 }}
{OWN}
"""
    (tmp_path / "own.toml").write_text(text)
    sky = tmp_path / "tiles"
    sky.mkdir()
    rng = np.random.default_rng(1)
    for band in "gr":
        pixels = rng.normal(size=shape).astype(np.float32)
        fits.writeto(sky / f"t_{band}_sci.fits", pixels, wcs.to_header())
    psfex_file(sky / "t_r_psfcat.psf", columns=columns)
    x, y = np.array([2.0, 200.0, 397.0]), np.array([30.0, 200.0, 300.0])
    write_targets(tmp_path / "t.csv", *wcs.all_pix2world(x, y, 0))
    said = command(
        "cutout", sky, "--survey", tmp_path / "own.toml", "--catalog", tmp_path / "t.csv",
        "--size", 21, "--engine", "serial", "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 0, said.err
    (product,) = products_of(tmp_path / "out")
    with shards.read(product) as shard:
        order = np.argsort(shard.catalog["x"])
        width = shard.catalog["psf_fwhm_r_arcsec"][order] / 0.2
        assert set(shard.catalog["psf_source"]) == {"g:survey,r:psfex"}
        assert shard.catalog["psf_fwhm_g_arcsec"] == pytest.approx(0.9)
    assert width[0] == pytest.approx(3.0, rel=0.03)
    assert width[2] == pytest.approx(5.0, rel=0.03)
    assert width[0] < width[1] < width[2]


@settings(deadline=None, max_examples=20)
@given(degree=st.integers(0, 3), x=st.floats(-1, 1), y=st.floats(-1, 1), seed=st.integers(0, 99))
def test_the_terms_of_a_model_are_powers_of_the_position(
    degree: int, x: float, y: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    powers = [(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)]
    planes = rng.normal(size=(len(powers), 3, 3))
    cards: dict[str, Any] = {
        "POLNAXIS": 2, "POLNAME1": "X_IMAGE", "POLNAME2": "Y_IMAGE", "POLDEG1": degree,
        "POLZERO1": 11.0, "POLSCAL1": 10.0, "POLZERO2": 6.0, "POLSCAL2": 5.0,
    }  # fmt: skip
    model = PsfexModel.read(planes, cards.get)
    assert model is not None
    # FITS counts pixels from 1.
    expected = sum(plane * x**i * y**j for plane, (i, j) in zip(planes, powers, strict=True))
    np.testing.assert_allclose(model.at(10 * x + 10, 5 * y + 5), expected, atol=1e-9)
    assert PsfexModel.read(planes, {**cards, "POLNAME1": "MAG_AUTO"}.get) is None or degree == -1


@pytest.mark.parametrize(("measure", "source"), [(True, "stars"), (False, "survey")])
def test_what_the_width_was_taken_from_is_said(
    tmp_path: Path, command: Command, measure: bool, source: str
) -> None:
    image, _ = star_field(9, 4.2, 60, 20)
    wcs = tan_wcs(10.0, 0.0, image.shape)
    write_kids_tile(tmp_path / "tiles", "10_0", {"r": image * 1e-12}, wcs)
    write_targets(tmp_path / "t.csv", [10.0], [0.0])
    options = ["--measure-psf"] if measure else []
    said = command(
        "cutout", tmp_path / "tiles", "--bands", "r", "--catalog", tmp_path / "t.csv", "--size", 21,
        "--engine", "serial", "-o", tmp_path / "out", *options,
    )  # fmt: skip
    assert said.code == 0, said.err
    (product,) = products_of(tmp_path / "out")
    with shards.read(product) as shard:
        assert shard.catalog["psf_source"].tolist() == [source]
        expected = 4.2 * 0.2 if measure else survey.load("kids").psf_fwhm_arcsec["r"]
        assert shard.catalog["psf_fwhm_r_arcsec"][0] == pytest.approx(expected, rel=0.04)


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["DECam_00154912_12_psfcat.psf", "c4d_141029_043420_ooi_r_ls9-N26-psfex.fits"]
)
def test_real_models_are_as_wide_as_a_fit_says(real_data: Path, name: str) -> None:
    from contextlib import ExitStack

    from astropy.modeling import fitting, models

    from lensfinder.planes import OpenFiles
    from lensfinder.tilepsf import psfex_of

    files = tiles.TileFiles("t", {"r": {"psf": real_data / "psf" / name}})
    with ExitStack() as stack:
        model = psfex_of(OpenFiles(stack), files, "r")
    assert model is not None
    picture = model.at(model.zero_xy[0] - 1, model.zero_xy[1] - 1)
    middle = len(picture) // 2
    y, x = np.mgrid[: len(picture), : len(picture)]
    guess = models.Moffat2D(picture.max(), middle, middle, 3.0, 3.0)
    fitted = fitting.LMLSQFitter()(guess, x, y, picture)
    assert fwhm_pix(picture) == pytest.approx(fitted.fwhm, rel=0.05)
