"""Laws of tiles: what stands at a sky position is found at its pixel, whatever the projection."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import PROJECTIONS, sky_YX, tan_wcs, write_kids_tile

from lensfinder import schema, stamps, survey, tiles
from lensfinder.bands import Pixels
from lensfinder.errors import RequestError, UnitError
from lensfinder.footprints import Footprint, separation_deg

KIDS = survey.load("kids")
BANDS = ("g", "r", "i")


@pytest.mark.fault
@pytest.mark.parametrize("projection", PROJECTIONS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_an_impulse_is_found_at_the_recorded_pixel(projection: str, data: st.DataObject) -> None:
    shape_YX = data.draw(st.tuples(st.integers(9, 60), st.integers(9, 60)), "shape")
    x, y = (data.draw(st.integers(0, side - 1)) for side in reversed(shape_YX))
    offset = st.floats(-0.49, 0.49)
    dx, dy = data.draw(offset), data.draw(offset)
    size = 2 * data.draw(st.integers(4, 20)) + 1
    wcs = PROJECTIONS[projection](shape_YX)
    image_YX = np.zeros(shape_YX, np.float32)
    image_YX[y, x] = 1
    # An oracle of its own: astropy's coordinate objects.
    where = wcs.pixel_to_world(x + dx, y + dy).icrs

    found_x, found_y, inside = Footprint.of("t", wcs, shape_YX).pixel_of(
        np.array([where.ra.deg]), np.array([where.dec.deg])
    )
    ix, off_x = stamps.central_pixels(found_x)
    iy, off_y = stamps.central_pixels(found_y)
    (stamp,) = stamps.crop(image_YX, ix, iy, size, fill=np.nan, dtype=np.float32)

    assert inside.all()
    assert (ix[0], iy[0]) == (x, y)
    assert [off_x[0], off_y[0]] == pytest.approx([dx, dy], abs=2e-3)
    half = size // 2
    assert np.argwhere(stamp == 1).tolist() == [[half, half]]
    # The edge is padded, never shifted: what is outside the tile, and nothing else, is NaN.
    rows, columns = np.mgrid[:size, :size] + np.array([y - half, x - half])[:, None, None]
    outside = (rows < 0) | (rows >= shape_YX[0]) | (columns < 0) | (columns >= shape_YX[1])
    assert np.array_equal(np.isnan(stamp), outside)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_positions_and_pixels_are_inverse(projection: str) -> None:
    footprint = Footprint.of("t", PROJECTIONS[projection]((50, 70)), (50, 70))
    x, y = (grid.ravel().astype(float) for grid in np.meshgrid([-0.49, 20, 69.49], [-0.49, 49.49]))
    ra, dec = footprint.sky_of(x, y)
    back_x, back_y, inside = footprint.pixel_of(ra, dec)
    assert inside.all()
    assert ((ra >= 0) & (ra < 360)).all()
    np.testing.assert_allclose([back_x, back_y], [x, y], atol=1e-3)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_what_lies_outside_is_told_so(projection: str) -> None:
    footprint = Footprint.of("t", PROJECTIONS[projection]((50, 70)), (50, 70))
    ra, dec = footprint.sky_of(np.array([-1.0, 30, 71, 30]), np.array([20.0, -1, 20, 51]))
    ra, dec = np.append(ra, [ra[0] + 180, 12.3]), np.append(dec, [-dec[0], 45.6])
    x, y, inside = footprint.pixel_of(ra % 360, dec)
    assert not inside.any()
    assert np.isnan([x, y]).all()


@settings(deadline=None, max_examples=100)
@given(*[st.floats(0, 360), st.floats(-90, 90)] * 2)
def test_separation_agrees_with_astropy(
    ra_1: float, dec_1: float, ra_2: float, dec_2: float
) -> None:
    a = SkyCoord(ra_1, dec_1, unit=units.deg)
    b = SkyCoord(ra_2, dec_2, unit=units.deg)
    ours = separation_deg(ra_1, dec_1, np.array([ra_2]), np.array([dec_2]))[0]
    # Where two positions are opposite, the haversine has lost half of its digits.
    assert ours == pytest.approx(a.separation(b).deg, abs=1e-9 if ours < 179 else 1e-5)


def open_one(folder: Path, bands: tuple[str, ...] = BANDS) -> dict[str, np.ndarray]:
    """Open the only tile in `folder` and read all of it."""
    (files,) = tiles.find([folder], KIDS, bands)
    with tiles.open_tile(files, KIDS, bands) as tile:
        whole = tuple(slice(0, side) for side in tile.shape_YX)
        return {
            "flux": np.stack([tile.pixels[band][whole].flux for band in bands]),
            "mask": np.stack([tile.pixels[band][whole].mask for band in bands]),
        }


IMAGE = sky_YX((40, 50), [(20.0, 22.0)], seed=1).astype(np.float32)


@pytest.mark.fault
def test_pixels_come_in_nanojansky_with_masks_and_weights(tmp_path: Path) -> None:
    weight, mask = np.ones(IMAGE.shape), np.zeros(IMAGE.shape)
    weight[3, 4], mask[5, 6], mask[7, 8], mask[9, 10] = 0, 2, 64, 8
    images = dict.fromkeys(BANDS, IMAGE.copy())
    images["g"] = IMAGE.copy()
    images["g"][1, 2], images["g"][1, 3] = np.inf, 1e30
    write_kids_tile(
        tmp_path, "1_2", images, tan_wcs(shape_YX=IMAGE.shape), weight=weight, mask=mask
    )
    read = open_one(tmp_path)
    assert read["flux"].dtype == np.float32
    assert read["flux"][1, 20, 20] == pytest.approx(IMAGE[20, 20] * 10 ** (31.4 / 2.5), rel=1e-6)
    assert read["mask"][0, 1, 2] == read["mask"][0, 1, 3] == schema.MASK_NO_DATA
    assert read["mask"][1, 3, 4] == schema.MASK_NO_DATA
    assert read["mask"][1, 5, 6] == schema.MASK_SATURATED
    assert read["mask"][1, 7, 8] == schema.MASK_BAD
    assert read["mask"][1, 9, 10] == 0  # a halo does not spoil a pixel
    assert np.array_equal(np.isnan(read["flux"]), (read["mask"] & schema.MASK_NO_DATA) != 0)


@pytest.mark.fault
def test_a_mask_that_is_no_whole_number_spoils_its_pixel(tmp_path: Path) -> None:
    mask = np.zeros(IMAGE.shape, np.float32)
    mask[5, 6], mask[7, 8], mask[9, 10] = 2, 64, 1e30
    mask.view(np.uint32)[11, 12:14] = 0x7FC00000, 0x7FA00000  # NaN, and one that signals
    write_kids_tile(tmp_path, "1_2", {"r": IMAGE}, tan_wcs(shape_YX=IMAGE.shape))
    fits.writeto(tmp_path / "KiDS_DR4.0_1_2_r_msk.fits", mask)
    read = open_one(tmp_path, ("r",))["mask"][0]
    assert read[5, 6] == schema.MASK_SATURATED
    assert {read[7, 8], read[9, 10], read[11, 12], read[11, 13]} == {schema.MASK_BAD}
    assert np.count_nonzero(read) == 5
    (files,) = tiles.find([tmp_path], KIDS, ("r",))
    out = Pixels(np.empty((1, 9, 9), np.float32), np.empty((1, 9, 9), np.uint8))
    with tiles.open_tile(files, KIDS, ("r",)) as tile:
        tile.pixels["r"].stamps(np.array([9]), np.array([8]), out)
    assert np.array_equal(out.mask[0], read[4:13, 5:14])


@pytest.mark.fault
def test_all_bits_of_a_mask_count(tmp_path: Path) -> None:
    mask = np.zeros(IMAGE.shape, np.uint64)
    mask[5, 6], mask[7, 8], mask[9, 10] = (1 << 60) + 2, (1 << 63) + 64, 1 << 60
    write_kids_tile(tmp_path, "1_2", {"r": IMAGE}, tan_wcs(shape_YX=IMAGE.shape))
    fits.writeto(tmp_path / "KiDS_DR4.0_1_2_r_msk.fits", mask)
    read = open_one(tmp_path, ("r",))["mask"][0]
    assert (read[5, 6], read[7, 8]) == (schema.MASK_SATURATED, schema.MASK_BAD)
    assert np.count_nonzero(read) == 2
    out = Pixels(np.empty((1, 9, 9), np.float32), np.empty((1, 9, 9), np.uint8))
    (files,) = tiles.find([tmp_path], KIDS, ("r",))
    with tiles.open_tile(files, KIDS, ("r",)) as tile:
        tile.pixels["r"].stamps(np.array([9]), np.array([8]), out)
    assert np.array_equal(out.mask[0], read[4:13, 5:14])


def test_noise_beyond_single_precision_is_noise(tmp_path: Path) -> None:
    # In W / m2 / Hz, say.
    faint = KIDS.model_copy(
        update={"zero_point": KIDS.zero_point.model_copy(update={"value": -56.1})}
    )
    njy = 10 ** ((31.4 + 56.1) / 2.5)
    header = tan_wcs(shape_YX=IMAGE.shape).to_header()
    fits.writeto(tmp_path / "KiDS_DR4.0_1_2_r_sci.fits", IMAGE.astype(float) / njy, header)
    fits.writeto(tmp_path / "KiDS_DR4.0_1_2_r_wei.fits", np.full(IMAGE.shape, njy**2 / 4), header)
    (files,) = tiles.find([tmp_path], KIDS, ("r",))
    out = Pixels(*(np.empty((1, 9, 9), dtype) for dtype in (np.float32, np.uint8, np.float32)))
    with tiles.open_tile(files, faint, ("r",)) as tile:
        tile.pixels["r"].stamps(np.array([9]), np.array([8]), out)
    np.testing.assert_allclose(out.flux[0], IMAGE[4:13, 5:14], rtol=1e-5)
    np.testing.assert_allclose(out.variance[0], 4.0, rtol=1e-5)


@pytest.mark.parametrize(("said", "wanted"), [("mJy", "MJy"), ("ELECTRONS", "electrons")])
def test_mega_is_not_milli(tmp_path: Path, said: str, wanted: str) -> None:
    zero_point = KIDS.zero_point.model_copy(update={"unit": wanted})
    header = tan_wcs(shape_YX=IMAGE.shape).to_header()
    header["BUNIT"] = said
    fits.writeto(tmp_path / "KiDS_DR4.0_1_2_r_sci.fits", IMAGE, header)
    (files,) = tiles.find([tmp_path], KIDS, ("r",))
    opened = tiles.open_tile(files, KIDS.model_copy(update={"zero_point": zero_point}), ("r",))
    if said[1:] == wanted[1:]:
        with pytest.raises(UnitError, match=f"is in '{said}'; expected '{wanted}'"), opened:
            pass
    else:
        with opened as tile:
            assert tile.bands == ("r",)


@pytest.mark.parametrize(
    ("fwhm", "expected", "source"),
    [(0.9, 0.9, "header"), ("0.9", 0.9, "header"), (99.0, 0.7, "survey"), ("no", 0.7, "survey")],
)
def test_a_header_that_cannot_know_the_seeing_is_not_believed(
    tmp_path: Path, fwhm: object, expected: float, source: str
) -> None:
    tells = KIDS.model_copy(update={"psf": KIDS.psf.model_copy(update={"card": "SEEING"})})
    header = tan_wcs(shape_YX=IMAGE.shape).to_header()
    header["SEEING"] = fwhm
    fits.writeto(tmp_path / "KiDS_DR4.0_1_2_r_sci.fits", IMAGE, header)
    (files,) = tiles.find([tmp_path], KIDS, ("r",))
    with tiles.open_tile(files, tells, ("r",)) as tile:
        widths, said = tile.psf_at("r", np.zeros(1), np.zeros(1))
    assert widths[0] == pytest.approx(expected, rel=0.05)
    assert said == source


@pytest.mark.fault
@pytest.mark.parametrize(
    "kind", ["gz", "fz", "scaled", "unsigned", "blank", "unsigned, blank", "second HDU"]
)
def test_the_same_pixels_come_out_of_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    header = tan_wcs(shape_YX=IMAGE.shape).to_header()
    counts = np.arange(IMAGE.size, dtype=np.int16).reshape(IMAGE.shape) % 1000
    expected = counts.astype(np.float64)
    name = tmp_path / "KiDS_DR4.0_1_2_r_sci.fits"
    if kind == "fz":
        hdu = fits.CompImageHDU(counts, header, compression_type="RICE_1")
        hdu.writeto(name.with_suffix(".fits.fz"))
    elif kind == "scaled":
        header["BSCALE"], header["BZERO"] = 0.5, 100.0
        fits.PrimaryHDU(counts, header, do_not_scale_image_data=True).writeto(name)
        with fits.open(name, mode="update", do_not_scale_image_data=True) as hdus:
            hdus[0].header["BSCALE"], hdus[0].header["BZERO"] = 0.5, 100.0
        expected = expected * 0.5 + 100
    elif kind == "unsigned":
        fits.PrimaryHDU(counts.astype(np.uint16), header).writeto(name)
    elif kind == "blank":
        header["BLANK"] = 7
        fits.PrimaryHDU(counts, header).writeto(name)
        expected[counts == 7] = np.nan
    elif kind == "unsigned, blank":
        # As stored: 32768 less.
        header["BLANK"] = 7 - 32768
        fits.PrimaryHDU(counts.astype(np.uint16), header).writeto(name)
        expected[counts == 7] = np.nan
    elif kind == "second HDU":
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(counts, header)]).writeto(name)
    else:
        fits.PrimaryHDU(counts, header).writeto(name)
        name.with_suffix(".fits.gz").write_bytes(gzip.compress(name.read_bytes()))
        name.unlink()
    flux = open_one(tmp_path, ("r",))["flux"][0]
    np.testing.assert_allclose(flux, expected * 10 ** (31.4 / 2.5), rtol=1e-6)


@pytest.mark.fault
@pytest.mark.parametrize("share", [0.99, 0.9, 0.5, 0.01])
@pytest.mark.parametrize("kind", ["plain", "gz", "fz"])
def test_of_a_truncated_file_no_pixel_is_invented(tmp_path: Path, kind: str, share: float) -> None:
    image = np.random.default_rng(2).normal(size=(150, 160)).astype(np.float32)
    header = tan_wcs(shape_YX=image.shape).to_header()
    path = tmp_path / "KiDS_DR4.0_1_2_r_sci.fits"
    if kind == "fz":
        path = path.with_suffix(".fits.fz")
        fits.CompImageHDU(image, header).writeto(path)
    else:
        fits.PrimaryHDU(image, header).writeto(path)
    if kind == "gz":
        path.with_suffix(".fits.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        path = path.with_suffix(".fits.gz")
    whole = open_one(tmp_path, ("r",))["flux"]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    try:
        flux = open_one(tmp_path, ("r",))["flux"]
    except UnitError:
        pass
    else:
        # Only the padding of the last block is gone.
        assert share == 0.99
        assert flux.tobytes() == whole.tobytes()


def test_a_gzipped_file_under_another_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "KiDS_DR4.0_1_2_r_sci.fits"
    fits.writeto(path, IMAGE, tan_wcs(shape_YX=IMAGE.shape).to_header())
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UnitError, match=r"is gzipped; expected a name that ends in \.gz"):
        open_one(tmp_path, ("r",))


def test_compressed_rows_may_be_asked_for_in_any_order(tmp_path: Path) -> None:
    image = np.arange(3000 * 12, dtype=np.int32).reshape(3000, 12)
    path = tmp_path / "KiDS_DR4.0_1_2_r_sci.fits.fz"
    fits.CompImageHDU(image, tan_wcs(shape_YX=image.shape).to_header()).writeto(path)
    (files,) = tiles.find([path], KIDS, ("r",))
    with tiles.open_tile(files, KIDS, ("r",)) as tile:
        for y in (0, 5, 2990, 1020, 1030, 3, 2995):
            rows = slice(max(0, y - 7), y + 5)
            got = tile.pixels["r"][rows, slice(2, 9)].flux / 10 ** (31.4 / 2.5)
            np.testing.assert_allclose(got, image[rows, 2:9], rtol=1e-6)


def rewrite_header(path: Path, **cards: object) -> None:
    with fits.open(path, mode="update") as hdus:
        for name, value in cards.items():
            hdus[0].header[name] = value


@pytest.mark.fault
@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, "no_wcs"),
        ({"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"}, "no_wcs"),
        (
            {
                "CTYPE1": "RA---TNX",
                "CTYPE2": "DEC--TNX",
                "WAT1_001": 'wtype=tnx axtype=ra lngcor = "3. 4. 4. 2. -0.1 0.1 -0.1 0.1 0.01 "',
            },
            "no_wcs",
        ),
        ({"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, "sky_frame"),
        ({"RADESYS": "FK4", "EQUINOX": 1950.0}, "sky_frame"),
        ({"RADESYS": "FK5", "EQUINOX": 1950.0}, "sky_frame"),
        ({"RADESYS": "FK5", "EQUINOX": 2015.5}, "sky_frame"),
        ({"RADESYS": "GAPPT"}, "sky_frame"),
        ({"CDELT1": -1e-4, "CDELT2": 1e-4}, "pixel_scale"),
        ({"CDELT1": -0.4 / 3600, "CDELT2": 0.1 / 3600}, "pixel_scale"),
        ({"CRVAL1": 180.001}, "unequal_grid"),
    ],
)
@pytest.mark.fault
def test_a_tile_that_cannot_be_placed_is_refused_with_its_reason(
    tmp_path: Path, cards: dict[str, object], reason: str
) -> None:
    write_kids_tile(tmp_path, "1_2", dict.fromkeys(BANDS, IMAGE), tan_wcs(shape_YX=IMAGE.shape))
    rewrite_header(tmp_path / "KiDS_DR4.0_1_2_r_sci.fits", **cards)
    with pytest.raises(UnitError) as caught:
        open_one(tmp_path)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


@pytest.mark.fault
def test_several_images_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    header = tan_wcs(shape_YX=IMAGE.shape).to_header()
    three = [fits.ImageHDU(IMAGE, header, name="SCI") for _ in range(3)]
    fits.HDUList([fits.PrimaryHDU(), *three]).writeto(tmp_path / "KiDS_DR4.0_1_2_r_sci.fits")
    with pytest.raises(UnitError, match="3 images named SCI"):
        open_one(tmp_path, ("r",))


def test_a_header_decides_the_zero_point_where_the_survey_says_so(tmp_path: Path) -> None:
    this = KIDS.model_copy(update={"zero_point": survey.ZeroPoint(card="MAGZERO")})
    write_kids_tile(tmp_path, "1_2", {"r": IMAGE}, tan_wcs(shape_YX=IMAGE.shape))
    (files,) = tiles.find([tmp_path], this, ("r",))
    for value in (None, "bright"):
        if value:
            rewrite_header(tmp_path / "KiDS_DR4.0_1_2_r_sci.fits", MAGZERO=value)
        with pytest.raises(UnitError, match="MAGZERO"), tiles.open_tile(files, this, ("r",)):
            pass
    rewrite_header(tmp_path / "KiDS_DR4.0_1_2_r_sci.fits", MAGZERO=31.4)
    with tiles.open_tile(files, this, ("r",)) as tile:
        assert tile.pixels["r"][0:1, 0:1].flux[0, 0] == IMAGE[0, 0]


def test_identity_follows_size_and_header_but_not_time_or_place(tmp_path: Path) -> None:
    paths = []
    for number in range(2):
        folder = tmp_path / str(number)
        write_kids_tile(folder, "1_2", {"r": IMAGE}, tan_wcs(shape_YX=IMAGE.shape))
        paths.append(folder / "KiDS_DR4.0_1_2_r_sci.fits")
    assert tiles.identify(paths[0]) == tiles.identify(paths[1])
    rewrite_header(paths[1], OBSERVER="somebody")
    assert tiles.identify(paths[0]) != tiles.identify(paths[1])
    paths[1].write_bytes(paths[0].read_bytes()[:-2880])
    assert tiles.identify(paths[0]) != tiles.identify(paths[1])


@pytest.mark.parametrize("side", [8, 600])
def test_pixels_calibrated_anew_under_the_same_header_are_another_file(
    tmp_path: Path, side: int
) -> None:
    path, image = tmp_path / "t.fits", np.ones((side, side), np.float32)
    fits.PrimaryHDU(image, fits.Header({"OBJECT": "sky"})).writeto(path)
    before, header = tiles.identify(path), fits.getheader(path)
    with fits.open(path, mode="update") as hdus:
        hdus[0].data *= 3
    assert fits.getheader(path).tostring() == header.tostring()
    assert tiles.identify(path) != before


def test_linked_folders_are_searched_once_and_loops_end(tmp_path: Path) -> None:
    wcs = tan_wcs(shape_YX=IMAGE.shape)
    for name in ("tiles/1", "elsewhere"):
        write_kids_tile(tmp_path / name, f"{len(name)}_0", {"r": IMAGE}, wcs)
    (tmp_path / "tiles" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tiles" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "tiles")
    found = tiles.find([tmp_path / "tiles"], KIDS, ("r",))
    assert [files.name for files in found] == ["KiDS_DR4.0_7_0", "KiDS_DR4.0_9_0"]


def test_files_are_grouped_by_name(tmp_path: Path) -> None:
    wcs = tan_wcs(shape_YX=IMAGE.shape)
    for name in ("b", "a"):
        write_kids_tile(tmp_path / name, f"{'12'[name == 'b']}_0", dict.fromkeys(BANDS, IMAGE), wcs)
    (tmp_path / "notes.fits").write_text("not a tile")
    found = tiles.find([tmp_path], KIDS, ("g", "r"))
    assert [files.name for files in found] == ["KiDS_DR4.0_1_0", "KiDS_DR4.0_2_0"]
    assert list(found[0].paths) == ["g", "r"]
    write_kids_tile(tmp_path / "c", "1_0", {"r": IMAGE}, wcs)
    with pytest.raises(RequestError, match="both the r image"):
        tiles.find([tmp_path], KIDS, ("r",))
    with pytest.raises(RequestError, match="not named like a tile of kids"):
        tiles.find([tmp_path / "notes.fits"], KIDS, ("r",))
    with pytest.raises(RequestError, match="no such file"):
        tiles.find([tmp_path / "nothing.fits"], KIDS, ("r",))


def test_a_distortion_that_leads_nowhere_finds_nothing() -> None:
    header = tan_wcs(shape_YX=IMAGE.shape).to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"], header["B_ORDER"], header["A_2_0"], header["B_0_2"] = 2, 2, 1e200, 1e200
    footprint = Footprint("t", WCS(header), IMAGE.shape, 180.0, -0.5, 0.01)
    x, y, inside = footprint.pixel_of(np.array([180.0]), np.array([-0.5]))
    assert np.isnan([x, y]).all()
    assert not inside.any()


def test_a_distortion_that_wcslib_cannot_read_is_refused(tmp_path: Path) -> None:
    wcs = tan_wcs(shape_YX=IMAGE.shape)
    shift = np.full((2, 2), 3.0, np.float32)
    wcs.cpdis1 = DistortionLookupTable(shift, (1.0, 1.0), (1.0, 1.0), (60.0, 60.0))
    # Written with and without the table; in either case wcslib finds no NAXES in the DP cards.
    for number, hdus in enumerate([wcs.to_fits(relax=True), wcs.to_fits(relax=True)[:1]]):
        hdus[0].data = IMAGE
        folder = tmp_path / str(number)
        folder.mkdir()
        hdus.writeto(folder / "KiDS_DR4.0_1_2_r_sci.fits")
        with pytest.raises(UnitError) as caught:
            open_one(folder, ("r",))
        assert caught.value.reason == "no_wcs"
