"""How fast `infer` is, beside the bare network and the naive loop. Run by hand:

    python tests/bench/bench_infer.py [--network deeplens] [--targets 1000] [--rounds 2]
                                      [--part speed|scaling]

Tiles are noise with galaxies in a temporary folder, their pages in memory. `speed` compares, in
one process: the network alone on transformed stamps in memory; with the pixels' transform; the
whole command from shards and from tiles (planning, reading, scoring, ranking and candidates; not
the imports), each beside the bare network just before and after it; and the loop that one writes
first (the network as built, torch's default layout, each batch size). `scaling` runs the command in
processes of its own on 2 and on 40 tiles.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import torch
from astropy.io import fits
from astropy.wcs import WCS

from lensfinder import checkpoint, cli, networks, parallel, shards
from lensfinder.infer import forward
from lensfinder.ledger import products_of
from lensfinder.model import Model, Spec, create
from lensfinder.pixels import RECIPES, PixelTransform

BANDS = ("g", "r", "i")
SIZE = 101
NOISE = 1.7e-12  # KiDS' own unit
NAIVE_BATCHES = (16, 64, 256)
A_TILE = 50  # targets


def timed(what: Callable[[], object]) -> float:
    """Return the wall-clock time of a call, s."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def cost(what: Callable[[], object]) -> tuple[float, float]:
    """Return the wall-clock time of a call, and its processor time over all threads, s."""
    start = time.process_time()
    taken = timed(what)
    return taken, time.process_time() - start


def command(*arguments: object) -> None:
    """Run the command line in this process."""
    sys.argv = ["lensfinder", *map(str, arguments)]
    try:
        with redirect_stderr(StringIO()) as said:
            cli.main()
    except SystemExit as stop:
        if stop.code:
            print(said.getvalue())
            raise


