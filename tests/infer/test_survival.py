"""Whatever kills a run, the catalogue that is merged at last is that of an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from skies import sky_YX, tan_wcs, write_kids_tile, write_targets

from lensfinder import checkpoint, networks, tables
from lensfinder.config import load
from lensfinder.model import Spec, create
from lensfinder.pixels import RECIPES, PixelTransform
from lensfinder.runs import Execution, execute

SIZE, BANDS, TILES = 25, ("g", "r", "i"), 6
TOLERANCE = 1e-4


class Sky(NamedTuple):
    tiles: Path
    catalog: Path
    model: Path


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    folder = tmp_path_factory.mktemp("sky")
    (folder / "tiles").mkdir()
    rng = np.random.default_rng(0)
    ra, dec = [], []
    for number in range(TILES):
        xy = rng.uniform(15, 185, (60, 2))
        wcs = tan_wcs(number + 10.0, 0.0, (200, 200))
        images = {b: sky_YX((200, 200), [], 3 * number + k) for k, b in enumerate(BANDS)}
        write_kids_tile(folder / "tiles", f"{number + 10}_0", images, wcs)
        place = wcs.all_pix2world(xy, 0)
        ra += place[:, 0].tolist()
        dec += place[:, 1].tolist()
    write_targets(folder / "targets.csv", ra, dec)
    torch.manual_seed(0)
    image = torch.randn(8, 3, SIZE, SIZE) * 6
    transform = PixelTransform.fit(
        RECIPES["sky"], [(image, torch.zeros(image.shape, dtype=torch.uint8))]
    )
    model = create(
        Spec("lensnet", BANDS, SIZE, 0.2), networks.build("lensnet", 3, SIZE), transform,
        temperature=1.0, training_prevalence=0.5, provenance={},
    )  # fmt: skip
    checkpoint.save(folder / "model.safetensors", model)
    return Sky(folder / "tiles", folder / "targets.csv", folder / "model.safetensors")


def infer(sky: Sky, folder: Path, engine: str = "serial") -> None:
    keys: dict[str, Any] = {"inputs": (sky.tiles,), "catalog": sky.catalog, "model": (sky.model,)}
    done = execute(
        "infer", load(None, (), {"infer": keys}), folder, Execution(engine=engine, verbosity=-1)
    )
    assert done.exit_code == 0


def command(sky: Sky, folder: Path) -> list[str]:
    inputs = [str(sky.tiles), "--catalog", str(sky.catalog), "--model", str(sky.model)]
    return [sys.executable, "-P", "-m", "lensfinder", "infer", *inputs, "-o", str(folder), "-q"]


def catalogue(folder: Path) -> dict[str, Any]:
    return tables.read_columns(folder / "ranked.parquet")


@pytest.fixture(scope="module")
def whole(sky: Sky, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    infer(sky, folder)
    assert len(catalogue(folder)["id"]) == TILES * 60
    return folder


def assert_same_catalogue(one: Path, other: Path) -> None:
    a, b = catalogue(one), catalogue(other)
    assert len(set(a["id"])) == len(a["id"])
    by_id = dict(zip(b["id"], b["logit"], strict=True))
    assert set(a["id"]) == set(by_id)
    wanted = np.array([by_id[name] for name in a["id"]])
    np.testing.assert_allclose(a["logit"], wanted, atol=TOLERANCE)
    ledgers = [tables.read_columns(folder / "ledger.parquet") for folder in (one, other)]
    for name, values in ledgers[0].items():
        np.testing.assert_array_equal(values, ledgers[1][name])


@pytest.mark.fault
def test_killed_at_random_nothing_is_lost_or_doubled(
    sky: Sky, whole: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rng = random.Random(request.config.getoption("--kill-seed"))
    kills = 0
    while kills < request.config.getoption("--kills") - 1:
        process = subprocess.Popen(
            [*command(sky, tmp_path), "--engine", "serial"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Once it writes, at any moment of a few units.
        grown = len(list(tmp_path.glob("products/*.parquet"))) + 1
        while len(list(tmp_path.glob("products/*.parquet"))) < grown:
            try:
                process.wait(0.02)
                break
            except subprocess.TimeoutExpired:
                continue
        try:
            process.wait(rng.uniform(0, 0.3))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        kills += process.wait() < 0
        if process.returncode == 0:
            assert_same_catalogue(tmp_path, whole)
            for path in tmp_path.glob("products/*.parquet"):
                path.unlink()
    infer(sky, tmp_path)
    assert_same_catalogue(tmp_path, whole)


@pytest.mark.fault
def test_workers_that_die_in_the_middle_change_nothing(
    sky: Sky, whole: Path, tmp_path: Path
) -> None:
    def kill_later(dask_worker: Any) -> None:
        from distributed.chaos import KillWorker

        plugin = KillWorker("3 s", "segfault")
        dask_worker.loop.asyncio_loop.create_task(plugin.setup(dask_worker))

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(kill_later)
        infer(sky, tmp_path, cluster.scheduler_address)
    assert_same_catalogue(tmp_path, whole)


DIES_AT_ITS_SECOND = """
import os, signal
from lensfinder.infer import stage

# Dask loads this more than once.
stage.done, stage.original = [], getattr(stage, "original", stage.do)

def once(unit):
    if stage.done:
        os.kill(os.getpid(), signal.SIGKILL)
    stage.done.append(unit.name)
    return stage.original(unit)

stage.do = once
"""


@pytest.mark.fault
def test_once_all_workers_are_gone_the_run_stops_and_can_go_on(
    sky: Sky, whole: Path, tmp_path: Path
) -> None:
    preload = tmp_path / "dies.py"
    preload.write_text(DIES_AT_ITS_SECOND)
    folder = tmp_path / "scores"
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        address = cluster.scheduler_address
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
        worker += ["--nthreads", "1", "--no-dashboard", "--preload", str(preload)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        workers = [subprocess.Popen([*worker, "--local-directory", str(tmp_path)], **quiet)
                   for _ in range(2)]  # fmt: skip
        client.wait_for_workers(2, timeout=120)
        stopped = subprocess.run(
            [*command(sky, folder), "--engine", address, "--workers-timeout-s", "5"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert [one.wait(60) for one in workers] == [-signal.SIGKILL] * 2
    assert stopped.returncode == 75, stopped.stderr
    assert "no worker was there for 5 s" in stopped.stderr
    assert "run the same command to go on" in stopped.stderr
    assert len(list(folder.glob("products/*.parquet"))) == 2
    infer(sky, folder)
    assert_same_catalogue(folder, whole)


@pytest.mark.fault
def test_two_runs_into_one_folder_end_well(sky: Sky, whole: Path, tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [*command(sky, tmp_path), "--engine", "serial"], stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert {process.returncode for process in both} <= {0, 75}, said
    assert 0 in {process.returncode for process in both}, said
    assert_same_catalogue(tmp_path, whole)
