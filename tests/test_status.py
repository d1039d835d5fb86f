"""Laws of status: what became of each object, and no damage unseen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from skies import sky_YX, tan_wcs, write_kids_tile, write_targets

from lensfinder.ledger import products_of
from lensfinder.runs import process

Command = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, command: Command) -> Path:
    """Cut one tile: an object inside, one at the edge, one in the corner."""
    wcs = tan_wcs(10.0, 0.0, (70, 70))
    images = {band: sky_YX((70, 70), [(30.0, 30.0)], seed) for seed, band in enumerate("gri")}
    write_kids_tile(tmp_path / "tiles", "10_0", images, wcs)
    write_targets(tmp_path / "t.csv", *wcs.all_pix2world([30.0, 30, 0], [30.0, 5, 0], 0))
    made = command(
        "cutout", tmp_path / "tiles", "--catalog", tmp_path / "t.csv", "--size", 21,
        "--engine", "serial", "-o", tmp_path / "cutouts",
    )  # fmt: skip
    assert made.code == 0, made.err
    return tmp_path / "cutouts"


def test_it_tells_what_became_of_each_object(run: Path, command: Command) -> None:
    told = [command("status", run, "--id", name).out.strip() for name in ("t000", "t001", "t002")]
    assert told == [
        "cutouts: ok, in KiDS_DR4.0_10_0",
        "cutouts: flagged (edge+masked), in KiDS_DR4.0_10_0",
        "cutouts: rejected (masked), in KiDS_DR4.0_10_0",
    ]
    # The folder above knows its stages.
    assert command("status", run.parent, "--id", "t000").out.strip() == told[0]
    unknown = command("status", run, "--id", "nobody\x1b[31m")
    assert unknown.code == 2
    assert "\x1b" not in unknown.err


def test_counts_are_told_in_words_and_as_json(run: Path, command: Command) -> None:
    assert (
        "finished, 1 product; 3 planned, 1 ok, 1 flagged, 1 rejected" in command("status", run).out
    )
    about = json.loads(command("status", run, "--json").out)["cutouts"]
    assert about["counts"] == {"planned": 3, "ok": 1, "flagged": 1, "rejected": 1, "failed": 0}
    assert about["stage"] == "cutout"


def test_one_flipped_bit_is_found(run: Path, command: Command) -> None:
    assert command("status", run, "--deep").code == 0
    (product,) = products_of(run)
    content = bytearray(product.read_bytes())
    # A byte in the middle of the pixels: the file opens, and nothing else is wrong with it.
    content[len(content) // 2] ^= 1
    product.write_bytes(content)
    assert command("status", run, "--verify").code == 0
    deep = command("status", run, "--deep")
    assert deep.code == 4
    assert f"damaged: products/{product.name}" in deep.out


@pytest.mark.parametrize("how", ["gone", "short"])
def test_a_damaged_product_is_found_and_made_again(run: Path, command: Command, how: str) -> None:
    (product,) = products_of(run)
    whole = product.read_bytes()
    if how == "gone":
        product.unlink()
    else:
        product.write_bytes(whole[:-100])
    assert command("status", run, "--verify").code == 4
    sky = run.parent
    command(
        "cutout",
        sky / "tiles",
        "--catalog",
        sky / "t.csv",
        "--size",
        21,
        "--engine",
        "serial",
        "-o",
        run,
    )
    assert command("status", run, "--deep").code == 0


def test_clean_sweeps_what_no_plan_has(run: Path, command: Command) -> None:
    (run / "products" / ".x.h5.0123.tmp").write_text("half")
    (run / "products" / "old.h5").write_text("of a tile no longer asked for")
    assert "1 temporary file, 1 unlisted product" in command("status", run).out
    assert "removed 1 temporary file and 1 unlisted" in command("status", run, "--clean").out
    assert [path.name for path in (run / "products").iterdir()] == ["KiDS_DR4.0_10_0.h5"]
    assert command("status", run, "--deep").code == 0


def test_nothing_is_swept_from_under_a_run_at_work(run: Path, command: Command) -> None:
    temporary = run / "products" / ".T.h5.0123456789ab.tmp"
    temporary.write_bytes(b"half a product")
    announced = json.loads((run / "run.json").read_text())
    announced["process"] = process(os.getppid())  # lives as long as this test
    (run / "run.json").write_text(json.dumps(announced))
    said = command("status", run, "--clean")
    assert said.code == 2
    assert "at work" in said.err
    assert temporary.exists()
    announced["process"]["started"] -= 1  # an earlier process that had its number
    (run / "run.json").write_text(json.dumps(announced))
    assert command("status", run, "--clean").code == 0
    assert not temporary.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": "../evil"}', None])
def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, command: Command, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    said = command("status", tmp_path)
    assert said.code == 2
    assert "Traceback" not in said.err


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_index_is_told(run: Path, command: Command, content: str) -> None:
    (run / "index.json").write_text(content)
    said = command("status", run)
    assert said.code == 2
    assert "index.json can't be read" in said.err


def test_a_damaged_record_of_a_failure_is_told(
    run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "failures").mkdir(exist_ok=True)
    (run / "failures" / "x.json").write_text("")
    monkeypatch.chdir(run)
    said = command("status", ".")
    assert said.code == 3
    assert f"{run.name}: finished" in said.out
    assert "failed: x [unknown]" in said.out