def write_tiles(folder: Path, tiles: int, side: int, targets: int, seed: int = 0) -> Path:
    """Write tiles of noise with galaxies, and a catalogue; return the catalogue's path."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    half = np.arange(-15, 16)
    galaxy = np.exp(-np.hypot(*np.meshgrid(half, half)) / 3).astype(np.float32)
    rows = ["id,ra,dec"]
    for t in range(tiles):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [10.0 + 3 * t, 0.0]
        wcs.wcs.cdelt, wcs.wcs.crpix = [-0.2 / 3600, 0.2 / 3600], [side / 2, side / 2]
        x, y = rng.uniform(20, side - 20, (2, targets))
        for band in BANDS:
            image = rng.standard_normal((side, side), np.float32) * np.float32(NOISE)
            for a, b in zip(x.astype(int), y.astype(int), strict=True):
                image[b - 15 : b + 16, a - 15 : a + 16] += 20 * np.float32(NOISE) * galaxy
            name = f"KiDS_DR4.0_{10.0 + 3 * t:.1f}_0.0_{band}_sci.fits"
            fits.writeto(folder / name, image, wcs.to_header())
        ra, dec = wcs.all_pix2world(x, y, 0)
        rows += [
            f"t{t}n{k},{a!r},{d!r}"
            for k, a, d in zip(range(targets), ra.tolist(), dec.tolist(), strict=True)
        ]
    catalogue = folder / "targets.csv"
    catalogue.write_text("\n".join(rows) + "\n")
    return catalogue


def make_model(network: str, path: Path) -> Model:
    """Make a model with drawn weights and the statistics that batch norm has after some batches."""
    torch.manual_seed(1)
    built = networks.build(network, len(BANDS), SIZE)
    image = torch.randn(32, len(BANDS), SIZE, SIZE) * 6
    mask = torch.zeros(image.shape, dtype=torch.uint8)
    recipe = RECIPES["deeplens" if network == "deeplens" else "sky"]
    transform = PixelTransform.fit(recipe, [(image, mask)])
    with torch.no_grad():
        for _ in range(3):
            built.train()(transform(image, mask))
    spec = Spec(network, BANDS, SIZE, 0.2)
    model = create(spec, built, transform, temperature=1.0, training_prevalence=0.5, provenance={})
    checkpoint.save(path, model)
    return model


def speed(network: str, targets: int, folder: Path, compiled: bool, rounds: int) -> None:
    """Compare the command with the network in the same process."""
    threads = parallel.cores()
    torch.set_num_threads(threads)
    model_path = folder / "model.safetensors"
    model = make_model(network, model_path)
    side = int(np.sqrt(targets / 3000) * 4000)
    catalogue = write_tiles(folder / "tiles", 1, side, targets)
    cut = ["--catalog", catalogue, "--size", SIZE, "--bands", ",".join(BANDS)]
    command("cutout", folder / "tiles", *cut, "-o", folder / "cutouts", "--engine", "serial", "-q")
    (shard, *_) = products_of(folder / "cutouts")
    n = min(targets, 512)
    image = torch.from_numpy(np.array(shards.memory_map(shard, "image")[:n]))
    mask = torch.from_numpy(np.array(shards.memory_map(shard, "mask")[:n]))
    print(f"{network}, {threads} threads, {len(BANDS)} x {SIZE} x {SIZE} pixels, float32\n")
    with torch.inference_mode():
        x = model.transform(image, mask)
        plain = networks.build(network, len(BANDS), SIZE).eval()
        plain.load_state_dict(model.network.state_dict())
        # First, while memory is still handed back as torch does by default.
        naive = {
            batch: 256 / timed(lambda b=batch: [plain(x[k : k + b]) for k in range(0, 256, b)])
            for batch in NAIVE_BATCHES
        }
    parallel.keep_buffers()
    fast, said = forward.prepare(model, compiled=compiled)
    print(*said, sep="\n", end="\n" if said else "")
    batch = forward.batch_size(model, 0)
    laid = x.contiguous(memory_format=torch.channels_last)

    def bare() -> None:
        with torch.inference_mode():
            for k in range(0, n, batch):
                fast.network(laid[k : k + batch])

    def with_pixels() -> None:
        with torch.inference_mode():
            for k in range(0, n, batch):
                fast.logits(image[k : k + batch], mask[k : k + batch])

    more = ["--compile"] if compiled else []
    common = ["--model", model_path, "--engine", "serial", "-q", *more]
    tiles = (folder / "tiles", "--catalog", catalogue)
    command("infer", folder / "cutouts", *common, "-o", folder / "warm", "--candidates", 0)
    whole = {
        "whole command, shards": lambda to: command("infer", folder / "cutouts", *common, "-o", to),
        "whole command, tiles": lambda to: command("infer", *tiles, *common, "-o", to),
    }
    # In turn, each beside the bare network: what else the machine does falls on both alike.
    rates: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, run in whole.items():
            before, worked_before = cost(bare)
            out = folder / f"{name.rpartition(' ')[2]}{number}"
            taken, worked = cost(partial(run, out))
            after, worked_after = cost(bare)
            beside = 2 * n / (before + after)
            rates.setdefault("network alone", []).append(beside)
            rates.setdefault(name, []).append(targets / taken)
            rates.setdefault(f"share of {name}", []).append(targets / taken / beside)
            of_work = (worked_before + worked_after) / (2 * n) / (worked / targets)
            rates.setdefault(f"work of {name}", []).append(of_work)
        rates.setdefault("with the pixels' transform", []).append(n / timed(with_pixels))
    middle = {name: float(np.median(values)) for name, values in rates.items()}
    alone, best = middle["network alone"], max(naive.values())
    print(f"{'':34}stamps/s   of the bare network   of the naive loop (its best batch)")
    for b, rate in naive.items():
        print(
            f"{f'naive loop, batches of {b}':32}{rate:10.1f}{rate / alone:22.2f}{rate / best:20.2f}"
        )
    for name in ("network alone", "with the pixels' transform", *whole):
        of_bare = middle.get(f"share of {name}", middle[name] / alone)
        shown = f"{name}, batches of {batch}" if name == "network alone" else name
        print(f"{shown:32}{middle[name]:10.1f}{of_bare:22.2f}{middle[name] / best:20.2f}")
    for name in whole:
        each = ", ".join(f"{share:.2f}" for share in rates[f"share of {name}"])
        work = ", ".join(f"{share:.2f}" for share in rates[f"work of {name}"])
        print(
            f"{name}: of the bare network just before and after it: {each}; by the processors' "
            f"time, on which other work weighs less: {work}"
        )


def scaling(network: str, folder: Path) -> None:
    """Run 2 and 40 tiles, and 1 and 2 workers, each in processes of their own."""
    model_path = folder / "model.safetensors"
    make_model(network, model_path)
    sets = {n: write_tiles(folder / f"tiles{n}", n, 900, A_TILE) for n in (2, 40)}
    print(f"{network}, tiles of 900 x 900 pixels with {A_TILE} targets")

    def run(
        n: int, name: str, *more: str, one_core: bool = False
    ) -> tuple[float, list[float], float]:
        out = folder / name
        line = [
            *(["taskset", "-c", "0"] if one_core else []),
            *(sys.executable, "-m", "lensfinder", "infer", str(folder / f"tiles{n}")),
            *("--catalog", str(sets[n]), "--model", str(model_path), "-o", str(out), "-q", *more),
        ]
        start = time.perf_counter()
        process = subprocess.Popen(line)
        _, status, used = os.wait4(process.pid, 0)
        taken = time.perf_counter() - start
        if status:
            raise SystemExit(f"{' '.join(line)} ended with {status}")
        ends = sorted(path.stat().st_mtime_ns / 1e9 for path in products_of(out))
        return taken, ends, used.ru_maxrss / 1024

    peaks = {}
    for n in (2, 40):
        taken, ends, peaks[n] = run(n, f"serial{n}", "--engine", "serial")
        each = np.diff(ends)
        of = f"{each[0]:.3f} s"
        if n > 2:
            first, last = np.median(each[:10]), np.median(each[-10:])
            of = f"{first:.3f} s among the first ten, {last:.3f} s among the last"
        print(f"serial, {n:2} tiles: {taken:.1f} s, peak resident {peaks[n]:.0f} MiB; a tile {of}")
    print(f"2 → 40 tiles: {peaks[40] / peaks[2] - 1:+.1%} of memory, the best 2,000 stamps kept")
    rates = {}
    for workers in (1, 2):
        _, ends, _ = run(
            40,
            f"workers{workers}",
            "--engine",
            "local",
            "--workers",
            str(workers),
            one_core=workers == 1,
        )
        # Both without the start of processes.
        rates[workers] = (len(ends) - 2 * workers) / (ends[-1] - ends[2 * workers - 1])
        print(
            f"{workers} worker{'s' * (workers > 1)}, one thread each: {rates[workers]:.2f} tiles/s"
        )
    print(f"1 → 2 workers: {rates[2] / rates[1]:.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="deeplens", choices=networks.names())
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--part", choices=("speed", "scaling"), default="speed")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    model_name = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.processor(),
    )  # fmt: skip
    print(
        f"{model_name}, {parallel.cores()} cores, torch {torch.__version__}, "
        f"python {platform.python_version()}"
    )
    with tempfile.TemporaryDirectory() as name:
        if given.part == "speed":
            speed(given.network, given.targets, Path(name), given.compile, given.rounds)
        else:
            scaling(given.network, Path(name))


if __name__ == "__main__":
    main()
