"""Laws of stamps that others have cut: each object ends once, in its own units, with its label."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from skies import tan_wcs

from lensfinder import schema, shards, tables
from lensfinder.errors import RequestError
from lensfinder.ledger import products_of, read_index

Command = Callable[..., Any]
RNG = np.random.default_rng(4)


def bologna(folder: Path, n: int = 4, size: int = 31) -> np.ndarray:
    """Write objects 100001… of four bands in the challenge's layout; return their pixels."""
    pixels = RNG.normal(size=(n, 4, size, size)).astype(np.float32) * 1e-11
    pixels[1, 2, 3:5, 4:9] = 100  # masked
    for c, band in enumerate("UGRI"):
        path = folder / f"Band{c + 1}"
        path.mkdir(parents=True, exist_ok=True)
        for k in range(n):
            fits.writeto(path / f"imageSDSS_{band}-{100001 + k}.fits", pixels[k, c])
    rows = [f"{100001 + k},{k % 2},0.5" for k in range(n - 1)]
    (folder / "classifications.csv").write_text("\n".join(["ID,is_lens,Einstein_area", *rows]))
    return pixels


def read_only(folder: Path) -> dict[str, Any]:
    (product,) = products_of(folder, "cutout")
    with shards.read(product) as shard:
        return {
            "header": shard.header,
            "image": shard.image[:],
            "mask": shard.mask[:],
            **shard.catalog,
        }


