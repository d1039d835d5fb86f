"""What is odd about a tile and no damage: it is refused by name, or done and said."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from balance import SHAPE_YX, check_ledger, overlapping, write_tile
from skies import sky_YX, tan_wcs, write_kids_tile, write_targets

from lensfinder import shards, survey, tables, tiles
from lensfinder.cutout import planning
from lensfinder.errors import UnitError
from lensfinder.ledger import products_of, read_index

Command = Callable[..., Any]


def name_band(path: Path, card: str, value: str) -> None:
    with fits.open(path, mode="update") as hdus:
        hdus[0].header[card] = value


@pytest.mark.fault
@pytest.mark.parametrize(
    ("card", "own", "other"),
    [("FILTER", "OCAM_r_SDSS", "OCAM_g_SDSS"), ("BAND", "r", "i"), ("FILTER", "Clear", "g.MP9401")],
)
def test_a_swapped_band_is_refused_by_its_header(
    tmp_path: Path, command: Command, card: str, own: str, other: str
) -> None:
    sky = tmp_path / "tiles"
    swapped, fine = write_tile(sky, "10_0", 10.0), write_tile(sky, "20_0", 20.0)
    ids = write_targets(tmp_path / "t.csv", *np.array([*swapped, *fine]).T)
    name_band(sky / "KiDS_DR4.0_10_0_r_sci.fits", card, other)
    name_band(sky / "KiDS_DR4.0_20_0_r_sci.fits", card, own)
    said = command(
        "cutout", sky, "--size", 21, "--engine", "serial", "--catalog", tmp_path / "t.csv",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 3
    assert f"[other_band] {sky}/KiDS_DR4.0_10_0_r_sci.fits stands for band r" in said.err
    assert f"its card {card} is '{other}'" in said.err
    assert check_ledger(tmp_path / "out", ids) == {"ok": 3, "failed": 3}


def test_what_is_missing_beside_an_image_is_said_once_for_all_tiles(
    tmp_path: Path, command: Command
) -> None:
    sky = tmp_path / "tiles"
    wcs = tan_wcs(10.0, 0.0, SHAPE_YX)
    for number in range(5):
        images = {band: sky_YX(SHAPE_YX, [], number) for band in "gri"}
        write_kids_tile(sky, f"1{number}_0", images, tan_wcs(10.0 + number, 0.0, SHAPE_YX))
    write_targets(tmp_path / "t.csv", *([value] for value in wcs.wcs.crval))
    said = command(
        "cutout", sky, "--size", 21, "--engine", "serial", "--catalog", tmp_path / "t.csv",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 0, said.err
    notes = [line for line in said.out.splitlines() if line.startswith("note: no ")]
    assert len(notes) == 2
    for kind, line in zip(("mask", "weight"), notes, strict=True):
        assert line.startswith(f"note: no {kind} files, which kids has: KiDS_DR4.0_10_0 (g,r,i)")
        assert line.endswith("and 2 more")
    assert "no weight files" in command("check", sky).out


@pytest.mark.fault
def test_a_reference_pixel_far_from_the_image_is_noted(tmp_path: Path, command: Command) -> None:
    # A cutout of a tile that kept its header: nothing in it is wrong, and all of it is.
    stale = tan_wcs(10.0, 0.0, (12000, 10000))
    whole = np.zeros(SHAPE_YX)
    write_kids_tile(tmp_path, "1_0", {"r": whole}, stale, weight=whole, mask=whole)
    write_kids_tile(tmp_path, "2_0", {"r": whole}, tan_wcs(), weight=whole, mask=whole)
    said = command("check", tmp_path, "--bands", "r", "--json")
    findings = json.loads(said.out)
    assert "note: the reference pixel of the WCS lies outside" in findings["KiDS_DR4.0_1_0"]
    assert "(CRPIX 5000.5, 6000.5)" in findings["KiDS_DR4.0_1_0"]
    assert "note" not in findings["KiDS_DR4.0_2_0"]


@pytest.mark.parametrize("detected", [False, True], ids=["catalogue", "detection"])
def test_a_tile_that_takes_targets_over_is_named_and_forced_alone(
    tmp_path: Path, command: Command, detected: bool
) -> None:
    sky = tmp_path / "tiles"
    centres = {"10_0": 10.0, "10_9": 10.02}
    if detected:
        for name, ra in {**centres, "10_1": 10.001}.items():
            wcs = tan_wcs(ra, 0.0, SHAPE_YX)
            at = [wcs.all_world2pix(10.0 + d, 0.0002, 0) for d in (-0.0008, 0.001)]
            at += [wcs.all_world2pix(10.02, 0.0, 0)]
            inside = [(x, y) for x, y in at if 0 < x < 79]
            images = {band: sky_YX(SHAPE_YX, inside, n) for n, band in enumerate("gri")}
            write_kids_tile(sky if name != "10_1" else tmp_path / "later", name, images, wcs)
        arguments = ["cutout", sky, "--size", 9, "--engine", "serial"]
    else:
        positions = overlapping(sky, centres)
        overlapping(tmp_path / "later", {"10_1": 10.001})
        write_targets(tmp_path / "t.csv", *positions.T)
        arguments = ["cutout", sky, "--size", 9, "--engine", "serial", "--catalog"]
        arguments += [tmp_path / "t.csv"]
    arguments += ["--set", "cutout.max_bad_fraction=0.99", "-o", tmp_path / "out"]
    assert command(*arguments).code == 0
    before = {path.name: path.stat().st_mtime_ns for path in products_of(tmp_path / "out")}
    for path in (tmp_path / "later").iterdir():
        path.rename(sky / path.name)
    said = command(*arguments)
    assert said.code == 4
    assert "KiDS_DR4.0_10_0.h5 was made for other targets: " in said.err
    assert "now belong to KiDS_DR4.0_10_1" in said.err
    assert "--force makes it again and keeps all others" in said.err
    again = command(*arguments, "--force", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)[0]["reused"] >= 1
    after = {path.name: path.stat().st_mtime_ns for path in products_of(tmp_path / "out")}
    assert after["KiDS_DR4.0_10_9.h5"] == before["KiDS_DR4.0_10_9.h5"], "not touched"
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    assert (
        len(set(ledger["id"]))
        == len(ledger["id"])
        == read_index(tmp_path / "out")["counts"]["planned"]
    )


def test_a_part_of_a_tile_never_has_another_tiles_name(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_UNIT_BYTES", 0)  # 64 targets a unit
    sky = tmp_path / "tiles"
    for name, ra in {"10_0": 10.0, "10_0-001": 10.1}.items():
        images = {band: sky_YX(SHAPE_YX, [], n) for n, band in enumerate("gri")}
        write_kids_tile(sky, name, images, tan_wcs(ra, 0.0, SHAPE_YX))
    near = np.random.default_rng(1).uniform(-0.001, 0.001, (2, 100))
    ids = write_targets(tmp_path / "t.csv", [*(10.0 + near[0]), 10.1], [*near[1], 0.0])
    arguments = ["cutout", sky, "--size", 21, "--engine", "serial", "-o", tmp_path / "out"]
    for _ in range(2):
        said = command(*arguments, "--catalog", tmp_path / "t.csv")
        assert said.code == 0, said.err
        assert check_ledger(tmp_path / "out", ids) == {"ok": 101}
    names = sorted(path.stem for path in products_of(tmp_path / "out"))
    assert names == [f"KiDS_DR4.0_10_0-{rest}" for rest in ("-001", "-002", "001")]


@pytest.mark.fault
def test_an_image_larger_than_its_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "KiDS_DR4.0_1_0_r_sci.fits.fz"
    header = tan_wcs(shape_YX=(64, 64)).to_header()
    fits.CompImageHDU(np.zeros((64, 64), np.int16), header).writeto(path)
    with fits.open(path, mode="update", disable_image_compression=True) as hdus:
        hdus[1].header["ZNAXIS1"], hdus[1].header["ZNAXIS2"] = 50_000, 400_000
    kids = survey.load("kids")
    (files,) = tiles.find([path], kids, ("r",))
    with pytest.raises(UnitError) as caught, tiles.open_tile(files, kids, ("r",)):
        pass
    assert caught.value.reason == "damaged"
    assert "declares 50000 x 400000 pixels in" in caught.value.what


def test_a_compressed_image_cut_off_within_its_last_block_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "KiDS_DR4.0_1_0_r_sci.fits.fz"
    image = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    fits.CompImageHDU(image, tan_wcs(shape_YX=(64, 64)).to_header()).writeto(path)
    with fits.open(path, disable_image_compression=True) as hdus:
        end = hdus[1].fileinfo()["datLoc"] + hdus[1].size
    kids = survey.load("kids")
    for length, sound in ((end, True), (end - 1, False)):
        os.truncate(path, length)  # the padding alone may be missing
        (files,) = tiles.find([path], kids, ("r",))
        if sound:
            with tiles.open_tile(files, kids, ("r",)) as tile:
                assert tile.shape_YX == (64, 64)
            continue
        with pytest.raises(UnitError) as caught, tiles.open_tile(files, kids, ("r",)):
            pass
        assert caught.value.reason == "truncated"


def test_a_gzipped_image_that_no_such_file_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "KiDS_DR4.0_1_0_r_sci.fits.gz"
    raw = io.BytesIO()
    fits.PrimaryHDU(np.zeros((64, 64)), tan_wcs(shape_YX=(64, 64)).to_header()).writeto(raw)
    card = b"NAXIS2  =                   64"
    enormous = raw.getvalue().replace(card, card[:-11] + b"36000000000")
    path.write_bytes(gzip.compress(enormous))
    kids = survey.load("kids")
    (files,) = tiles.find([path], kids, ("r",))
    with pytest.raises(UnitError) as caught, tiles.open_tile(files, kids, ("r",)):
        pass
    assert caught.value.reason == "truncated"


def exposure(folder: Path, chips: dict[str, float], *, compressed: bool = False) -> None:
    """Write an exposure with a CCD in each extension, as the DECam Community Pipeline does."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("ooi", "oow", "ood"):
        hdus: list[Any] = [fits.PrimaryHDU()]
        hdus[0].header["MAGZERO"] = 30.0
        for number, (name, ra) in enumerate(chips.items()):
            header = tan_wcs(ra, 0.0, SHAPE_YX, scale_arcsec=0.2637).to_header()
            image = {
                "ooi": sky_YX(SHAPE_YX, [(40, 40)], number) * 1e12,
                "oow": np.ones(SHAPE_YX),
                "ood": np.zeros(SHAPE_YX, np.int32),
            }[kind]
            if kind != "ood":
                image = image.astype(np.float32)
            make = fits.CompImageHDU if compressed else fits.ImageHDU
            hdus.append(make(image, header, name=name))
        suffix = "fits.fz" if compressed else "fits"
        fits.HDUList(hdus).writeto(folder / f"c4d_170316_062107_{kind}_r_v1.{suffix}")


