"""The chain as a whole: interrupted, repeated and changed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from lensfinder import config, tables
from lensfinder import pipeline as pipeline_of

LOGIT_TOLERANCE = 1e-4

PIPELINE = """
[run]
survey = "kids"
[cutout]
tiles = "{root}/sample_data/tiles"
catalog = "{root}/sample_data/targets.csv"
size = 41
[simulate]
count = 768
unit_size = 256
val_fraction = 0.2
test_fraction = 0.3
[train]
epochs = 2
batch_size = 32
save_every_s = 1
"""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "small.toml"
    path.write_text(PIPELINE.format(root=request.config.rootpath))
    return path


@pytest.fixture(scope="module")
def whole(pipeline: Path) -> tuple[Path, float]:
    """Run the chain without a break; return its folder and how long it took."""
    folder = pipeline.parent / "whole"
    started = time.monotonic()
    subprocess.run(command(pipeline, folder), check=True, capture_output=True)
    return folder, time.monotonic() - started


def command(pipeline: Path, folder: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "lensfinder", "run", str(pipeline), "-o", str(folder)]


def assert_equal_products(one: Path, other: Path) -> None:
    """Compare datasets, not files: bytes for pixels and truth, a tolerance for logits."""

    def products(folder: Path) -> set[Path]:
        return {
            path.relative_to(folder)
            for suffix in ("h5", "parquet", "json")
            for path in folder.rglob(f"*.{suffix}")
            if not path.name.startswith(".")
        }

    assert products(one) == products(other)
    for name in products(one):
        if name.suffix == ".h5":
            assert_equal_shards(one / name, other / name)
        elif name.suffix == ".parquet":
            assert_equal_tables(one / name, other / name)
    reports = [json.loads((f / "report" / "report.json").read_text()) for f in (one, other)]
    for name in ("metrics", "operating", "kinds", "completeness"):
        assert reports[0][name] == reports[1][name]


def assert_equal_shards(one: Path, other: Path) -> None:
    with h5py.File(one) as a, h5py.File(other) as b:
        names: list[str] = []
        a.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else 0)
        for name in names:
            if name in ("provenance", "ingredients"):  # hold the command and folder names
                continue
            np.testing.assert_array_equal(a[name][()], b[name][()], err_msg=f"{one.name}/{name}")


def assert_equal_tables(one: Path, other: Path) -> None:
    a, b = tables.read_columns(one), tables.read_columns(other)
    assert a.keys() == b.keys()
    for name, values in a.items():
        if name in ("logit", "score"):
            np.testing.assert_allclose(values, b[name], atol=LOGIT_TOLERANCE)
        else:
            np.testing.assert_array_equal(values, b[name], err_msg=f"{one.name}/{name}")


@pytest.mark.fault
def test_killed_at_random_it_ends_like_an_uninterrupted_run(
    pipeline: Path, whole: tuple[Path, float], request: pytest.FixtureRequest
) -> None:
    folder, seconds = pipeline.parent / "killed", whole[1]
    rng = random.Random(request.config.getoption("--kill-seed"))
    kills = 0
    while kills < request.config.getoption("--kills"):
        # Moments of the whole run, whatever of it is already done.
        process = subprocess.Popen(
            command(pipeline, folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(rng.uniform(0.5, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            # Done before the blow fell: there is nothing left to kill but a new run.
            assert_equal_products(whole[0], folder)
            shutil.rmtree(folder)
    subprocess.run(command(pipeline, folder), check=True, capture_output=True)
    assert_equal_products(whole[0], folder)


def test_a_second_run_does_nothing_again(
    pipeline: Path, whole: tuple[Path, float], lensfinder: Command
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("products/*")}
    again = lensfinder("run", pipeline, "-o", whole[0], "--json")
    assert again.returncode == 0
    assert all(stage["done"] == 0 and stage["reused"] > 0 for stage in json.loads(again.stdout))
    assert before == {path: path.stat().st_mtime_ns for path in whole[0].rglob("products/*")}


def test_a_changed_key_is_named_and_nothing_is_reused(
    pipeline: Path, whole: tuple[Path, float], lensfinder: Command
) -> None:
    changed = lensfinder("run", pipeline, "-o", whole[0], "--set", "cutout.size=39")
    assert changed.returncode == 4
    assert "cutout.size: 41 → 39" in changed.stderr


def test_interrupted_it_exits_with_75_and_goes_on(
    pipeline: Path, whole: tuple[Path, float]
) -> None:
    folder = pipeline.parent / "stopped"
    process = subprocess.Popen(
        command(pipeline, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, said = process.communicate(timeout=whole[1] / 2)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 75, said
    assert "SIGTERM" in said
    assert "Traceback" not in said
    subprocess.run(command(pipeline, folder), check=True, capture_output=True)
    assert_equal_products(whole[0], folder)


@pytest.mark.fault
def test_a_terminals_interrupt_ends_all_processes_in_one_sentence(tmp_path: Path) -> None:
    arguments = ["-o", str(tmp_path), "-n", "65536", "--size", "41"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "lensfinder", "simulate", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 75
    assert said == "lensfinder: stopped by SIGINT. Run the same command to go on.\n"


def test_what_became_of_an_object(
    whole: tuple[Path, float], lensfinder: Command, root: Path
) -> None:
    name = tables.read_catalog(root / "sample_data" / "lenses.csv")["id"][0]
    told = lensfinder("status", whole[0], "--id", name)
    assert told.returncode == 0
    assert told.stdout.startswith("cutout: ")
    assert "infer-sky: " in told.stdout
    assert lensfinder("status", whole[0], "--deep").returncode == 0
    assert lensfinder("status", whole[0], "--id", "nobody").returncode == 2


def test_a_dry_run_names_every_stage(pipeline: Path, tmp_path: Path, lensfinder: Command) -> None:
    said = lensfinder("run", pipeline, "-o", tmp_path / "out", "--dry-run")
    assert said.returncode == 0, said.stderr
    first, *others = said.stdout.splitlines()
    assert "to do" in first
    assert others
    assert all("planned from what comes before it" in line for line in others)
    assert not (tmp_path / "out").exists()


def test_check_looks_at_all_of_a_pipeline(pipeline: Path, lensfinder: Command) -> None:
    checked = lensfinder("check", pipeline)
    assert checked.returncode == 0, checked.stderr
    assert "simulate → train → infer-mocks → infer-sky → report" in checked.stdout


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("[report]\nknown = 'nowhere.csv'", "[report] known"),
        ("[simulate]\nhosts = 'nowhere'", "[simulate] hosts"),
        ("[train]\nnetwork = 'lenznet'", "unknown network 'lenznet'"),
        ("[simulate]\npopulation = 'genral'", "population 'genral' is unknown"),
        ("[simulate]\nsize = 33\n[train]\nnetwork = 'alexnet'", "too small for network 'alexnet'"),
        ("[simulate]\nval_fraction = 0.0", "val_fraction is 0, and training follows"),
        ("[simulate]\nsize = 33\n[infer]\nmodel = 'kids-gri'", "33 px (data) and 61 px (model)"),
    ],
)
def test_what_a_chain_lacks_is_told_before_any_work(
    tmp_path: Path, lensfinder: Command, lines: str, said: str
) -> None:
    (tmp_path / "p.toml").write_text(lines)
    checked = lensfinder("check", tmp_path / "p.toml")
    assert checked.returncode == 2
    assert said in checked.stdout
    run = lensfinder("run", tmp_path / "p.toml", "-o", tmp_path / "out")
    assert run.returncode == (4 if "kids-gri" in lines else 2)  # data and model disagree
    assert said in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.fault
def test_a_chain_that_breaks_off_says_so_by_its_code(
    root: Path, tmp_path: Path, lensfinder: Command
) -> None:
    tiles = shutil.copytree(root / "sample_data" / "tiles", tmp_path / "tiles")
    first, *others = sorted(tiles.glob("*_sci.fits*"))
    first.write_bytes(first.read_bytes()[:3000])
    chain = PIPELINE.format(root=root).replace(f"{root}/sample_data/tiles", str(tiles))
    few = chain.replace("count = 768", "count = 256").replace("save_every_s = 1", "")
    (tmp_path / "diverges.toml").write_text(few + "learning_rate = 1e20\n")
    arguments = ["--engine", "serial", "-o"]
    said = lensfinder("run", tmp_path / "diverges.toml", *arguments, tmp_path / "diverges")
    assert said.returncode == 2, said.stderr
    assert "[Diverged]" in said.stderr
    assert not (tmp_path / "diverges" / "report").exists()
    # Without a single stamp of the sky nothing is simulated either.
    for path in others:
        path.write_bytes(path.read_bytes()[:3000])
    (tmp_path / "damaged.toml").write_text(few)
    checked = lensfinder("check", tmp_path / "damaged.toml")
    assert checked.returncode == 3
    said = lensfinder("run", tmp_path / "damaged.toml", *arguments, tmp_path / "damaged")
    assert said.returncode == 2, said.stderr
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["cutout"]


def test_tiles_that_are_streamed_are_looked_at_too(tmp_path: Path, lensfinder: Command) -> None:
    (tmp_path / "KiDS_DR4.0_180.0_-0.5_r_sci.fits").write_text("<html>")
    (tmp_path / "p.toml").write_text("[infer]\ninputs = '.'\nbands = 'r'\n[simulate]\nbands='r'")
    checked = lensfinder("check", tmp_path / "p.toml")
    assert checked.returncode == 3
    assert "would fail [unreadable]" in checked.stdout


def test_what_the_chain_makes_first_is_not_looked_for(tmp_path: Path) -> None:
    own = config.load(options={"simulate": {"sky": tmp_path / "cutout", "bands": "r"}})
    pipeline_of.check_steps(pipeline_of.chain(own, tmp_path), tmp_path)
    scored = config.load(options={"report": {"scores": (tmp_path / "mine",)}})
    folders = [folder for folder, _, _ in pipeline_of.chain(scored, tmp_path)]
    assert "infer-mocks" not in folders
    assert folders[-1] == "report"
