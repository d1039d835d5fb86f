"""Real survey pixels, where they are at hand: positions hold, and nothing ends in a traceback."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from balance import check_ledger
from skies import sky_YX, tan_wcs, write_targets

from lensfinder import shards, survey, tables, tiles
from lensfinder.ledger import products_of, read_index

pytestmark = pytest.mark.real
Command = Callable[..., Any]


def test_a_known_lens_lies_where_it_is_seen(real_data: Path) -> None:
    this = survey.load("cfhtls")
    (files,) = tiles.find([real_data / "tiles"], this, ("g", "r", "i"))
    with tiles.open_tile(files, this, ("g", "r", "i")) as tile:
        x, y, inside = tile.footprint.pixel_of(np.array([215.53862]), np.array([52.78123]))
        assert inside[0]
        assert [x[0], y[0]] == pytest.approx([222.3, 229.7], abs=0.1)
        # SL2SJ142209+524652: its lens galaxy is the brightest thing within two arcsec.
        around = tile.pixels["i"][220:241, 212:233].flux
        peak = np.unravel_index(np.nanargmax(around), around.shape)
        assert np.hypot(peak[0] + 220 - y[0], peak[1] + 212 - x[0]) < 3


def test_detection_on_real_pixels_closes_its_ledger(
    real_data: Path, tmp_path: Path, command: Command
) -> None:
    said = command(
        "cutout", real_data / "tiles", "--survey", "cfhtls", "--size", 41, "--engine", "serial",
        "-o", tmp_path, "-q",
    )  # fmt: skip
    assert said.code == 0, said.err
    counts = read_index(tmp_path)["counts"]
    assert counts["planned"] == sum(v for name, v in counts.items() if name != "planned") > 50
    ledger = tables.read_columns(tmp_path / "ledger.parquet")
    assert len(set(ledger["id"])) == counts["planned"]
    (product,) = products_of(tmp_path, "cutout")
    with shards.read(product) as shard:
        x, y = shard.catalog["x"], shard.catalog["y"]
        assert np.hypot(x - 222.3, y - 229.7).min() < 3, "the lens is among the targets"
        # Each stamp's centre is the target's pixel in the file.
        pixels = fits.getdata(real_data / "tiles" / "CFHTLS-test_r.fits")
        centre = shard.image[:, 1, 20, 20]
        there = pixels[np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int)]
        np.testing.assert_allclose(centre, there * 10 ** (1.4 / 2.5), rtol=1e-5)


def odd_survey(folder: Path, scale_arcsec: float) -> Path:
    path = folder / f"odd{scale_arcsec}.toml"
    path.write_text(
        f"""
        name = "odd"
        title = "whatever turns up"
        source = ""
        pixel_scale_arcsec = {scale_arcsec}
        bands = ["r"]
        default_bands = ["r"]
        reference_band = "r"
        psf_fwhm_arcsec = {{ r = {4 * scale_arcsec} }}
        sky_rms_njy = {{ r = 1.0 }}
        [files]
        pattern = '(?P<tile>.+)_(?P<band>r)\\.fits'
        [zero_point]
        value = 31.4
        """
    )
    return path


# Why each file can't be a tile. FK4 positions are not ICRS ones; of several images named SCI none
# is guessed; six axes, tables and an empty HDU hold no image; a PV card means nothing in TAN-SIP.
REFUSED = {
    "a8280271": ("no_wcs", "has no celestial WCS"),
    "comp": ("sky_frame", "is mapped in RA (FK4, equinox 1950)"),
    "double_ext": ("no_wcs", "has no celestial WCS"),
    "fixed-1890": ("no_wcs", "has no celestial WCS"),
    "header_newlines": ("no_wcs", "PV1_5 : Unrecognized coordinate transformation parameter"),
    "j94f05bgq_flt": ("ambiguous_image", "holds 2 images named SCI"),
    "random_groups": ("no_image", "holds no two-dimensional image"),
    "table": ("no_image", "holds no two-dimensional image"),
    "test0": ("ambiguous_image", "holds 4 images named SCI"),
    "verify": ("no_image", "holds no two-dimensional image"),
}
# What can be read: HDU, pixel scale in arcsec, size of stamps.
READ = {
    "m13_hcomp": (1, 0.99972, 21),
    "m13_plio": (1, 0.99972, 21),
    "m13_rice": (1, 0.99972, 21),
    "scale": (0, 5.0, 9),
    "sip-wcs": (0, 0.5579, 21),
}


@pytest.mark.fault
def test_each_odd_file_has_an_expectation(real_data: Path) -> None:
    assert {path.stem for path in (real_data / "odd").iterdir()} == {*REFUSED, *READ}


@pytest.mark.fault
@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_file_is_refused_with_its_reason_and_fails_alone(
    real_data: Path, tmp_path: Path, command: Command, name: str
) -> None:
    reason, words = REFUSED[name]
    sky, this = tmp_path / "tiles", odd_survey(tmp_path, 0.2)
    sky.mkdir()
    shutil.copy(real_data / "odd" / f"{name}.fits", sky / f"{name}_r.fits")
    alone = command("check", sky, "--survey", this, "--json")
    assert alone.code == 2, alone.err
    finding = json.loads(alone.out)[name]
    assert finding.startswith(f"would fail [{reason}] ")
    assert words in finding

    wcs = tan_wcs(10.0, 0.0, (80, 80))
    fits.writeto(sky / "fine_r.fits", sky_YX((80, 80), [(40.0, 40.0)], 1) * 1e12, wcs.to_header())
    assert command("check", sky, "--survey", this).code == 3
    ids = write_targets(tmp_path / "t.csv", [10.0], [0.0])
    said = command(
        "cutout", sky, "--survey", this, "--size", 21, "--engine", "serial",
        "--catalog", tmp_path / "t.csv", "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 3
    assert "Traceback" not in said.err
    (line,) = [line for line in said.err.splitlines() if line.startswith("failed:")]
    assert f"{name} [{reason}]" in line
    assert check_ledger(tmp_path / "out", ids) == {"ok": 1}


@pytest.mark.fault
@pytest.mark.parametrize("name", READ)
def test_an_odd_file_gives_the_pixels_it_holds(
    real_data: Path, tmp_path: Path, command: Command, name: str
) -> None:
    hdu, scale, size = READ[name]
    sky, this = tmp_path / "tiles", odd_survey(tmp_path, scale)
    sky.mkdir()
    shutil.copy(real_data / "odd" / f"{name}.fits", sky / f"{name}_r.fits")
    assert command("check", sky, "--survey", this).code == 0
    with warnings.catch_warnings(action="ignore"), fits.open(sky / f"{name}_r.fits") as hdus:
        wcs, pixels = WCS(hdus[hdu].header), hdus[hdu].data.astype(np.float64)
    height, width = pixels.shape
    # Whole in the middle; half outside in a corner.
    x, y = np.array([width // 2, 1]), np.array([height // 2, 1])
    ra, dec = wcs.all_pix2world(x, y, 0)
    ids = write_targets(tmp_path / "t.csv", ra, dec)
    said = command(
        "cutout", sky, "--survey", this, "--size", size, "--engine", "serial",
        "--catalog", tmp_path / "t.csv", "-o", tmp_path / "out", "--max-bad-fraction", 0.8,
    )  # fmt: skip
    assert said.code == 0, said.err
    assert check_ledger(tmp_path / "out", ids) == {"ok": 1, "flagged": 1}
    (product,) = products_of(tmp_path / "out", "cutout")
    half = size // 2
    padded = np.pad(pixels, half, constant_values=np.nan)
    with shards.read(product) as shard:
        place = {one: k for k, one in enumerate(shard.catalog["id"])}
        for one, a, b in zip(ids, x, y, strict=True):
            k = place[one]
            assert [shard.catalog["x"][k], shard.catalog["y"][k]] == pytest.approx([a, b], abs=1e-2)
            window = padded[b : b + size, a : a + size]
            np.testing.assert_allclose(shard.image[k, 0], window, rtol=1e-6)


SL2S = """
[files]
pattern = '(?P<tile>SL2SJ021411-040502)(_(?P<band>[ugriz]))?_(?P<kind>sci|rms|psf|mask)\\.fits'
kinds = { sci = "image", rms = "rms", psf = "psf" }
[zero_point]
value = 30.0
"""
COSMOS = """
[files]
pattern = '(?P<tile>HSC)-(?P<band>[GRIZY])_(?P<kind>data|noise_map|psf)\\.fits'
kinds = { data = "image", noise_map = "rms", psf = "psf" }
band_names = { g = "G", r = "R", i = "I", z = "Z", y = "Y" }
[zero_point]
value = 27.0
"""
EUCLID = "102018665_NEG570040238507752998.fits"
# Where published lenses lie: the first by lenscat, the others by their names.
KNOWN = {
    "SL2SJ021411-040502": (
        "lenses/cfhtls_SL2SJ0214", SL2S, "g,r,i", 0.186, (33.5467, -4.0841)
    ),
    "COSJ100024+021749": (
        "lenses/hsc_cosmos_lenses/COSJ100024+021749", COSMOS, "g,r,i,z,y", 0.168, (150.1, 2.29694)
    ),
    "NEG570040238507752998": (
        f"lenses/euclid_q1/{EUCLID}", "euclid", "VIS,i", 0.1, (57.0040238, -50.7752998)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_a_named_lens_is_the_brightest_thing_around(
    real_data: Path, tmp_path: Path, command: Command, name: str
) -> None:
    place, this, bands, scale, (ra, dec) = KNOWN[name]
    listed = bands.split(",")
    if "\n" in this:
        values = ", ".join(f"{band} = 0.7" for band in listed)
        (tmp_path / "own.toml").write_text(
            f'name = "own"\ntitle = ""\nsource = ""\npixel_scale_arcsec = {scale}\n'
            f'bands = {listed}\ndefault_bands = {listed}\nreference_band = "i"\n'
            f"psf_fwhm_arcsec = {{ {values} }}\nsky_rms_njy = {{ {values} }}\n{this}"
        )
        this = str(tmp_path / "own.toml")
    (tmp_path / "t.csv").write_text(f"id,ra,dec\n{name},{ra},{dec}\n")
    said = command(
        "cutout", real_data / place, "--survey", this, "--bands", bands, "--size", 31,
        "--engine", "serial", "--variance", "--catalog", tmp_path / "t.csv",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 0, said.err
    (product,) = products_of(tmp_path / "out", "cutout")
    with shards.read(product) as shard:
        assert shard.catalog["id"].tolist() == [name]
        assert shard.catalog["psf_source"][0] == ("header" if this == "euclid" else "picture")
        reach = 2.0 / scale
        y, x = np.mgrid[:31, :31] - 15
        near = np.where(np.hypot(x, y) <= reach, shard.image[0, listed.index("i")], np.nan)
        row, column = np.unravel_index(np.nanargmax(near), near.shape)
        # A name has cut off the last arcsecond.
        assert np.hypot(row - 15, column - 15) * scale < 1.0
        assert np.nanmedian(shard.variance[0]) > 0