def cut_each(folder: Path, chips: dict[str, float], command: Command) -> list[str]:
    """Cut a target out of the middle of each CCD of `exposure`; return the targets' ids."""
    ids = write_targets(folder / "t.csv", list(chips.values()), [0.0] * len(chips))
    said = command(
        "cutout", folder / "tiles", "--survey", "decam", "--bands", "r", "--size", 21,
        "--engine", "serial", "--catalog", folder / "t.csv", "-o", folder / "out",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert check_ledger(folder / "out", ids) == {"ok": len(chips)}
    return ids


def test_ccds_may_be_called_by_numbers_that_are_not_theirs(
    tmp_path: Path, command: Command
) -> None:
    chips = {"2": 10.0, "3": 10.01, "4": 10.02}
    exposure(tmp_path / "tiles", chips)
    cut_each(tmp_path, chips, command)


@pytest.mark.parametrize("compressed", [False, True])
def test_each_ccd_of_an_exposure_is_a_tile(
    tmp_path: Path, command: Command, compressed: bool
) -> None:
    chips = {"S29": 10.0, "S30": 10.01, "N1": 10.02}
    exposure(tmp_path / "tiles", chips, compressed=compressed)
    ids = cut_each(tmp_path, chips, command)
    seen = {}
    for product in products_of(tmp_path / "out"):
        with shards.read(product) as shard:
            seen[shard.catalog["tile"][0]] = (shard.catalog["id"][0], shard.image[0, 0])
    assert set(seen) == {f"c4d_170316_062107.{chip}" for chip in chips}
    for number, chip in enumerate(chips):
        name, image = seen[f"c4d_170316_062107.{chip}"]
        assert name == ids[number]
        stored = (sky_YX(SHAPE_YX, [(40, 40)], number) * 1e12)[30:51, 30:51]
        scatter = 1e-2 if not compressed else 5.0
        # The target lies in the middle, between pixels 39 and 40.
        tolerance = scatter * 10 ** (1.4 / 2.5)
        shifts = [
            abs(image - np.roll(stored, (-dy, -dx), (0, 1)) * 10 ** (1.4 / 2.5))[3:-3, 3:-3].max()
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        assert min(shifts) < tolerance


@pytest.mark.fault
def test_a_damaged_exposure_fails_as_one_and_a_damaged_ccd_alone(
    tmp_path: Path, command: Command
) -> None:
    sky = tmp_path / "tiles"
    exposure(sky, {"S29": 10.0, "S30": 10.01})
    with fits.open(sky / "c4d_170316_062107_ood_r_v1.fits", mode="update") as hdus:
        del hdus["S30"]
    ids = write_targets(tmp_path / "t.csv", [10.0, 10.01], [0.0] * 2)
    arguments = [
        "cutout", sky, "--survey", "decam", "--bands", "r", "--size", 21, "--engine", "serial",
        "--catalog", tmp_path / "t.csv",
    ]  # fmt: skip
    said = command(*arguments, "-o", tmp_path / "one")
    assert said.code == 3
    assert check_ledger(tmp_path / "one", ids) == {"ok": 1, "failed": 1}
    (sky / "c4d_170316_062107_ooi_r_v1.fits").write_text("<html>")
    said = command(*arguments, "-o", tmp_path / "all")
    assert said.code == 2
    assert "[unreadable]" in said.err


@pytest.mark.fault
def test_several_images_in_one_file_are_not_guessed_between(tmp_path: Path) -> None:
    exposure(tmp_path, {"S29": 10.0, "S30": 10.01})
    decam = survey.load("decam")
    plain = decam.model_copy(update={"files": decam.files.model_copy(update={"chips": False})})
    (files,) = tiles.find([tmp_path], plain, ("r",))
    with pytest.raises(UnitError, match=r"chips = true") as caught:
        with tiles.open_tile(files, plain, ("r",)):
            pass
    assert caught.value.reason == "ambiguous_image"
