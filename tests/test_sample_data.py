"""The sample sky is what it claims: size, depth, masks, positions, and how it was made."""

import csv
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

FOLDER = Path(__file__).parents[1] / "sample_data"
TILES = sorted({path.name[:-11] for path in FOLDER.glob("tiles/*_sci.fits")})
SKY_RMS = {"g": 1.84e-12, "r": 1.72e-12, "i": 6.86e-12}


def read(tile, band, kind):
    with fits.open(FOLDER / "tiles" / f"{tile}_{band}_{kind}.fits") as hdus:
        return np.array(hdus[-1].data), hdus[-1].header


def table(name):
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def radec_N2(rows):
    return np.array([[float(row["ra"]), float(row["dec"])] for row in rows])


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("make")
    for name in ("make", "sky"):
        del sys.modules[name]


def test_size_and_names():
    files = [*FOLDER.glob("tiles/*"), *FOLDER.glob("*.csv")]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert len(TILES) == 2
    assert len(list(FOLDER.glob("tiles/*.fits"))) == 2 * 3 * 3


def test_one_tile_has_compressed_science_images():
    compressed = []
    for tile in TILES:
        with fits.open(FOLDER / "tiles" / f"{tile}_r_sci.fits") as hdus:
            compressed.append(isinstance(hdus[-1], fits.CompImageHDU))
    assert sorted(compressed) == [False, True]


def test_planted_lenses_are_targets_and_well_inside_a_tile():
    targets = {row["id"]: row for row in table("targets.csv")}
    assert len(targets) == len(table("targets.csv")) >= 200
    lenses = table("lenses.csv")
    assert len(lenses) == 10
    inside = np.zeros(10, int)
    for tile in TILES:
        mask_YX, header = read(tile, "r", "msk")
        for k, (x, y) in enumerate(WCS(header).wcs_world2pix(radec_N2(lenses), 0).round()):
            box = mask_YX[int(max(y - 40, 0)) : int(y + 41), int(max(x - 40, 0)) : int(x + 41)]
            inside[k] += box.shape == (81, 81) and not box.any()
    assert inside.min() == 1
    assert inside.max() == 2  # one stands in the overlap
    for lens in lenses:
        assert (lens["ra"], lens["dec"]) == tuple(targets[lens["id"]][key] for key in ("ra", "dec"))


@pytest.mark.parametrize("band", SKY_RMS)
@pytest.mark.parametrize("tile", TILES)
def test_noise_is_that_of_kids(tile, band):
    flux_YX = read(tile, band, "sci")[0]
    weight_YX = read(tile, band, "wei")[0]
    good_YX = (read(tile, band, "msk")[0] == 0) & (weight_YX == weight_YX.max())
    assert weight_YX.max() ** -0.5 == pytest.approx(SKY_RMS[band], rel=1e-3)
    # Neighbours two pixels apart in dark places: smooth light cancels, independent noise doubles.
    pair = good_YX[:, 2:] & good_YX[:, :-2] & (np.abs(flux_YX[:, 1:-1]) < SKY_RMS[band])
    step = (flux_YX[:, 2:] - flux_YX[:, :-2])[pair]
    rms = 1.4826 * np.median(np.abs(step)) / np.sqrt(2)
    assert rms == pytest.approx(SKY_RMS[band], rel=0.03)


def test_mask_bits_stand_where_the_star_is():
    found = 0
    for tile in TILES:
        flux_YX = read(tile, "r", "sci")[0]
        mask_YX = read(tile, "r", "msk")[0]
        saturated_YX = flux_YX > 0.98 * 2.5e-8
        found += saturated_YX.sum()
        assert (mask_YX[saturated_YX] & 2 == 2).all()
        assert (mask_YX & 64).any()
        if saturated_YX.any():
            y, x = np.argwhere(saturated_YX).mean(axis=0).round().astype(int)
            assert mask_YX[y, x] & (1 | 2 | 4 | 8) == 1 | 2 | 4 | 8
            assert mask_YX[y, x + 60] & (2 | 8) == 8
            assert (flux_YX[y - 5 : y + 6, x + 65 : x + 76]).mean() > 2e-12
    assert found > 20


