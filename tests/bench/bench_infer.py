"""How fast `infer` is, beside the bare network and the naive loop. Run by hand:

    python tests/bench/bench_infer.py [--network deeplens] [--targets 1500] [--part speed|scaling]

Tiles are noise with galaxies in a temporary folder, their pages in memory. `speed` compares, in
one process: the network alone on transformed stamps in memory; with the pixels' transform; the
whole command from shards and from tiles (planning, reading, scoring, ranking and candidates; not
the imports); and the loop that one writes first (the network as built, torch's default layout,
each batch size). `scaling` runs the command in processes of its own on 2 and on 40 tiles.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import torch
from astropy.io import fits
from astropy.wcs import WCS

from lensfinder import checkpoint, cli, networks, parallel
from lensfinder.infer import forward
from lensfinder.ledger import products_of
from lensfinder.model import Model, Spec, create
from lensfinder.pixels import RECIPES, PixelTransform

BANDS = ("g", "r", "i")
SIZE = 101
NOISE = 1.7e-12  # KiDS' own unit
NAIVE_BATCHES = (16, 64, 256)


def timed(what: Callable[[], object]) -> float:
    """Return the wall-clock time of a call, s."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


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


def speed(network: str, targets: int, folder: Path, compiled: bool) -> None:
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
    n = min(targets, 1024)
    from lensfinder import shards

    image = torch.from_numpy(np.array(shards.memory_map(shard, "image")[:n]))
    mask = torch.from_numpy(np.array(shards.memory_map(shard, "mask")[:n]))
    n = len(image)
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
        fast.network(laid[:batch])
        bare = n / timed(lambda: [fast.network(laid[k : k + batch]) for k in range(0, n, batch)])
        with_pixels = n / timed(
            lambda: [
                fast.logits(image[k : k + batch], mask[k : k + batch]) for k in range(0, n, batch)
            ]
        )
    more = ["--compile"] if compiled else []
    common = ["--model", model_path, "--engine", "serial", "-q", *more]
    command("infer", folder / "cutouts", *common, "-o", folder / "warm", "--candidates", 0)
    from_shards = targets / timed(
        lambda: command("infer", folder / "cutouts", *common, "-o", folder / "a")
    )
    from_tiles = targets / timed(
        lambda: command(
            "infer", folder / "tiles", "--catalog", catalogue, *common, "-o", folder / "b"
        )
    )
    with torch.inference_mode():
        again = n / timed(lambda: [fast.network(laid[k : k + batch]) for k in range(0, n, batch)])
    bare = (bare + again) / 2
    best = max(naive.values())
    print(f"{'':34}stamps/s   of the bare network   of the naive loop (its best batch)")
    rows = {f"naive loop, batches of {b}": rate for b, rate in naive.items()}
    rows |= {
        f"network alone, batches of {batch}": bare,
        "with the pixels' transform": with_pixels,
        "whole command, shards": from_shards,
        "whole command, tiles": from_tiles,
    }
    for name, rate in rows.items():
        print(f"{name:32}{rate:10.1f}{rate / bare:22.2f}{rate / best:20.2f}")
    print(
        f"\n(the bare network, before and after the commands: {2 * bare - again:.1f}, {again:.1f})"
    )


def scaling(network: str, folder: Path) -> None:
    """Run 2 and 40 tiles, and 1 and 2 workers, each in processes of their own."""
    model_path = folder / "model.safetensors"
    make_model(network, model_path)
    sets = {n: write_tiles(folder / f"tiles{n}", n, 900, 150) for n in (2, 40)}
    print(f"{network}, tiles of 900 x 900 with 150 targets")

    def run(n: int, name: str, *more: str, one_core: bool = False) -> tuple[float, list[float]]:
        out = folder / name
        line = [
            *(["taskset", "-c", "0"] if one_core else []),
            *(sys.executable, "-m", "lensfinder", "infer", str(folder / f"tiles{n}")),
            *("--catalog", str(sets[n]), "--model", str(model_path), "-o", str(out), "-q", *more),
            # The best 2,000 stamps are held at the end; as many must stand behind each figure.
            *("--candidates", "200"),
        ]
        taken = timed(lambda: subprocess.run(line, check=True))
        stamps = sorted(path.stat().st_mtime_ns / 1e9 for path in products_of(out))
        return taken, stamps

    for n in (2, 40):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        taken, ends = run(n, f"serial{n}", "--engine", "serial")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        each = np.diff(ends)
        ends_of = (
            ""
            if n == 2
            else (
                f"; a tile {np.median(each[:10]):.3f} s among the first ten, "
                f"{np.median(each[-10:]):.3f} s among the last"
            )
        )
        more_than = "" if peak > before else " at most"
        print(
            f"serial, {n:2} tiles: {taken:.1f} s, peak resident{more_than} {peak / 1024:.0f} MiB"
            f"{ends_of or f'; a tile {each[0]:.3f} s'}"
        )
    rates = {}
    for workers in (1, 2):
        _, ends = run(
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
    parser.add_argument("--targets", type=int, default=1500)
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
            speed(given.network, given.targets, Path(name), given.compile)
        else:
            scaling(given.network, Path(name))


if __name__ == "__main__":
    main()
