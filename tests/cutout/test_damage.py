"""Conservation: whatever is damaged, every target ends as exactly one outcome."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from balance import SHAPE_YX, check_ledger, overlapping, write_tile
from skies import write_targets

from lensfinder import shards, tables
from lensfinder.ledger import products_of, read_index

pytestmark = pytest.mark.fault
Command = Callable[..., Any]


def pixels(change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with fits.open(path, mode="update") as hdus:
            change(hdus[0].data)

    return damage


def truncate(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.fits")


def smaller(path: Path) -> None:
    header = fits.getheader(path)
    fits.writeto(path, np.zeros((80, 79), np.float32), header, overwrite=True)


def table_only(path: Path) -> None:
    fits.BinTableHDU.from_columns([fits.Column("x", "E", array=[1.0])]).writeto(
        path, overwrite=True
    )


def without_wcs(path: Path) -> None:
    fits.writeto(path, fits.getdata(path), overwrite=True)


def with_pixels_of(scale_arcsec: float) -> Callable[[Path], None]:
    def rescale(path: Path) -> None:
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["CDELT1"], hdus[0].header["CDELT2"] = [
                sign * scale_arcsec / 3600 for sign in (-1, 1)
            ]

    return rescale


def three_images(path: Path) -> None:
    data, header = fits.getdata(path), fits.getheader(path)
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(data, header, name="SCI") for _ in range(3))]
    fits.HDUList(hdus).writeto(path, overwrite=True)


def with_tnx(path: Path) -> None:
    with fits.open(path, mode="update") as hdus:
        header = hdus[0].header
        header["CTYPE1"], header["CTYPE2"] = "RA---TNX", "DEC--TNX"
        header["WAT1_001"] = 'wtype=tnx axtype=ra lngcor = "3. 4. 4. 2. -0.1 0.1 -0.1 0.1 0.01 "'


# What is done to the r image, and the reason that the tile fails with.
FATAL = {
    "truncated at 90 %": (truncate(0.9), "truncated"),
    "truncated at 50 %": (truncate(0.5), "truncated"),
    "truncated at 1 %": (truncate(0.01), "unreadable"),
    "zero bytes": (truncate(0), "unreadable"),
    "an HTML page": (lambda path: path.write_text("<html>404</html>"), "unreadable"),
    "a directory": (as_directory, "unreadable"),
    "a dangling link": (as_dangling_link, "unreadable"),
    "a missing band": (Path.unlink, "missing_band"),
    "another size": (smaller, "unequal_size"),
    "a table": (table_only, "no_image"),
    "no WCS": (without_wcs, "no_wcs"),
    "TNX": (with_tnx, "no_wcs"),
    "another pixel scale": (with_pixels_of(0.3), "pixel_scale"),
    "three images named SCI": (three_images, "ambiguous_image"),
}
HARMLESS = {
    "all NaN": (pixels(lambda data: data.fill(np.nan)), "no_data"),
    "all infinite": (pixels(lambda data: data.fill(np.inf)), "no_data"),
    "all huge": (pixels(lambda data: data.fill(3e38)), "no_data"),
    "constant": (pixels(lambda data: data.fill(1.0)), "constant"),
}


@pytest.mark.parametrize("detected", [False, True], ids=["catalogue", "detection"])
@pytest.mark.parametrize("damage", FATAL)
def test_a_broken_tile_fails_alone(
    tmp_path: Path, command: Command, damage: str, detected: bool
) -> None:
    break_it, reason = FATAL[damage]
    sky = tmp_path / "tiles"
    broken = write_tile(sky, "10_0", 10.0)
    fine = write_tile(sky, "20_0", 20.0)
    break_it(sky / "KiDS_DR4.0_10_0_r_sci.fits")
    ids = write_targets(tmp_path / "targets.csv", *np.array([*broken, *fine]).T)
    arguments = [sky, "--size", 21, "--engine", "serial"]
    if not detected:
        arguments += ["--catalog", tmp_path / "targets.csv"]

    both = command("cutout", *arguments, "-o", tmp_path / "both")
    assert both.code == 3
    failed = [line for line in both.err.splitlines() if line.startswith("failed:")]
    assert len(failed) == 1
    assert f"KiDS_DR4.0_10_0 [{reason}]" in failed[0]
    assert "cutout: 1 of 2 units failed" in both.out or detected
    assert "units failed, and what they hold with them" in both.out
    assert "Traceback" not in both.err
    ledger = tables.read_columns(tmp_path / "both" / "ledger.parquet")
    if detected:
        assert check_ledger(tmp_path / "both", ledger["id"].tolist())["ok"] == 3
    else:
        assert check_ledger(tmp_path / "both", ids) == {"ok": 3, "failed": 3}
        assert set(ledger["reason"][ledger["outcome"] == "failed"]) == {reason}

    # Alone, it is the whole request that can't be done.
    for path in sky.glob("*_20_0_*"):
        path.unlink()
    alone = command("cutout", *arguments, "-o", tmp_path / "alone")
    assert alone.code == 2
    assert sum(line.startswith("failed:") for line in alone.err.splitlines()) == 1
    assert read_index(tmp_path / "alone")["counts"]["ok"] == 0


@pytest.mark.parametrize("damage", HARMLESS)
def test_useless_pixels_are_rejected_by_rule(tmp_path: Path, command: Command, damage: str) -> None:
    break_it, reason = HARMLESS[damage]
    sky = tmp_path / "tiles"
    positions = write_tile(sky, "10_0", 10.0)
    break_it(sky / "KiDS_DR4.0_10_0_r_sci.fits")
    ids = write_targets(tmp_path / "targets.csv", *np.array(positions).T)
    options = ["--size", 21, "--engine", "serial"]
    said = command(
        "cutout", sky, *options, "--catalog", tmp_path / "targets.csv", "-o", tmp_path / "out"
    )
    assert said.code == 0, said.err
    assert check_ledger(tmp_path / "out", ids) == {"rejected": 3}
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    assert set(ledger["reason"]) == {reason}
    # With nothing to be seen, nothing is detected, which is no error.
    said = command("cutout", sky, *options, "-o", tmp_path / "detected")
    assert said.code == 0, said.err
    assert check_ledger(tmp_path / "detected", []) == {}


@pytest.mark.parametrize("kind", ["wei", "msk"])
def test_pixels_masked_all_over_are_rejected(tmp_path: Path, command: Command, kind: str) -> None:
    sky = tmp_path / "tiles"
    positions = write_tile(sky, "10_0", 10.0)
    value = {"wei": 0, "msk": 64}[kind]
    pixels(lambda data: data.fill(value))(sky / f"KiDS_DR4.0_10_0_i_{kind}.fits")
    ids = write_targets(tmp_path / "targets.csv", *np.array(positions).T)
    said = command(
        "cutout",
        sky,
        "--size",
        21,
        "--engine",
        "serial",
        "--catalog",
        tmp_path / "targets.csv",
        "-o",
        tmp_path / "out",
    )
    assert said.code == 0
    assert check_ledger(tmp_path / "out", ids) == {"rejected": 3}


@pytest.mark.parametrize("broken", [["10_0"], ["10_1"], ["10_0", "10_1"], ["10_2", "10_1", "10_0"]])
def test_the_next_covering_tile_takes_a_broken_ones_targets(
    tmp_path: Path, command: Command, broken: list[str]
) -> None:
    sky = tmp_path / "tiles"
    centres = {"10_0": 10.0, "10_1": 10.001, "10_2": 10.002}
    positions = overlapping(sky, centres)
    ids = write_targets(tmp_path / "targets.csv", *positions.T)
    arguments = [
        "cutout", sky, "--size", 9, "--engine", "serial", "--catalog", tmp_path / "targets.csv",
        "--set", "cutout.max_bad_fraction=0.99",
    ]  # fmt: skip
    clean = command(*arguments, "-o", tmp_path / "clean")
    assert clean.code == 0
    check_ledger(tmp_path / "clean", ids)

    for name in broken:
        truncate(0.5)(sky / f"KiDS_DR4.0_{name}_g_sci.fits")
    said = command(*arguments, "-o", tmp_path / "out", "--json")
    assert said.code == 3
    occurs = check_ledger(tmp_path / "out", ids)
    half_width = SHAPE_YX[1] / 2 * 0.2 / 3600
    fine = [ra for name, ra in centres.items() if name not in broken]
    covered = np.array(
        [any(abs(ra - centre) < half_width for centre in fine) for ra, _ in positions]
    )
    assert occurs["failed"] == (~covered).sum()
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    failed = set(ledger["id"][ledger["outcome"] == "failed"])
    assert failed == {name for name, there in zip(ids, covered, strict=True) if not there}

    # Once mended, the same command makes what a clean run makes, and `--clean` sweeps the rest.
    for path in sky.iterdir():
        path.unlink()
    overlapping(sky, centres)
    again = command(*arguments, "-o", tmp_path / "out")
    assert again.code == 0, again.err
    check_ledger(tmp_path / "out", ids)
    assert command("status", tmp_path / "out", "--clean").code == 0
    names = [path.name for path in products_of(tmp_path / "clean")]
    assert sorted(path.name for path in (tmp_path / "out" / "products").iterdir()) == names
    for name in names:
        with (
            shards.read(tmp_path / "clean" / "products" / name) as first,
            shards.read(tmp_path / "out" / "products" / name) as second,
        ):
            assert first.image[:].tobytes() == second.image[:].tobytes()


def test_targets_on_a_tile_without_pixels_are_failed_and_not_forgotten(
    tmp_path: Path, command: Command
) -> None:
    sky = tmp_path / "tiles"
    fine, broken = write_tile(sky, "10_0", 10.0), write_tile(sky, "20_0", 20.0)
    ids = write_targets(tmp_path / "targets.csv", *np.array([*fine, *broken]).T)
    truncate(0.5)(sky / "KiDS_DR4.0_20_0_g_sci.fits")
    said = command(
        "cutout", sky, "-o", tmp_path / "out", "--bands", "g", "--size", 21, "--engine", "serial",
        "--catalog", tmp_path / "targets.csv",
    )  # fmt: skip
    assert said.code == 3
    assert check_ledger(tmp_path / "out", ids) == {"ok": 3, "failed": 3}
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    assert set(ledger["id"][ledger["outcome"] == "failed"]) == set(ids[3:])


def test_products_that_a_run_does_not_count_are_named(tmp_path: Path, command: Command) -> None:
    sky = tmp_path / "tiles"
    positions = [*write_tile(sky, "10_0", 10.0), *write_tile(sky, "20_0", 20.0)]
    write_targets(tmp_path / "targets.csv", *np.array(positions).T)
    arguments = ["--size", 21, "--engine", "serial", "--catalog", tmp_path / "targets.csv"]
    arguments += ["-o", tmp_path / "out"]
    first, second = (sorted(sky.glob(f"*_{name}_0_*")) for name in (10, 20))
    assert "earlier run" not in command("cutout", *first, *arguments).out
    said = command("cutout", *second, *arguments)
    assert said.code == 0
    assert "earlier run" in said.out + said.err
    assert "KiDS_DR4.0_10_0.h5" in said.out + said.err
    assert "removed" in (swept := command("status", tmp_path / "out", "--clean").out)
    assert "KiDS_DR4.0_10_0.h5" in swept


def test_shares_of_a_broken_run_make_up_the_whole(tmp_path: Path, command: Command) -> None:
    sky = tmp_path / "tiles"
    positions = overlapping(sky, {"10_0": 10.0, "10_1": 10.001, "10_2": 10.002})
    ids = write_targets(tmp_path / "targets.csv", *positions.T)
    for name in ("10_0", "10_1"):
        truncate(0.5)(sky / f"KiDS_DR4.0_{name}_g_sci.fits")
    arguments = ["cutout", sky, "--size", 9, "--engine", "serial", "--catalog"]
    arguments += [tmp_path / "targets.csv"]
    assert command(*arguments, "-o", tmp_path / "whole").code == 3
    for part in ("2/3", "1/3", "3/3"):
        command(*arguments, "-o", tmp_path / "parts", "--part", part)
        assert not (tmp_path / "parts" / "index.json").exists()
    assert command(*arguments, "-o", tmp_path / "parts", "--finish").code == 3
    check_ledger(tmp_path / "parts", ids)
    products = [
        {entry["unit"]: entry["fingerprint"] for entry in read_index(tmp_path / name)["products"]}
        for name in ("whole", "parts")
    ]
    assert products[0] == products[1]
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["stage"] == "cutout"


def test_detection_on_a_stack_finds_what_no_band_shows(tmp_path: Path, command: Command) -> None:
    sky = tmp_path / "tiles"
    write_tile(sky, "10_0", 10.0)
    # A galaxy is only as good as its reference band, unless bands are stacked.
    pixels(lambda data: data.fill(np.nan))(sky / "KiDS_DR4.0_10_0_r_sci.fits")
    arguments = ["cutout", sky, "--size", 21, "--engine", "serial"]
    said = command(*arguments, "-o", tmp_path / "one")
    assert said.code == 0, said.err
    assert read_index(tmp_path / "one")["counts"]["planned"] == 0
    said = command(
        *arguments, "-o", tmp_path / "stack", "--set", 'cutout.detect_bands=["g", "i"]',
        "--bands", "g,i",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "cutout: 3 objects detected, 3 selected (100.0% of those); 3 ok" in said.out
    (product,) = products_of(tmp_path / "stack", "cutout")
    with shards.read(product) as shard:
        assert sorted(np.round(shard.catalog["x"]).tolist()) == [20, 40, 60]
        assert np.isfinite(shard.catalog["mag_i"]).all()
    said = command(*arguments, "-o", tmp_path / "no", "--set", 'cutout.detect_bands=["z"]')
    assert said.code == 2
    assert "detect_bands z; expected some of g,r,i" in said.err
