"""Small labelled shards: a ring beside a blob is a lens, a blob alone is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lensfinder import parallel, shards
from lensfinder.config import Config, TrainConfig
from lensfinder.runs import Execution, Run
from lensfinder.shards import Header
from lensfinder.train import stage

SIZE = 25


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Stamps this small gain nothing from a second thread, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    yield
    torch.set_num_threads(before)


def draw_stamps(n, seed, bands=2, size=SIZE):
    """Return image_NCHW, mask_NCHW and label_N; every second one is a lens."""
    rng = np.random.default_rng(seed)
    axis = np.arange(size) - size // 2
    radius_YX = np.hypot(axis[:, None], axis[None, :])
    label_N = np.arange(n) % 2
    radius_N = rng.uniform(4, 8, n)
    image_NCHW = rng.normal(0, 1, (n, bands, size, size)) + 20 * np.exp(-radius_YX / 2)
    ring_NYX = np.exp(-(((radius_YX - radius_N[:, None, None]) / 1.2) ** 2))
    image_NCHW[:, 0] += 4 * (label_N[:, None, None] * ring_NYX)
    mask_NCHW = np.zeros(image_NCHW.shape, np.uint8)
    image_NCHW[::7, :, :3] = np.nan
    mask_NCHW[::7, :, :3] = 1
    return image_NCHW.astype(np.float32), mask_NCHW, label_N


@pytest.fixture(scope="session")
def write_shard():
    """Return a writer of a shard with a third of its stamps in val and a tenth in test."""

    def write(
        path, n=90, seed=0, bands=("g", "r"), size=SIZE, scale=0.2, ingredients=None, **columns
    ):
        image_NCHW, mask_NCHW, label_N = draw_stamps(n, seed, len(bands), size)
        place_N = np.arange(n) % 30
        split_N = np.where(place_N < 18, "train", np.where(place_N < 28, "val", "test"))
        catalog = {
            "id": [f"{path.stem}-{i}" for i in range(n)],
            "ra": np.full(n, np.nan),
            "dec": np.full(n, np.nan),
            "tile": [""] * n,
            **{name: np.zeros(n) for name in ("x", "y", "dx", "dy", "flags")},
            "label": label_N,
            "kind": [""] * n,
            "split": split_N,
            "host_id": [f"{path.stem}-h{i}" for i in range(n)],
            "source_id": [f"{path.stem}-s{i}" if label_N[i] else "" for i in range(n)],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        made_from = ingredients or {"seed": seed}
        header = Header("simulate", "kids", tuple(bands), scale, made_from, {})
        shards.write(path, header, image_NCHW, mask_NCHW, {**catalog, **columns})
        return path

    return write


@pytest.fixture
def make_unit(tmp_path, write_shard):
    """Return a maker of the stage's unit on two small shards, in a folder of its own."""
    paths = [write_shard(tmp_path / f"{name}.h5", seed=i) for i, name in enumerate("ab")]

    def make(name="out", precision="float32", **changes):
        chosen = {"epochs": 2, "batch_size": 25, "shards": paths, **changes}
        config = Config(train=TrainConfig(**chosen))
        run = Run(tmp_path / name, "train", config, Execution(verbosity=-1))
        ((unit,),) = stage.plan(config, run)
        settings = {**unit.task["settings"], "precision": precision}
        return replace(unit, task={**unit.task, "settings": settings})

    return make
