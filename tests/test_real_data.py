"""Real survey pixels, where they are at hand: positions hold, and nothing ends in a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

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
        psf_fwhm_arcsec = {{ r = 1.0 }}
        sky_rms_njy = {{ r = 1.0 }}
        [files]
        pattern = '(?P<tile>.+)_(?P<band>r)\\.fits'
        [zero_point]
        value = 25.0
        """
    )
    return path


def test_no_odd_file_ends_in_a_traceback(real_data: Path, tmp_path: Path, command: Command) -> None:
    sky = tmp_path / "tiles"
    sky.mkdir()
    for path in sorted((real_data / "odd").iterdir()):
        shutil.copy(path, sky / f"{path.stem}_r.fits")
    said = command("check", sky, "--survey", odd_survey(tmp_path, 0.2), "--json")
    assert said.code == 3, said.err
    scales = set()
    for finding in json.loads(said.out).values():
        if "[pixel_scale]" in finding:
            scales.add(float(finding.partition(" pixels of ")[2].split()[0]))
    # Each kind of file is cut under a survey with its own pixels, and by itself is code 2 or 0.
    for scale in scales:
        own = odd_survey(tmp_path, scale)
        out = tmp_path / f"out{scale}"
        said = command(
            "cutout", sky, "--survey", own, "--size", 21, "--engine", "serial", "-o", out, "-q"
        )
        assert said.code in (0, 2, 3, 4), said.err
        assert "Traceback" not in said.err
        counts = read_index(out)["counts"]
        assert counts["planned"] == sum(v for name, v in counts.items() if name != "planned")
    for path in sky.iterdir():
        said = command("check", path, "--survey", odd_survey(tmp_path, 0.2))
        assert said.code in (0, 2), said.err
        assert "Traceback" not in said.err