def test_the_challenges_layout_becomes_an_ordinary_shard(tmp_path: Path, command: Command) -> None:
    pixels = bologna(tmp_path / "in")
    said = command(
        "cutout", tmp_path / "in", "--survey", "bologna_ground", "--size", 31, "--engine", "serial",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 0, said.err
    shard = read_only(tmp_path / "out")
    assert shard["id"].tolist() == ["100001", "100002", "100003", "100004"]
    assert shard["label"].tolist() == [0, 1, 0, schema.UNKNOWN]
    masked = pixels == 100
    assert np.array_equal(shard["mask"], np.where(masked, schema.MASK_NO_DATA, 0))
    njy = np.where(masked, np.nan, pixels * 10 ** (31.4 / 2.5))
    np.testing.assert_allclose(shard["image"], njy, rtol=1e-6)
    assert np.isnan(shard["ra"]).all()
    assert not shard["header"].stretched
    assert shard["psf_fwhm_r_arcsec"] == pytest.approx(0.7)


@pytest.mark.fault
def test_damaged_stamps_are_rejected_and_the_others_come_through(
    tmp_path: Path, command: Command
) -> None:
    bologna(tmp_path / "in")
    red = tmp_path / "in" / "Band3"
    (red / "imageSDSS_R-100001.fits").write_text("<html>")
    (red / "imageSDSS_R-100002.fits").unlink()
    fits.writeto(red / "imageSDSS_R-100003.fits", np.ones((9, 9), np.float32), overwrite=True)
    said = command(
        "cutout", tmp_path / "in", "--survey", "bologna_ground", "--size", 31, "--engine", "serial",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 3, said.err
    assert "damaged: 3 stamps can't be read: 100001 [unreadable], 100002 [missing_band]" in said.out
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    ended = dict(zip(ledger["id"], zip(ledger["outcome"], ledger["reason"], strict=True), strict=1))
    assert ended == {
        "100001": ("rejected", "unreadable"),
        "100002": ("rejected", "missing_band"),
        "100003": ("rejected", "unequal_size"),
        "100004": ("ok", ""),
    }


def test_stamps_of_another_size_are_cropped_or_padded_about_their_middle(
    tmp_path: Path, command: Command
) -> None:
    pixels = bologna(tmp_path / "in", 2)
    images = {}
    for size in (9, 41):
        out = tmp_path / str(size)
        said = command(
            "cutout", tmp_path / "in", "--survey", "bologna_ground", "--size", size,
            "--engine", "serial", "-o", out,
        )  # fmt: skip
        assert said.code == 0, said.err
        images[size] = read_only(out)
    njy = np.float32(10 ** (31.4 / 2.5))
    np.testing.assert_allclose(images[9]["image"][0], pixels[0, :, 11:20, 11:20] * njy, rtol=1e-6)
    np.testing.assert_allclose(images[41]["image"][0, :, 5:36, 5:36], pixels[0] * njy, rtol=1e-6)
    assert np.isnan(images[41]["image"][0, :, :5]).all()
    assert images[41]["flags"][0] & schema.FLAG_EDGE


PICTURES = """
name = "pictures"
title = ""
source = ""
stamps = true
stretched = true
pixel_scale_arcsec = 0.2
bands = ["g", "r", "i"]
default_bands = ["g", "r", "i"]
reference_band = "r"
psf_fwhm_arcsec = { g = 0.8, r = 0.8, i = 0.8 }
sky_rms_njy = { g = 1.0, r = 1.0, i = 1.0 }
[files]
pattern = '(?P<tile>.+)\\.fits(\\.gz)?'
cube = ["g", "r", "i"]
[zero_point]
value = 31.4
"""


def test_eight_bit_composites_are_marked_as_stretched(tmp_path: Path, command: Command) -> None:
    (tmp_path / "own.toml").write_text(PICTURES)
    folder = tmp_path / "in"
    folder.mkdir()
    cube = RNG.integers(0, 256, (3, 31, 31), dtype=np.uint8)
    header = tan_wcs(30.0, -9.0, (31, 31)).to_header()
    fits.PrimaryHDU(cube, header).writeto(tmp_path / "plain.fits")
    (folder / "a b.fits.gz").write_bytes(gzip.compress((tmp_path / "plain.fits").read_bytes()))
    said = command(
        "cutout", folder, "--survey", tmp_path / "own.toml", "--size", 31, "--engine", "serial",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 0, said.err
    shard = read_only(tmp_path / "out")
    assert shard["header"].stretched
    assert np.array_equal(shard["image"][0], cube)
    assert [shard["ra"][0], shard["dec"][0]] == pytest.approx([30.0, -9.0], abs=1e-6)


def test_stamps_of_another_pixel_scale_are_told_by_their_wcs(
    tmp_path: Path, command: Command
) -> None:
    (tmp_path / "own.toml").write_text(PICTURES)
    folder = tmp_path / "in"
    folder.mkdir()
    cube = RNG.integers(0, 256, (3, 31, 31), dtype=np.uint8)
    places = {"right": (30.0, 0.2), "coarse": (30.0, 0.263), "simulated": (0.0, 0.263)}
    for name, (ra, scale_arcsec) in places.items():
        wcs = tan_wcs(ra, -9.0 if ra else 0.0, (31, 31), scale_arcsec=scale_arcsec)
        fits.PrimaryHDU(cube, wcs.to_header()).writeto(folder / f"{name}.fits")
    said = command(
        "cutout", folder, "--survey", tmp_path / "own.toml", "--size", 31, "--engine", "serial",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 3, said.err
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    ended = dict(zip(ledger["id"], ledger["reason"], strict=True))
    assert ended == {"right": "", "coarse": "pixel_scale", "simulated": ""}


def test_bands_of_a_stamp_lie_on_one_grid(tmp_path: Path, command: Command) -> None:
    bologna(tmp_path / "in", n=4)
    for number in range(4):
        for c, band in enumerate("UGRI"):
            wcs = tan_wcs(30.0, -9.0, (31, 31), scale_arcsec=0.2)
            if number == 1 and band == "R":
                wcs.wcs.crpix = np.add(wcs.wcs.crpix, [6, 0])
            if number == 2 and band == "I":
                wcs = tan_wcs(30.0, -9.0, (31, 31), scale_arcsec=0.4)
            if number == 3 and band == "G":
                wcs = tan_wcs(0.0, 0.0, (31, 31), scale_arcsec=0.4)  # says nothing
            path = tmp_path / "in" / f"Band{c + 1}" / f"imageSDSS_{band}-{100001 + number}.fits"
            fits.writeto(path, fits.getdata(path), wcs.to_header(), overwrite=True)
    said = command(
        "cutout", tmp_path / "in", "--survey", "bologna_ground", "--size", 31, "--engine", "serial",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 3, said.err
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    ended = dict(zip(ledger["id"], ledger["reason"], strict=True))
    assert ended == {
        "100001": "", "100002": "unequal_grid", "100003": "pixel_scale", "100004": ""
    }  # fmt: skip


def test_stamps_of_ones_own_are_trained_on_by_their_split(tmp_path: Path, command: Command) -> None:
    bologna(tmp_path / "in", n=60)
    labels = tmp_path / "in" / "classifications.csv"
    names = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    rows = [f"{100001 + k},{k % 2},{split}" for k, split in enumerate(names)]
    cut = ["cutout", tmp_path / "in", "--survey", "bologna_ground", "--size", 31, "--bands", "r"]
    train = ["train", tmp_path / "out", "-o", tmp_path / "model", "--epochs", 1, "--batch-size", 10]
    # Without splits nobody knows what may be learnt from.
    labels.write_text("\n".join(["ID,is_lens", *(row.rpartition(",")[0] for row in rows)]))
    assert command(*cut, "--engine", "serial", "-o", tmp_path / "out").code == 0
    said = command(*train)
    assert said.code == 2
    assert "60 labelled stamps of" in said.err
    assert "column `split` of its classifications.csv" in said.err
    labels.write_text("\n".join(["ID,is_lens,split", *rows]))
    assert command(*cut, "--engine", "serial", "-o", tmp_path / "out", "--force").code == 0
    assert read_only(tmp_path / "out")["split"].tolist() == names
    assert command(*train).code == 0
    scores = ["infer", tmp_path / "out", "--model", tmp_path / "model", "--engine", "serial"]
    said = command(*scores, "-o", tmp_path / "scores")
    assert said.code == 0, said.err
    assert "10 objects scored; best first in" in said.out
    # What the model scored is no shard to train on.
    said = command("train", tmp_path / "scores", "-o", tmp_path / "no")
    assert "was written by infer; expected a folder of simulate or cutout" in said.err
    labels.write_text("\n".join(["ID,is_lens,split", *(r.replace("test", "val") for r in rows)]))
    assert command(*cut, "--engine", "serial", "-o", tmp_path / "out", "--force").code == 0
    said = command(*scores, "-o", tmp_path / "none")
    assert said.code == 2
    assert "is of the split test; expected stamps to score. Add --splits" in said.err


def test_what_most_stamps_were_rejected_for_is_said(tmp_path: Path, command: Command) -> None:
    bologna(tmp_path / "in")
    said = command(
        "cutout", tmp_path / "in", "--survey", "bologna_ground", "--size", 61, "--engine", "serial",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert "rejected: 4 " in said.out
    assert "lies beyond the edge of a tile or a stamp (--size, --max-bad-fraction)" in said.out


def write_picture(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    options = {} if path.suffix == ".png" else {"quality": 100, "subsampling": 0}
    Image.fromarray(pixels).save(path, **options)


def test_pictures_are_cubes_of_their_colours_and_marked_as_stretched(
    tmp_path: Path, command: Command
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = RNG.integers(0, 256, (31, 31, 3), dtype=np.uint8)
    smooth = np.full((31, 31, 3), [200, 120, 40], np.uint8)
    smooth[20:, :5] = 255
    write_picture(folder / "a.png", pixels)
    write_picture(folder / "b.jpg", smooth)
    write_picture(folder / "grey.png", pixels[..., 0])
    (folder / "html.jpeg").write_text("<html>")
    whole = (folder / "a.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    said = command(
        "cutout", folder, "--survey", "legacy_jpeg", "--size", 31, "--engine", "serial",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 3, said.err
    assert "damaged: 3 stamps can't be read" in said.out
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    ended = dict(zip(ledger["id"], ledger["reason"], strict=True))
    assert ended == {
        "a": "", "b": "", "grey": "no_image", "half": "unreadable", "html": "unreadable",
    }  # fmt: skip
    shard = read_only(tmp_path / "out")
    assert shard["header"].stretched
    # The picture's first row is the top one; red, green and blue are z, r and g.
    njy = np.float32(10 ** ((31.4 - 22.5) / 2.5))
    for c, colour in enumerate((2, 1, 0)):
        np.testing.assert_allclose(shard["image"][0, c], pixels[::-1, :, colour] * njy, rtol=1e-6)
        assert abs(shard["image"][1, c] / njy - smooth[::-1, :, colour]).max() <= 12
    # Fluxes are wanted elsewhere.
    said = command("check", folder, "--survey", "legacy_jpeg", "--json")
    assert said.code == 3
    found = json.loads(said.out)
    assert found["stamps"] == "ok, 2 of 31 x 31 pixels in g,r,z, 0 with labels, stretched pictures"
    assert set(found) == {"stamps", "grey", "half", "html"}
    own = PICTURES.replace("stretched = true", "").replace("\\.fits(\\.gz)?", "\\.png")
    (tmp_path / "own.toml").write_text(own)
    said = command("check", folder / "a.png", "--survey", tmp_path / "own.toml")
    assert said.code == 2
    assert "[stretched]" in said.out


def test_a_folder_of_stamps_is_checked_in_a_line(tmp_path: Path, command: Command) -> None:
    bologna(tmp_path / "in")
    (tmp_path / "in" / "Band3" / "imageSDSS_R-100002.fits").unlink()
    said = command("check", tmp_path / "in", "--survey", "bologna_ground", "--json")
    assert said.code == 3
    found = json.loads(said.out)
    assert found["stamps"] == "ok, 3 of 31 x 31 pixels in u,g,r,i, 3 with labels"
    assert found["100002"].startswith("would be rejected [missing_band]")


@pytest.mark.parametrize(
    "text",
    [
        *("ID,flux\n1,2\n", "ID,is_lens\n1,2\n", "x,is_lens\n1,1\n", ""),
        *("ID,is_lens\n1,yes\n", "ID,is_lens,split\n1,1,trian\n"),
    ],
)
def test_labels_that_say_nothing_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classifications.csv").write_text(text)
    with pytest.raises(RequestError):
        tables.read_labels(tmp_path / "classifications.csv")


@pytest.mark.real
@pytest.mark.parametrize(("track", "bands"), [("ground", 4), ("space", 1)])
def test_real_stamps_of_the_challenge(
    real_data: Path, tmp_path: Path, command: Command, track: str, bands: int
) -> None:
    folder = real_data / "labelled" / "bologna_lfc1" / f"{track}_based"
    said = command(
        "cutout", folder, "--survey", f"bologna_{track}", "--size", 101, "--engine", "serial",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert said.code == 0, said.err
    counts = read_index(tmp_path / "out")["counts"]
    assert counts["planned"] == counts["ok"] + counts["flagged"] + counts["rejected"] > 10
    shard = read_only(tmp_path / "out")
    assert shard["image"].shape[1:] == (bands, 101, 101)
    assert counts["ok"] >= 10
