"""Laws of bands on other grids: refused unless asked for; flux and position are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import tan_wcs, write_kids_tile

from lensfinder import grids, schema, shards, survey, tiles
from lensfinder.bands import Pixels
from lensfinder.errors import UnitError
from lensfinder.footprints import Footprint
from lensfinder.ledger import products_of
from lensfinder.tiles import Tile

Command = Callable[..., Any]
SHAPE_YX = (90, 100)
NJY = 10 ** (31.4 / 2.5)


def gaussian(wcs: WCS, shape_YX: tuple[int, int], ra: float, dec: float, fwhm: float) -> np.ndarray:
    """Draw a Gaussian of unit flux and a FWHM in arcsec at a position."""
    scale = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600
    x, y = wcs.all_world2pix(ra, dec, 0)
    sigma = fwhm / 2.3548 / scale
    rows, columns = np.mgrid[: shape_YX[0], : shape_YX[1]]
    radius = (columns - x) ** 2 + (rows - y) ** 2
    return np.exp(-radius / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def write_band(folder: Path, band: str, image: np.ndarray, wcs: WCS, **planes: np.ndarray) -> None:
    write_kids_tile(folder, "10_0", {band: image}, wcs, **planes)  # type: ignore[arg-type]


def read_resampled(folder: Path, look: Callable[[Tile], Any]) -> Any:
    kids = survey.load("kids")
    (files,) = tiles.find([folder], kids, ("g", "r"))
    with tiles.open_tile(files, kids, ("g", "r"), resample=True) as tile:
        assert tile.resampled_bands == ("g",)
        return look(tile)


@settings(deadline=None, max_examples=25)
@given(
    scale=st.floats(0.06, 0.55),
    rotation=st.floats(-180, 180),
    flip=st.booleans(),
    dx=st.floats(-4, 4),
    dy=st.floats(-4, 4),
)
def test_flux_and_position_outlive_another_grid(
    tmp_path_factory: pytest.TempPathFactory, scale: float, rotation: float, flip: bool,
    dx: float, dy: float,
) -> None:  # fmt: skip
    if abs(scale / 0.2 - 1) < 0.05 and abs(rotation) < 1:
        return
    folder = tmp_path_factory.mktemp("tile")
    wcs = tan_wcs(10.0, 0.0, SHAPE_YX)
    ra, dec = 10 + dx / 3600, dy / 3600
    side = int(40 / scale)
    own = tan_wcs(10.0, 0.0, (side, side), scale_arcsec=scale, rotation_deg=rotation, flip=flip)
    # Wide enough to be well sampled on either grid.
    write_band(folder, "g", gaussian(own, (side, side), ra, dec, 2.0), own)
    write_band(folder, "r", gaussian(wcs, SHAPE_YX, ra, dec, 2.0), wcs)
    g, r = read_resampled(
        folder, lambda tile: [tile.pixels[band][0:90, 0:100].flux for band in ("g", "r")]
    )
    seen = np.isfinite(g)
    assert seen[20:70, 20:80].all()
    flux = np.where(seen, g, 0)
    assert flux.sum() / NJY == pytest.approx(1, abs=0.01)
    y, x = np.mgrid[:90, :100]
    at = wcs.all_world2pix(ra, dec, 0)
    for axis, wanted in zip((x, y), at, strict=True):
        assert (flux * axis).sum() / flux.sum() == pytest.approx(float(wanted), abs=0.03)
    # The same picture, apart from what a larger pixel smooths.
    assert abs(flux - r).max() < 0.12 * r.max()


def test_windows_and_stamps_show_the_same_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    wcs = tan_wcs(10.0, 0.0, SHAPE_YX)
    own = tan_wcs(10.0, 0.0, (75, 80), scale_arcsec=0.25, rotation_deg=8)
    image = rng.normal(size=(75, 80)) * 1e-12
    write_band(tmp_path, "g", image, own, weight=np.full(image.shape, 4e24))
    write_band(tmp_path, "r", rng.normal(size=SHAPE_YX), wcs)

    def look(tile: Tile) -> None:
        band = tile.pixels["g"]
        whole = band[0:90, 0:100]
        part = band[30:50, 20:41]
        # A spline's filter fades within some pixels of a window's edge.
        np.testing.assert_allclose(part.flux, whole.flux[30:50, 20:41], rtol=2e-3, atol=1e-2)
        assert np.array_equal(part.mask, whole.mask[30:50, 20:41])
        size = 15
        out = Pixels(
            np.empty((3, size, size), np.float32),
            np.empty((3, size, size), np.uint8),
            np.empty((3, size, size), np.float32),
        )
        x, y = np.array([50, 2, 99]), np.array([40, 45, 89])
        band.stamps(x, y, out)
        np.testing.assert_allclose(
            out.flux[0], whole.flux[33:48, 43:58], rtol=2e-3, atol=1e-2, equal_nan=True
        )
        assert (out.mask[1][:, :5] == schema.MASK_NO_DATA).all(), "outside the tile"
        assert np.isnan(out.flux[2][8:]).all()
        assert np.isfinite(out.variance[0]).all()
        # A pixel of 0.2 arcsec has 0.64 of the light of one of 0.25.
        expected = 0.25e-24 * NJY**2 * 0.64**2
        np.testing.assert_allclose(out.variance[0], expected, rtol=1e-3)

    read_resampled(tmp_path, look)


def test_stamps_of_a_turned_band_are_read_along_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wcs = tan_wcs(10.0, 0.0, SHAPE_YX)
    turned = tan_wcs(10.0, 0.0, SHAPE_YX, rotation_deg=180)
    image = np.random.default_rng(3).normal(size=SHAPE_YX) * 1e-12
    write_band(tmp_path, "g", image, turned)
    write_band(tmp_path, "r", image, wcs)

    def look(tile: Tile) -> None:
        band = tile.pixels["g"]
        read: list[int] = []
        own = type(band._source).__getitem__

        def noted(pixels: Any, index: tuple[slice, slice]) -> Any:
            read.append(index[0].start)
            return own(pixels, index)

        monkeypatch.setattr(type(band._source), "__getitem__", noted)
        y = np.arange(10, 80, 7)
        x = np.random.default_rng(1).integers(10, 90, len(y))
        out = Pixels(np.empty((10, 9, 9), np.float32), np.empty((10, 9, 9), np.uint8))
        band.stamps(x, y, out)
        assert read == sorted(read)
        assert len(read) == 10
        whole = band[0:90, 0:100]
        for k in range(10):
            part = whole.flux[y[k] - 4 : y[k] + 5, x[k] - 4 : x[k] + 5]
            np.testing.assert_allclose(out.flux[k], part, rtol=2e-3, atol=1e-2)

    read_resampled(tmp_path, look)


def test_whatever_a_bad_pixel_touches_is_bad_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    wcs = tan_wcs(10.0, 0.0, SHAPE_YX)
    # Half a pixel aside: every new pixel is made of four by four old ones.
    own = tan_wcs(10.0, 0.0, SHAPE_YX)
    own.wcs.crpix = own.wcs.crpix + 0.5
    mask = np.zeros(SHAPE_YX, np.int32)
    mask[40, 50], mask[60, 20] = 64, 2
    image = rng.normal(size=SHAPE_YX) * 1e-12
    image[70, 70] = np.nan
    write_band(tmp_path, "g", image, own, mask=mask)
    write_band(tmp_path, "r", rng.normal(size=SHAPE_YX), wcs)
    pixels = read_resampled(tmp_path, lambda tile: tile.pixels["g"][0:90, 0:100])
    expected = np.zeros(SHAPE_YX, np.uint8)
    for (y, x), bit in (
        ((40, 50), schema.MASK_BAD),
        ((60, 20), schema.MASK_SATURATED),
        ((70, 70), schema.MASK_NO_DATA),
    ):
        # New pixel n lies between old pixels n and n + 1.
        expected[y - 2 : y + 2, x - 2 : x + 2] = bit
    inner = np.s_[3:-3, 3:-3]
    assert np.array_equal(pixels.mask[inner], expected[inner])
    assert np.array_equal(np.isnan(pixels.flux[inner]), expected[inner] == schema.MASK_NO_DATA)


@pytest.mark.parametrize(
    ("scale", "shape", "shift", "reason", "said"),
    [
        (0.3, (60, 66), 0.0, "pixel_scale", "pixels of 0.3000 arcsec; expected 0.2000 arcsec"),
        (0.2, (90, 98), 0.0, "unequal_size", "98 x 90 pixels; expected 100 x 90"),
        (0.2, SHAPE_YX, 3.0, "unequal_grid", "shifted by up to 3.00 pixels"),
    ],
)
def test_other_grids_are_refused_with_both_values_or_resampled_and_said(
    tmp_path: Path, command: Command, scale: float, shape: tuple[int, int], shift: float,
    reason: str, said: str,
) -> None:  # fmt: skip
    rng = np.random.default_rng(1)
    wcs = tan_wcs(10.0, 0.0, SHAPE_YX)
    own = tan_wcs(10.0, 0.0, shape, scale_arcsec=scale)
    own.wcs.crpix = own.wcs.crpix + np.array([shift, 0])
    write_band(tmp_path / "tiles", "g", rng.normal(size=shape) * 1e-12, own)
    write_band(tmp_path / "tiles", "r", rng.normal(size=SHAPE_YX) * 1e-12, wcs)
    kids = survey.load("kids")
    (files,) = tiles.find([tmp_path / "tiles"], kids, ("r", "g"))
    with pytest.raises(UnitError, match=said) as caught, tiles.open_tile(files, kids, ("r", "g")):
        pass
    assert caught.value.reason == reason
    assert "--resample" in caught.value.remedy
    (tmp_path / "t.csv").write_text("id,ra,dec\na,10.0,0.0\n")
    arguments = ["cutout", tmp_path / "tiles", "--bands", "g,r", "--size", 21, "--catalog"]
    arguments += [tmp_path / "t.csv", "--engine", "serial", "-o", tmp_path / "out"]
    assert command(*arguments).code == 2
    done = command(*arguments, "--resample")
    assert done.code == 0, done.err
    (product,) = products_of(tmp_path / "out")
    with shards.read(product) as shard:
        assert shard.catalog["resampled_bands"].tolist() == ["g"]
        assert np.isfinite(shard.image[0]).all()
        assert shard.header.ingredients["cutout"]["resample"] is True


def test_bands_on_one_grid_are_left_alone(tmp_path: Path) -> None:
    image = np.random.default_rng(2).normal(size=SHAPE_YX)
    wcs = tan_wcs(10.0, 0.0, SHAPE_YX)
    for band in "gr":
        write_band(tmp_path, band, image, wcs)
    kids = survey.load("kids")
    (files,) = tiles.find([tmp_path], kids, ("g", "r"))
    with tiles.open_tile(files, kids, ("g", "r"), resample=True) as tile:
        assert tile.resampled_bands == ()
        stored = fits.getdata(tmp_path / "KiDS_DR4.0_10_0_g_sci.fits")
        np.testing.assert_allclose(tile.pixels["g"][0:90, 0:100].flux, stored * NJY, rtol=1e-5)


@pytest.mark.fault
def test_a_scale_beyond_all_numbers_is_refused_without_a_warning() -> None:
    wcs = tan_wcs(10.0, 0.0, SHAPE_YX)
    wcs.wcs.pc = [[1.0, np.inf], [0.0, 1.0]]  # what a card of 1E400 becomes
    with pytest.raises(UnitError, match="pixels of") as caught:
        grids.check_scale(Footprint("t", wcs, SHAPE_YX, 10.0, 0.0, 0.01), "t.fits", 0.2, "kids")
    assert caught.value.reason == "pixel_scale"