def test_no_weight_means_no_data():
    for tile in TILES:
        flux_YX = read(tile, "g", "sci")[0]
        empty_YX = (read(tile, "g", "wei")[0] == 0) & (read(tile, "g", "msk")[0] == 0)
        assert (flux_YX[empty_YX] == 0).all()


def centroid(flux_YX, x, y):
    """Centre of the light around (x, y) under a Gaussian window that stands exactly there."""
    x0, y0 = round(x) - 8, round(y) - 8
    dy, dx = np.mgrid[y0 : y0 + 17, x0 : x0 + 17]
    light_YX = flux_YX[y0 : y0 + 17, x0 : x0 + 17] * np.exp(-(np.hypot(dx - x, dy - y) ** 2) / 12)
    return (light_YX * dx).sum() / light_YX.sum(), (light_YX * dy).sum() / light_YX.sum()


def test_overlapping_tiles_show_the_same_objects():
    views = []
    for tile in TILES:
        flux_YX, header = read(tile, "r", "sci")
        views.append((flux_YX, read(tile, "r", "msk")[0], WCS(header)))
    bright = [row for row in table("targets.csv") if float(row["mag_r"]) < 20.5]
    offsets = []
    for radec in radec_N2(bright):
        sky = []
        for flux_YX, mask_YX, wcs in views:
            x, y = wcs.wcs_world2pix(radec[None], 0)[0]
            box = mask_YX[
                max(round(y) - 9, 0) : round(y) + 10, max(round(x) - 9, 0) : round(x) + 10
            ]
            if box.shape == (19, 19) and not box.any():
                sky.append(wcs.wcs_pix2world([centroid(flux_YX, x, y)], 0)[0])
        if len(sky) == 2:
            offsets.append((sky[0] - sky[1]) * 3600)
    assert len(offsets) >= 4
    assert np.abs(offsets).max() < 0.03  # arcsec: centroids of the same light under other noise


def test_targets_stand_on_light():
    tiles = [(read(tile, "r", "sci")[0], WCS(read(tile, "r", "sci")[1])) for tile in TILES]
    for row in table("targets.csv"):
        peaks = []
        for flux_YX, wcs in tiles:
            x, y = wcs.wcs_world2pix(radec_N2([row]), 0)[0].round().astype(int)
            if 0 <= x < flux_YX.shape[1] and 0 <= y < flux_YX.shape[0]:
                peaks.append(flux_YX[y, x])
        assert max(peaks) > 5 * SKY_RMS["r"]


def test_ray_tracer_obeys_poissons_equation(script):
    truth = {"theta_e_arcsec": 1.4, "q": 0.7, "angle_deg": 33.0, "gamma": 0.05, "phi_deg": 70.0}
    sky = importlib.import_module("sky")
    beta_x = sky.lensed(lambda x, y: x, **truth)
    beta_y = sky.lensed(lambda x, y: y, **truth)
    x, y = np.random.default_rng(1).uniform(-3, 3, (2, 50))
    h = 1e-4
    divergence = (beta_x(x + h, y) - beta_x(x - h, y) + beta_y(x, y + h) - beta_y(x, y - h)) / (
        2 * h
    )
    u, v = sky.rotate(x, y, 33.0)
    kappa = 1.4 / (2 * np.sqrt(0.7 * u**2 + v**2 / 0.7))
    np.testing.assert_allclose(1 - divergence / 2, kappa, rtol=1e-4)  # shear adds no convergence


def test_check_names_a_file_that_differs(script, tmp_path):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py*"))
    path = tmp_path / "tiles" / f"{TILES[0]}_g_sci.fits"
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[400, 400] += 1e-12
    (tmp_path / "lenses.csv").unlink()
    lines = script.differences(tmp_path, FOLDER)
    assert sorted(line.split(":")[0] for line in lines if ".py" not in line) == [
        "lenses.csv",
        f"tiles/{path.name}",
    ]


def test_the_files_are_what_the_script_writes():
    command = [sys.executable, FOLDER / "make.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
