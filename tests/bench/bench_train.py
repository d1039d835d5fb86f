"""How fast training goes, beside the bare network: prints its figures with the floor and a peer.

    python tests/bench/bench_train.py [--network deeplens] [--stamps 1024] [--batch-size 64]

The floor is a bare torch loop of the same network, layout and optimiser on tensors in memory, with
the same validation, in the same precision. The peer is the loop one writes first: torch's default
layout, no fused optimiser, float32. Between two epochs `train` also reads, augments and transforms
stamps, clips, watches the loss and saves its state. All three take turns, epoch by epoch, in one
process; then the whole command runs, start and end included, with as many epochs as fill
`--seconds`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import numpy as np
import torch
from torch import nn

from lensfinder import networks, parallel, shards
from lensfinder.commit import write_json
from lensfinder.ledger import INDEX
from lensfinder.signals import Stop
from lensfinder.train import data, loop
from lensfinder.train.distribute import Ranks
from lensfinder.train.network import fit_transform, mixed_precision
from lensfinder.train.settings import Settings
from lensfinder.train.states import States

BANDS = ("g", "r", "i")
VAL_SHARE = 0.1


def write_mocks(folder: Path, n: int, size: int) -> Path:
    rng = np.random.default_rng(0)
    radius = np.hypot(*np.mgrid[:size, :size] - size // 2)
    label = np.arange(n) % 2
    ring = np.exp(-(((radius - rng.uniform(4, 8, (n, 1, 1))) / 1.5) ** 2)) * label[:, None, None]
    image = rng.normal(0, 1, (n, len(BANDS), size, size)).astype(np.float32)
    image += (20 * np.exp(-radius / 3) + 2 * ring)[:, None].astype(np.float32)
    catalog: dict[str, Any] = {
        "id": [f"m{i}" for i in range(n)],
        **{name: np.full(n, np.nan) for name in ("ra", "dec")},
        **{name: np.zeros(n) for name in ("x", "y", "dx", "dy", "flags")},
        **{name: [""] * n for name in ("tile", "kind", "source_id")},
        "host_id": [f"h{i}" for i in range(n)],
        "label": label,
        "split": np.where(np.arange(n) < n * (1 - VAL_SHARE), "train", "val"),
    }
    path = folder / "products" / "mocks.h5"
    path.parent.mkdir(parents=True)
    header = shards.Header("simulate", "kids", BANDS, 0.2, {"seed": 0}, {})
    shards.write(path, header, image, np.zeros(image.shape, np.uint8), catalog)
    products = {"products": [{"product": "products/mocks.h5"}]}
    write_json(folder / INDEX, {"stage": "simulate", "counts": {}, **products})
    return path


class Tensors:
    """Transformed stamps in memory, and a loop over them without anything else."""

    def __init__(self, stamps: data.StampSet, settings: Settings, *, naive: bool) -> None:
        pixels = data.Pixels(stamps)
        train, val = stamps.members("train"), stamps.members("val")
        transform = fit_transform(pixels, train, settings)
        self.train, self.val = (transform(*pixels.gather(split)) for split in (train, val))
        self.label = torch.from_numpy(stamps.label_N[train]).float()
        self.network = networks.build(settings.network, len(stamps.bands), stamps.size)
        self.layout = torch.contiguous_format if naive else torch.channels_last
        if not naive:
            self.network = networks.channels_last(self.network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=1e-4, fused=not naive, foreach=False
        )
        self.batch_size = settings.batch_size
        self.mixed = None if naive else mixed_precision(settings.precision, torch.device("cpu"))

    def epoch(self) -> float:
        started = time.perf_counter()
        self.network.train()
        batches = max(1, len(self.train) // self.batch_size)
        for index in torch.randperm(len(self.train)).tensor_split(batches):
            self.optimizer.zero_grad(set_to_none=True)
            x_NCHW = self.train[index].contiguous(memory_format=self.layout)
            with torch.autocast("cpu", self.mixed, enabled=self.mixed is not None):
                logit = self.network(x_NCHW)
            logit = logit.float()
            nn.functional.binary_cross_entropy_with_logits(logit, self.label[index]).backward()
            self.optimizer.step()
        self.network.eval()
        with torch.inference_mode():
            for piece in self.val.split(256):
                self.network(piece.contiguous(memory_format=self.layout))
        return time.perf_counter() - started


def take_turns(stamps: data.StampSet, settings: Settings, folder: Path) -> dict[str, float]:
    """Return the best time of an epoch of `train`, of the bare loop and of the naive one, s."""
    floor, peer = (Tensors(stamps, settings, naive=naive) for naive in (False, True))
    times: dict[str, list[float]] = {"train": [], "bare": [], "naive": []}
    started = time.perf_counter()

    def on_epoch(_history: list[dict[str, Any]]) -> None:
        nonlocal started
        times["train"].append(time.perf_counter() - started)
        times["bare"].append(floor.epoch())
        times["naive"].append(peer.epoch())
        started = time.perf_counter()

    ranks = Ranks(0, 1, torch.device("cpu"))
    loop.train(stamps, settings, ranks, States(folder), Stop(), on_epoch=on_epoch)
    # The first epoch warms up; other work on the machine only ever adds.
    return {name: min(each[1:]) for name, each in times.items()}


def whole_command(mocks: Path, settings: Settings, epochs: int, out: Path) -> float:
    """Return how long `lensfinder train` takes, from start to end, s."""
    keys = ["--network", settings.network, "--batch-size", settings.batch_size, "--epochs", epochs]
    keys += ["--precision", settings.precision]
    command = [sys.executable, "-m", "lensfinder", "train", mocks, "-o", out, "-q", *keys]
    started = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="deeplens")
    parser.add_argument("--stamps", type=int, default=640)
    parser.add_argument("--size", type=int, default=45)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--epochs", type=int, default=4, help="in turns; the first warms up")
    parser.add_argument("--seconds", type=float, default=0.0, help="of a whole command; 0: none")
    chosen = parser.parse_args()
    torch.set_num_threads(parallel.cores())
    settings = Settings(
        network=chosen.network,
        epochs=chosen.epochs,
        batch_size=chosen.batch_size,
        learning_rate=1e-4,
        weight_decay=1e-3,
        warmup=0.05,
        clip_norm=1.0,
        shift_pixels=2,
        seed=1,
        precision=chosen.precision,
    )
    print(
        f"Python {platform.python_version()}, torch {metadata.version('torch')}, "
        f"{parallel.cores()} cores of {platform.machine()}; {chosen.network}, {chosen.stamps} "
        f"stamps of {len(BANDS)} x {chosen.size} x {chosen.size}, batches of {chosen.batch_size}, "
        f"{chosen.precision}"
    )
    with tempfile.TemporaryDirectory() as folder:
        mocks = Path(folder) / "mocks"
        path = write_mocks(mocks, chosen.stamps, chosen.size)
        best = take_turns(data.open_set([path]), settings, Path(folder) / "states")
        rates = {name: chosen.stamps * (1 - VAL_SHARE) / s for name, s in best.items()}
        print(
            f"train {rates['train']:.0f} stamps/s; bare loop {rates['bare']:.0f} (train does "
            f"{rates['train'] / rates['bare']:.2f} of it, floor 0.95); naive loop "
            f"{rates['naive']:.0f} (train does {rates['train'] / rates['naive']:.2f} times it)"
        )
        figures = dict(rates)
        if chosen.seconds:
            epochs = max(1, round(chosen.seconds / best["train"]))
            whole = whole_command(mocks, settings, epochs, Path(folder) / "model")
            figures["command"] = epochs * chosen.stamps * (1 - VAL_SHARE) / whole
            print(
                f"whole command, {epochs} epochs in {whole:.0f} s: {figures['command']:.0f} "
                f"stamps/s, {figures['command'] / rates['bare']:.2f} of the bare loop"
            )
        print(json.dumps({name: round(rate, 1) for name, rate in figures.items()}))


if __name__ == "__main__":
    main()
