"""Laws of provenance: what stands in a product is enough to make it again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from faults.kills import differs, final_names
from skies import sky_YX, tan_wcs, write_kids_tile, write_targets

from lensfinder import __version__, checkpoint, shards, tables

Command = Callable[..., Any]
SIZE = 25


class Made(NamedTuple):
    """A chain of stages, each in a folder, and one product of each."""

    folder: Path
    products: dict[str, Path]


@pytest.fixture
def made(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Run each stage by a command with relative paths, some keys set and others not."""
    folder = tmp_path / "here"
    wcs = tan_wcs(10.0, 0.0, (150, 150))
    images = {band: sky_YX((150, 150), [], seed) for seed, band in enumerate("gri")}
    write_kids_tile(folder / "tiles", "10_0", images, wcs)
    xy = np.random.default_rng(0).uniform(14, 135, (12, 2))
    write_targets(folder / "targets.csv", *wcs.all_pix2world(xy, 0).T)
    monkeypatch.chdir(folder)
    (folder / "p.toml").write_text("[cutout]\nmax_bad_fraction = 0.4\n")
    calls = [
        f"cutout tiles -o cutout --catalog targets.csv --size {SIZE} --config p.toml",
        # The recipe says what nobody asked for: survey, band and size.
        "simulate -o simulate -n 128 --unit-size 64 --population lanusse2018 --seed 7",
        f"simulate -o mocks -n 192 --unit-size 192 --size {SIZE} --val-fraction 0.3",
        "train mocks -o train --epochs 1 --batch-size 32 --set train.rotation_deg=10",
        "infer cutout -o infer --model train",
        "report infer-mocks -o report --sky infer",
    ]
    for call in calls:
        if call.startswith("report"):
            mocks = ["infer", "mocks", "-o", "infer-mocks", "--model", "train"]
            assert command(*mocks, "--engine", "serial", "-q").code == 0
        done = command(*call.split(), "--engine", "serial", "-q")
        assert done.code == 0, done.err
    return Made(
        folder,
        {
            "cutout": next(Path("cutout/products").glob("*.h5")),
            "simulate": next(Path("simulate/products").glob("*.h5")),
            "train": Path("train/products/model.safetensors"),
            "infer": next(Path("infer/products").glob("*.parquet")),
            "report": Path("report/report.json"),
        },
    )


def stored_in(product: Path) -> dict[str, Any]:
    if product.suffix == ".h5":
        with shards.read(product) as shard:
            return {**shard.header.provenance, "ingredients": shard.header.ingredients}
    if product.suffix == ".parquet":
        found = tables.read_metadata(product) or {}
        return {**found["provenance"], "ingredients": found["ingredients"]}
    if product.suffix == ".safetensors":
        return dict(checkpoint.read_header(product)["provenance"])
    report = json.loads(product.read_text())
    return {**report["provenance"], "ingredients": report["ingredients"]}


def test_every_product_says_how_it_was_made_and_can_be_made_again(
    made: Made, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage, product in made.products.items():
        told = stored_in(product)
        assert told["command"].startswith(f"lensfinder {stage} ")
        assert told["versions"]["lensfinder"] == __version__
        assert {"numpy", "torch", "python"} <= told["versions"].keys()
        assert told["seed"] == told["config"]["run"]["seed"] == (7 if stage == "simulate" else 1)
        assert stage in told["config"]
        # What its inputs were, by their content.
        assert re.search("[0-9a-f]{64}", json.dumps(told["ingredients"])) or stage == "simulate"
    # From anywhere else, by the product alone.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for stage, product in made.products.items():
        done = command("run", made.folder / product, "-o", stage, "--engine", "serial", "-q")
        assert done.code == 0, done.err
        clean, again = (final_names(folder / stage) for folder in (made.folder, elsewhere))
        assert clean.keys() == again.keys()
        wrong = [said for name in clean if (said := differs(again[name], clean[name]))]
        assert not wrong, wrong
    # By the folder, too, and with another key.
    done = command("run", made.folder / "cutout", "-o", "other", "--engine", "serial", "-q",
                   "--set", "cutout.size=31")  # fmt: skip
    assert done.code == 0, done.err
    with shards.read(next(Path("other/products").glob("*.h5"))) as shard:
        assert shard.image.shape[-1] == 31
        assert shard.header.ingredients["cutout"]["max_bad_fraction"] == 0.4


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", "{}"), ("run.json", "[1]"), ("a.json", "{"), ("a.parquet", "x"), ("a.xyz", "")],
)
def test_what_does_not_say_how_it_was_made_is_refused(
    tmp_path: Path, command: Command, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    done = command("run", tmp_path / name, "-o", tmp_path / "out")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert command("run", tmp_path / "none.h5").code == 2


def test_no_secret_of_the_environment_gets_into_a_product(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hunter2-7f3a9c"
    for name in ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PGPASSWORD", "LENSFINDER_ANYTHING"):
        monkeypatch.setenv(name, secret)
    done = command("simulate", "-n", 64, "--unit-size", 64, "--size", SIZE, "--engine", "serial",
                   "-o", tmp_path / "out")  # fmt: skip
    assert done.code == 0, done.err
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        assert secret.encode() not in path.read_bytes(), path
    assert secret not in done.out + done.err
