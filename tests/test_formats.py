"""Laws of formats: a survey's layout is told by its TOML alone, and means the same pixels."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import tan_wcs

from lensfinder import schema, survey, tiles
from lensfinder.errors import UnitError
from lensfinder.psf import fwhm_pix
from lensfinder.survey import Survey

SHAPE_YX = (30, 40)
HEADER = tan_wcs(shape_YX=SHAPE_YX).to_header()
RNG = np.random.default_rng(8)
IMAGE = RNG.normal(size=SHAPE_YX).astype(np.float32)
VARIANCE = RNG.uniform(0.5, 2, SHAPE_YX).astype(np.float32)
WHOLE = (slice(0, SHAPE_YX[0]), slice(0, SHAPE_YX[1]))


def own_survey(text: str, bands: str = "r", pixel_scale_arcsec: float = 0.2) -> Survey:
    """Make a survey of few words; `text` holds its tables."""
    import tomllib

    listed = bands.split(",")
    return Survey.model_validate(
        {
            "name": "own",
            "title": "",
            "source": "",
            "pixel_scale_arcsec": pixel_scale_arcsec,
            "bands": listed,
            "default_bands": listed,
            "reference_band": listed[0],
            "psf_fwhm_arcsec": dict.fromkeys(listed, 0.8),
            "sky_rms_njy": dict.fromkeys(listed, 1.0),
            "zero_point": {"value": schema.AB_ZERO_POINT_NJY},
            **tomllib.loads(text),
        }
    )


def read(path: Path, this: Survey, bands: tuple[str, ...] = ("r",)) -> dict[str, tiles.BandPixels]:
    (files,) = tiles.find([path], this, bands)
    with tiles.open_tile(files, this, bands) as tile:
        return {band: tile.pixels[band][WHOLE] for band in bands}


def rubin(path: Path, mask: np.ndarray, cards: dict[str, int]) -> None:
    """Write image, mask and variance as the Rubin pipelines do, the WCS with the image alone."""
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(IMAGE, HEADER), fits.ImageHDU(mask)]
    hdus.append(fits.ImageHDU(VARIANCE))
    for name, bit in cards.items():
        hdus[2].header.set(f"HIERARCH MP_{name}" if len(name) > 5 else f"MP_{name}", bit)
    hdus[0].header["FLUXMAG0"] = 10 ** (27.0 / 2.5)
    fits.HDUList(hdus).writeto(path, overwrite=True)


RUBIN = """
[files]
pattern = '(?P<tile>.+)_(?P<band>r)\\.fits(\\.gz)?'
hdus = { image = 1, mask = 2, variance = 3 }
[zero_point]
flux_card = "FLUXMAG0"
[mask]
saturated = ["SAT"]
bad = ["BAD", "DETECTED_NEGATIVE", "LATER?"]
no_data = ["NO_DATA"]
"""


@settings(deadline=None, max_examples=20)
@given(bits=st.permutations(range(32)))
def test_mask_bits_are_told_by_the_header_and_not_by_number(
    tmp_path_factory: pytest.TempPathFactory, bits: list[int]
) -> None:
    names = ("BAD", "SAT", "NO_DATA", "DETECTED_NEGATIVE", "DETECTED")
    cards = dict(zip(names, bits, strict=False))
    mask = np.zeros(SHAPE_YX, np.int64)
    for column, name in enumerate(names):
        mask[:, column] = 1 << cards[name]
    path = tmp_path_factory.mktemp("tile") / "t_r.fits"
    # Bit 31 is an int32's sign.
    rubin(path, mask.astype(np.uint32).view(np.int32), cards)
    pixels = read(path, own_survey(RUBIN))["r"]
    expected = [schema.MASK_BAD, schema.MASK_SATURATED, schema.MASK_NO_DATA, schema.MASK_BAD, 0]
    assert pixels.mask[:, :6].tolist() == [[*expected, 0]] * SHAPE_YX[0]
    njy = 10 ** ((31.4 - 27.0) / 2.5)
    np.testing.assert_allclose(pixels.flux[:, 3:], IMAGE[:, 3:] * njy, rtol=1e-6)
    np.testing.assert_allclose(pixels.variance[:, 3:], VARIANCE[:, 3:] * njy**2, rtol=1e-6)
    assert np.isnan(pixels.flux[:, 2]).all()
    assert np.isnan(pixels.variance[:, 2]).all()


def test_a_mask_without_the_names_it_should_have_is_refused(tmp_path: Path) -> None:
    rubin(tmp_path / "t_r.fits", np.zeros(SHAPE_YX, np.int32), {"BAD": 0})
    with pytest.raises(UnitError, match=r"no card MP_NO_DATA") as caught:
        read(tmp_path, own_survey(RUBIN))
    assert caught.value.reason == "no_mask_bit"


@pytest.mark.parametrize(("unit", "fine"), [("nJy", True), ("NJY ", True), ("adu", False)])
def test_another_unit_than_the_surveys_is_refused(tmp_path: Path, unit: str, fine: bool) -> None:
    header = HEADER.copy()
    header["BUNIT"] = unit
    fits.writeto(tmp_path / "t_r.fits", IMAGE, header)
    this = own_survey(
        "[files]\npattern = '(?P<tile>t)_(?P<band>r).fits'\n[zero_point]\nvalue = 31.4\nunit='nJy'"
    )
    if fine:
        assert np.array_equal(read(tmp_path, this)["r"].flux, IMAGE)
    else:
        with pytest.raises(UnitError, match="'adu'; expected 'nJy'"):
            read(tmp_path, this)


def test_noise_is_the_same_whether_told_by_weight_variance_or_rms(tmp_path: Path) -> None:
    planes = {"weight": 1 / VARIANCE, "variance": VARIANCE, "rms": np.sqrt(VARIANCE)}
    for kind, plane in planes.items():
        folder = tmp_path / kind
        folder.mkdir()
        noise = plane.copy()
        noise[0, :3] = 0, np.nan, np.inf
        fits.writeto(folder / "t_r_image.fits", IMAGE, HEADER)
        fits.writeto(folder / "t_r_noise.fits", noise)  # without a WCS
        pattern = "'(?P<tile>t)_(?P<band>r)_(?P<kind>image|noise).fits'"
        kinds = f'{{ image = "image", noise = "{kind}" }}'
        pixels = read(folder, own_survey(f"[files]\npattern = {pattern}\nkinds = {kinds}"))["r"]
        np.testing.assert_allclose(pixels.variance[1:], VARIANCE[1:], rtol=1e-5)
        assert (pixels.mask[0, :3] == schema.MASK_NO_DATA).all()
        assert np.isnan([pixels.flux[0, :3], pixels.variance[0, :3]]).all()
        assert not pixels.mask[1:].any()


EXTENSIONS = """
[files]
pattern = '(?P<tile>.+)\\.fits(\\.gz)?'
hdus = { image = "{band}_BGSUB", rms = "{band}_RMS", psf = "{band}_PSF" }
band_names = { Y = "NIR_Y" }
[zero_point]
card = "MAGZERO"
[psf]
card = "FWHM"
"""


def extensions(path: Path, bands: dict[str, float]) -> None:
    hdus: list[fits.PrimaryHDU | fits.ImageHDU] = [fits.PrimaryHDU()]
    for number, (name, zero_point) in enumerate(bands.items()):
        hdus.append(fits.ImageHDU(IMAGE + number, HEADER, name=f"{name}_BGSUB"))
        hdus[-1].header["MAGZERO"] = zero_point
        hdus.append(fits.ImageHDU(np.eye(9), name=f"{name}_PSF"))
        hdus[-1].header["FWHM"] = 0.3 + number
        hdus.append(fits.ImageHDU(np.sqrt(VARIANCE), name=f"{name}_RMS"))
    fits.HDUList(hdus).writeto(path)


def test_bands_may_be_extensions_of_one_file(tmp_path: Path) -> None:
    extensions(tmp_path / "t.fits", {"VIS": 24.6, "NIR_Y": 29.8, "OTHER": 1.0})
    this = own_survey(EXTENSIONS, "VIS,Y,z")
    (files,) = tiles.find([tmp_path], this, ("Y", "VIS"))
    with tiles.open_tile(files, this, ("Y", "VIS")) as tile:
        for band, number, zero_point in (("VIS", 0, 24.6), ("Y", 1, 29.8)):
            flux = tile.pixels[band][WHOLE].flux
            np.testing.assert_allclose(
                flux, (IMAGE + number) * 10 ** ((31.4 - zero_point) / 2.5), rtol=1e-5, atol=1e-5
            )
            assert tile.psf_fwhm_arcsec(band) == pytest.approx(0.3 + number)
    with pytest.raises(UnitError) as caught:
        read(tmp_path, this, ("VIS", "z"))
    assert caught.value.reason == "missing_band"
    (files,) = tiles.find([tmp_path], this, ("VIS", "z"))
    with tiles.open_tile(files, this, ("VIS", "z"), missing="mask") as tile:
        assert tile.missing_bands == ("z",)
        assert np.isnan(tile.pixels["z"][WHOLE].flux).all()
        assert (tile.pixels["z"][WHOLE].mask == schema.MASK_NO_DATA).all()
        assert np.isnan(tile.psf_fwhm_arcsec("z"))


@pytest.mark.parametrize("kind", ["plain", "gz", "fz", "scaled"])
def test_the_planes_of_a_cube_are_its_bands(tmp_path: Path, kind: str) -> None:
    cube = np.arange(3 * 30 * 40, dtype=np.int16).reshape(3, *SHAPE_YX)
    path = tmp_path / ("t.fits.fz" if kind == "fz" else "t.fits")
    if kind == "fz":
        fits.CompImageHDU(cube, HEADER, compression_type="RICE_1", tile_shape=(1, 7, 40)).writeto(
            path
        )
    else:
        hdu = fits.PrimaryHDU(cube.astype(np.uint16) if kind == "scaled" else cube, HEADER)
        hdu.writeto(path)
    if kind == "gz":
        (tmp_path / "t.fits.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    this = own_survey(
        "[files]\npattern='(?P<tile>t)\\.fits(\\.fz|\\.gz)?'\ncube=['g','r','i']", "g,r,i"
    )
    pixels = read(tmp_path, this, ("i", "g"))
    assert np.array_equal(pixels["i"].flux, cube[2])
    assert np.array_equal(pixels["g"].flux, cube[0])
    (files,) = tiles.find([tmp_path], this, ("i",))
    with tiles.open_tile(files, this, ("i",)) as tile:
        assert np.array_equal(tile.pixels["i"][3:9, 5:7].flux, cube[2, 3:9, 5:7])


def test_a_file_without_a_band_serves_all_bands(tmp_path: Path) -> None:
    legacy = survey.load("legacy")
    header = tan_wcs(shape_YX=SHAPE_YX, scale_arcsec=0.262).to_header()
    bits = np.zeros(SHAPE_YX, np.int32)
    bits[0, 0], bits[0, 1], bits[0, 2] = 1 << 2, 1 << 3, 1 << 6
    fits.HDUList(
        [fits.PrimaryHDU()]
        + [fits.CompImageHDU(plane, header, name=name)
           for name, plane in (("MASKBITS", bits), ("WISEM1", bits * 0), ("WISEM2", bits * 0))]
    ).writeto(tmp_path / "legacysurvey-0001p000-maskbits.fits.fz")  # fmt: skip
    for band in "gr":
        for kind, plane in (("image", IMAGE), ("invvar", 1 / VARIANCE)):
            # Quantisation would change the pixels a little.
            fits.CompImageHDU(plane, header, compression_type="GZIP_1", quantize_level=0).writeto(
                tmp_path / f"legacysurvey-0001p000-{kind}-{band}.fits.fz"
            )
    pixels = read(tmp_path, legacy, ("g", "r"))
    assert pixels["g"].mask[0, :3].tolist() == [schema.MASK_SATURATED, 0, 0]
    assert pixels["r"].mask[0, :3].tolist() == [0, schema.MASK_SATURATED, schema.MASK_BAD]
    njy = 10 ** ((31.4 - 22.5) / 2.5)
    np.testing.assert_allclose(pixels["r"].flux, IMAGE * njy, rtol=1e-5)
    np.testing.assert_allclose(pixels["r"].variance, VARIANCE * njy**2, rtol=1e-4)


NAMES = {
    "lanusse2018": ["field7_g.fits"],
    "kids": ["KiDS_DR4.0_129.0_-0.5_r_sci.fits", "KiDS_DR4.0_129.0_-0.5_r_msk.fits"],
    "hsc": ["calexp-HSC-I-9813-4,4.fits", "calexp-HSC-R2-9813-4,4.fits"],
    "lsst": [
        "deepCoadd_calexp_4431_17_i_DC2_u_descssim_coadds.fits",
        "deep_coadd_5063_14_i_lsst_cells_v1_LSSTComCam_runs_DRP_DP1.fits",
    ],
    "des": ["DES0002+0001_r4907p01_g.fits.fz", "DES0002-0001_r4907p01_z_nobkg.fits.fz"],
    "decam": [f"c4d_170316_062107_oo{kind}_z_ls9.N2.fits" for kind in "iwd"],
    "legacy": ["legacysurvey-0001p000-image-g.fits.fz", "legacysurvey-0001m100-maskbits.fits.fz"],
    "cfhtls": ["CFHTLS-test_g.fits", "CFHTLS_W_r_021410-041200_T0007_MEDIAN_r.fits"],
    "legacy_jpeg": ["1234.jpg", "J0001+02.jpeg", "a b.png"],
    "euclid": ["102018665_NEG570040238507752998.fits"],
    "bologna_ground": ["imageSDSS_R-100002.fits", "imageSDSS_U-100002.fits.gz"],
    "bologna_space": ["imageEUC_VIS-100002.fits"],
    "euclid_mer": [
        "EUC_MER_BGSUB-MOSAIC-VIS_TILE102018211-ACBD03_20241018T142710.276838Z_00.00.fits",
        "EUC_MER_MOSAIC-NIR-H-RMS_TILE102018211-ACBD03_20241018T142710.276838Z_00.00.fits",
    ],
}


@pytest.mark.parametrize("name", survey.names())
def test_published_names_are_understood(tmp_path: Path, name: str) -> None:
    this = survey.load(name)
    for file in NAMES[name]:
        (tmp_path / file).touch()
        (files,) = tiles.find([tmp_path / file], this, tuple(this.bands))
        assert set(files.paths) <= set(this.bands)


def test_gzipped_and_compressed_rows_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensfinder import planes

    monkeypatch.setattr(planes, "_STRIP_BYTES", 40 * 4 * 8)
    image = np.arange(200 * 40, dtype=np.int32).reshape(200, 40)
    header = tan_wcs(shape_YX=image.shape).to_header()
    fits.PrimaryHDU(image, header).writeto(tmp_path / "plain.fits")
    (tmp_path / "a_r.fits.gz").write_bytes(gzip.compress((tmp_path / "plain.fits").read_bytes()))
    fits.CompImageHDU(image, header, tile_shape=(5, 40)).writeto(tmp_path / "b_r.fits.fz")
    this = own_survey("[files]\npattern='(?P<tile>[ab])_(?P<band>r)\\.fits.*'")
    for files in tiles.find([tmp_path], this, ("r",)):
        with tiles.open_tile(files, this, ("r",)) as tile:
            plane = tile.pixels["r"]._image
            section, rows = plane._pixels, []

            class Counting:
                def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
                    rows.extend(range(index[0].start, index[0].stop))  # noqa: B023
                    return section[index]  # noqa: B023

            plane._pixels = Counting()
            for y in range(0, 190, 3):
                got = tile.pixels["r"][y : y + 9, 3:9].flux
                assert np.array_equal(got, image[y : y + 9, 3:9])
            assert len(rows) == len(set(rows)), "a row was read twice"


def test_an_image_that_must_be_read_whole_is_not(tmp_path: Path, monkeypatch: object) -> None:
    path = tmp_path / "t_r.fits.fz"
    fits.CompImageHDU(np.zeros((64, 64), np.int16), HEADER, tile_shape=(64, 64)).writeto(path)
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        for card, value in (("ZNAXIS1", 60000), ("ZNAXIS2", 60000), ("ZTILE1", 60000)):
            hdus[1].header[card] = value
        hdus[1].header["ZTILE2"] = 60000
    this = own_survey("[files]\npattern='(?P<tile>t)_(?P<band>r)\\.fits.*'")
    with pytest.raises(UnitError) as caught:
        read(path, this)
    assert caught.value.reason in ("too_large", "unreadable")


@settings(deadline=None, max_examples=25)
@given(fwhm=st.floats(2, 8), x=st.floats(-0.5, 0.5), y=st.floats(-0.5, 0.5))
def test_the_width_of_a_gaussian_is_measured(fwhm: float, x: float, y: float) -> None:
    rows, columns = np.mgrid[-15:16, -15:16]
    psf = np.exp(-4 * np.log(2) * ((columns - x) ** 2 + (rows - y) ** 2) / fwhm**2)
    assert fwhm_pix(psf) == pytest.approx(fwhm, rel=0.12)


@pytest.mark.parametrize("psf", [np.zeros((9, 9)), np.full((9, 9), np.nan), np.ones((2, 2))])
def test_nothing_has_no_width(psf: np.ndarray) -> None:
    assert np.isnan(fwhm_pix(psf))


@pytest.mark.real
class TestRealFiles:
    """Published files of each layout, where they are at hand."""

    def test_an_old_lsst_stack(self, real_data: Path) -> None:
        this = own_survey(
            RUBIN.replace("(?P<band>r)", "(?P<band>i)").replace('["NO_DATA"]', '["UNMASKEDNAN"]'),
            "i",
        )
        path = real_data / "tiles" / "suprimecam_actj0022_i.fits"
        (files,) = tiles.find([path], this, ("i",))
        with tiles.open_tile(files, this, ("i",)) as tile:
            whole = tile.pixels["i"][0:250, 0:250]
            x, y, inside = tile.footprint.pixel_of(np.array([5.61925964]), np.array([-0.72094374]))
        assert inside[0]
        assert [x[0], y[0]] == pytest.approx([125, 125], abs=1e-3)
        with warnings.catch_warnings(action="ignore"), fits.open(path) as hdus:
            stored = hdus[2].data
        assert ((whole.mask & schema.MASK_SATURATED) != 0).sum() == ((stored >> 1) & 1).sum() == 3
        assert 5 < np.nanmedian(np.sqrt(whole.variance)) < 20, "rms in nJy of a deep stack"

    def test_a_decam_exposure(self, real_data: Path) -> None:
        this = survey.load("decam")
        (files,) = tiles.find([real_data / "tiles" / "decam_z"], this, ("z",))
        assert set(files.paths["z"]) == {"image", "weight", "mask"}
        with tiles.open_tile(files, this, ("z",)) as tile:
            whole = tile.pixels["z"][0:251, 0:245]
            assert tile.psf_fwhm_arcsec("z") == pytest.approx(3.691442 * 0.2637)
            ra, dec = tile.footprint.sky_of(np.array([100.0]), np.array([100.0]))
            x, y, _ = tile.footprint.pixel_of(ra, dec)
            assert [x[0], y[0]] == pytest.approx([100, 100], abs=1e-3)
        good = whole.mask == 0
        assert good.mean() > 0.9
        # The zero point, in the primary header alone, makes weights and pixels agree.
        sky = whole.flux[good]
        scatter = 1.4826 * np.median(abs(sky - np.median(sky)))
        assert np.median(np.sqrt(whole.variance[good])) == pytest.approx(scatter, rel=0.3)

    def test_a_euclid_cutout(self, real_data: Path) -> None:
        this = survey.load("euclid")
        paths = sorted((real_data / "lenses" / "euclid_q1").glob("10*.fits"))
        bands = tuple(this.bands)
        for path in paths:
            (files,) = tiles.find([path], this, bands)
            with tiles.open_tile(files, this, bands) as tile:
                for band in bands:
                    whole = tile.pixels[band][0:100, 0:100]
                    assert (whole.mask == 0).mean() > 0.9
                    rms = np.nanmedian(np.sqrt(whole.variance))
                    assert rms == pytest.approx(this.sky_rms_njy[band], rel=0.3)
                    assert tile.psf_fwhm_arcsec(band) == pytest.approx(
                        this.psf_fwhm_arcsec[band], rel=0.4
                    )
