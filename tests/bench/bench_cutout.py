"""How fast `cutout` is, beside its peers and the floor. Run by hand:

    python tests/bench/bench_cutout.py [--side 10000] [--targets 10000] [--folder DIR]

The tile has four bands and lies in a temporary folder, its pages in memory; start-up (imports) is
not counted. Peers write the bytes that this command writes, and extract into the room that it
extracts into: some stamps at a time, over and over, as `infer` does. What is compared runs in turn,
once to warm up and then several times; shown is the median, and the processor time beside it,
which tells what other programs on the machine do to the clock. Cutting and writing are one thread
each, here and in the peers; the command's sha256 is a second thread beside the one that writes.
`astrocut` and `sep` are used where they can be imported. ``--parts`` chooses what is measured.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from functools import partial
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from bench_detect import BANDS, NOISE, time_detection, watched

from lensfinder import cli, survey, tiles
from lensfinder.cutout import planning
from lensfinder.cutout.extract import Room, extract
from lensfinder.ledger import read_index

SIZE = 101
REPEATS = 5
# Stamps that are extracted at a time, where they are not kept.
ROWS = 64
# Stamps that a unit of the command holds.
UNIT = planning._UNIT_BYTES // (len(BANDS) * SIZE**2 * 5)
PARTS = ("command", "extraction", "compressed", "detection")


class Took(NamedTuple):
    """Time that something takes by the clock, and of the processors, s."""

    wall: float
    cpu: float

    def __add__(self, other: object) -> Took:
        assert isinstance(other, Took)
        return Took(self.wall + other.wall, self.cpu + other.cpu)


def timed(what: Callable[[], object]) -> Took:
    """Return the time it takes, this process's children excluded."""
    wall, cpu = time.perf_counter(), time.process_time()
    what()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def in_turn(
    jobs: dict[str, Callable[[], object]], repeats: int, tidy: Callable[[], object] = list
) -> dict[str, Took]:
    """Return the median of each job's times; all run in turn, after once to warm up.

    `tidy` removes what a job wrote, which is not counted.
    """
    taken: dict[str, list[Took]] = {name: [] for name in jobs}
    for number in range(repeats + 1):
        for name, job in jobs.items():
            gc.collect()
            took = timed(job)
            tidy()
            if number:
                taken[name].append(took)
    return {
        name: Took(*(statistics.median(each) for each in zip(*times, strict=True)))
        for name, times in taken.items()
    }


def make_tile(folder: Path, side: int, n_sources: int) -> tuple[WCS, np.ndarray]:
    """Write four bands of noise with galaxies; return the WCS and the galaxies' x, y, flux."""
    rng = np.random.default_rng(1)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [180.0, -0.5], [(side + 1) / 2] * 2
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    image = rng.standard_normal((side, side), np.float32)
    xy = rng.uniform(30, side - 30, (n_sources, 2))
    # Total S/N from hopeless to bright, in matched-filter terms.
    snr, sigma = 10 ** rng.uniform(0.6, 2, n_sources), rng.uniform(1.8, 3, n_sources)
    flux = snr * np.sqrt(4 * np.pi) * sigma
    grid = np.arange(-12, 13)
    for (x, y), total, s in zip(xy, flux, sigma, strict=True):
        ix, iy = round(x), round(y)
        gx = np.exp(-((grid + ix - x) ** 2) / (2 * s * s))
        gy = np.exp(-((grid + iy - y) ** 2) / (2 * s * s))
        stamp = total / (2 * np.pi * s * s) * gy[:, None] * gx
        image[iy - 12 : iy + 13, ix - 12 : ix + 13] += stamp.astype(np.float32)
    image *= NOISE
    for number, band in enumerate(BANDS):
        path = folder / f"KiDS_DR4.0_180.0_-0.5_{band}_sci.fits"
        # The reference band holds the galaxies where they are said to be.
        fits.writeto(path, image if band == "r" else np.roll(image, number + 1, 0), wcs.to_header())
    return wcs, np.column_stack([xy, snr])


def peers(
    folder: Path, out: Path, x: np.ndarray, y: np.ndarray, rows: int
) -> dict[str, Callable[[], object]]:
    """Return what the others do: cut by bare slices or Cutout2D, and write what we write.

    They fill a room for `rows` stamps as often as it takes.
    """
    n = len(x)
    paths = [folder / f"KiDS_DR4.0_180.0_-0.5_{band}_sci.fits" for band in BANDS]
    image = np.empty((rows, len(BANDS), SIZE, SIZE), np.float32)
    mask = np.zeros(image.shape, np.uint8)
    half = SIZE // 2

    def slices() -> None:
        columns, lines = (np.floor(at + 0.5).astype(int).tolist() for at in (x, y))
        with ExitStack() as stack:
            bands = [np.asarray(stack.enter_context(fits.open(path))[0].data) for path in paths]
            for start in range(0, n, rows):
                some = slice(start, start + rows)
                for c, pixels in enumerate(bands):
                    for k, (a, b) in enumerate(zip(columns[some], lines[some], strict=True)):
                        image[k, c] = pixels[b - half : b + half + 1, a - half : a + half + 1]

    def cutout2d() -> None:
        with ExitStack() as stack:
            hdus = [stack.enter_context(fits.open(path))[0] for path in paths]
            systems = [WCS(hdu.header) for hdu in hdus]
            for start in range(0, n, rows):
                for c, (hdu, own) in enumerate(zip(hdus, systems, strict=True)):
                    for k in range(start, min(n, start + rows)):
                        at = (x[k], y[k])
                        cut = Cutout2D(hdu.data, at, SIZE, own, "partial", np.nan, copy=False)
                        image[k - start, c] = cut.data

    def write() -> None:
        with out.open("wb") as stream:
            for array in (image, mask):
                for start in range(0, n, rows):
                    stream.write(array[: n - start].data)
            stream.flush()
            os.fsync(stream.fileno())

    return {"slices": slices, "Cutout2D": cutout2d, "write": write}


def time_astrocut(paths: list[Path], wcs: WCS, x: np.ndarray, y: np.ndarray) -> float:
    """Time astrocut in memory on a share of the targets; scaled to all of them, s."""
    from astrocut import FITSCutout
    from astropy.coordinates import SkyCoord

    share = min(len(x), 50)

    def cut() -> None:
        for k in range(share):
            where = SkyCoord(*wcs.all_pix2world(x[k], y[k], 0), unit="deg")
            _ = FITSCutout(
                [str(path) for path in paths], where, SIZE, single_outfile=True
            ).fits_cutouts

    return timed(cut).wall * len(x) / share


def time_compressed(folder: Path, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Time all targets of one .fz band, and access per cutout scaled up from a share of it, s."""
    source = folder / "KiDS_DR4.0_180.0_-0.5_r_sci.fits"
    packed = folder / "fz" / "KiDS_DR4.0_180.0_-0.5_r_sci.fits.fz"
    packed.parent.mkdir()
    with fits.open(source) as hdus:
        header = hdus[0].header
        counts = np.round(hdus[0].data / NOISE * 16).astype(np.int32)
    fits.CompImageHDU(counts, header, compression_type="RICE_1").writeto(packed)
    kids = survey.load("kids")
    (files,) = tiles.find([packed], kids, ("r",))

    def ours() -> None:
        with tiles.open_tile(files, kids, ("r",)) as tile:
            extract(tile, columns_of(x, y), SIZE, pixel_scale_arcsec=0.2, max_bad_fraction=0.5)

    share = np.linspace(0, len(x) - 1, min(len(x), 40)).astype(int)

    def each() -> None:
        with fits.open(packed) as hdus:
            for k in share:
                a, b = int(x[k]), int(y[k])
                _ = hdus[1].section[b - 50 : b + 51, a - 50 : a + 51]

    return timed(ours).wall, timed(each).wall * len(x) / len(share)


def columns_of(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    ids = np.array([f"t{number}" for number in range(len(x))], dtype=object)
    return {"id": ids, "ra": x * 0 + 180, "dec": y * 0, "x": x, "y": y}


def arguments(folder: Path, out: Path, catalog: Path, engine: str) -> list[str]:
    return [
        *("cutout", str(folder), "-o", str(out), "--catalog", str(catalog)),
        *("--bands", ",".join(BANDS), "--size", str(SIZE), "--engine", engine, "-q"),
    ]


def run_command(folder: Path, out: Path, catalog: Path, engine: str) -> None:
    """Run `lensfinder cutout` in this process, whose imports are done."""
    sys.argv = ["lensfinder", *arguments(folder, out, catalog, engine)]
    with redirect_stdout(StringIO()):
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, stop.code  # noqa: PT017


def command_memory(folder: Path, out: Path, catalog: Path) -> float:
    """Run the command in a process of its own, apart from what is timed; peak MiB."""
    command = [sys.executable, "-m", "lensfinder", *arguments(folder, out, catalog, "serial")]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as process,
        watched(process.pid) as peak,
    ):
        process.wait()
    assert process.returncode == 0
    return peak[0]


def line(what: str, seconds: float, *said: str) -> None:
    print(f"{what:44s} {seconds:8.2f} s  {'; '.join(said)}")


def time_extraction(folder: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Compare what cutting takes when stamps are used at once and not kept."""
    kids = survey.load("kids")
    (files,) = tiles.find([folder], kids, BANDS)
    targets, room = columns_of(x, y), Room()

    def ours() -> None:
        with tiles.open_tile(files, kids, BANDS) as tile:
            for start in range(0, len(x), ROWS):
                some = {name: values[start : start + ROWS] for name, values in targets.items()}
                extract(tile, some, SIZE, pixel_scale_arcsec=0.2, max_bad_fraction=0.5, room=room)

    others = peers(folder, folder / "none", x, y, ROWS)
    took = in_turn(
        {"lensfinder": ours, **{key: others[key] for key in ("slices", "Cutout2D")}}, REPEATS
    )
    print(f"\nextraction alone, {ROWS} stamps at a time")
    floor, peer = took["slices"], took["Cutout2D"]
    for what, name in (("lensfinder", "lensfinder"), ("bare slices", "slices")):
        line(
            what,
            took[name].wall,
            f"{peer.wall / took[name].wall:.1f} x Cutout2D",
            f"processor {took[name].cpu:.2f} s, {peer.cpu / took[name].cpu:.1f} x Cutout2D",
            f"{floor.cpu / took[name].cpu:.2f} of bare slices",
        )
    line("Cutout2D", peer.wall, f"processor {peer.cpu:.2f} s")


def time_command(folder: Path, base: Path, wcs: WCS, x: np.ndarray, y: np.ndarray) -> None:
    """Compare the whole command with the floor and with its peers."""
    ra, dec = wcs.all_pix2world(x, y, 0)
    catalog = base / "targets.csv"
    rows = [
        f"t{k},{a!r},{d!r}" for k, (a, d) in enumerate(zip(ra.tolist(), dec.tolist(), strict=True))
    ]
    catalog.write_text("\n".join(["id,ra,dec", *rows]) + "\n")
    # As many at a time as the command has in a unit.
    others = peers(folder, base / "peer.raw", x, y, min(len(x), UNIT))

    def command(engine: str) -> None:
        out = base / engine
        run_command(folder, out, catalog, engine)
        counts = read_index(out)["counts"]
        assert counts["ok"] == len(x), counts

    def tidy() -> None:
        (base / "peer.raw").unlink(missing_ok=True)
        for engine in ("serial", "local"):
            shutil.rmtree(base / engine, ignore_errors=True)

    took = in_turn({**others, "serial": partial(command, "serial")}, REPEATS, tidy)
    memory = command_memory(folder, base / "memory", catalog)
    took |= in_turn({"local": partial(command, "local")}, 1, tidy)
    floor, peer = took["slices"] + took["write"], took["Cutout2D"] + took["write"]
    print("\nthrough the whole command (WCS, mask, shard, ledger)")
    line(
        "floor: bare slices and writing",
        floor.wall,
        f"{peer.wall / floor.wall:.1f} x Cutout2D",
        f"writing alone {took['write'].wall:.2f} s",
        f"processor {floor.cpu:.2f} s",
    )
    for engine, said in (("serial", ""), ("local", ", cluster start included")):
        own = took[engine]
        line(
            f"lensfinder cutout, {engine}{said}",
            own.wall,
            f"{peer.wall / own.wall:.1f} x Cutout2D",
            f"{floor.wall / own.wall:.2f} of the floor",
            *([f"processor {own.cpu:.2f} s"] if engine == "serial" else []),
        )
    print(f"  anonymous memory of the serial run at most {memory:.0f} MiB")
    line("Cutout2D, one open file, writing", peer.wall, f"processor {peer.cpu:.2f} s")
    if importlib.util.find_spec("astrocut"):
        paths = [folder / f"KiDS_DR4.0_180.0_-0.5_{band}_sci.fits" for band in BANDS]
        line("astrocut in memory, from 50 targets", time_astrocut(paths, wcs, x, y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10000)
    parser.add_argument("--targets", type=int, default=10000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    parts = options.parts.split(",")
    assert set(parts) <= set(PARTS), PARTS
    warnings.simplefilter("ignore")
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("numpy", "astropy", "h5py")
    )
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{platform.machine()}, {cores} cores, load {load:.1f} before, {versions}")
    print(f"tile {options.side}² in {len(BANDS)} bands, {options.targets} targets of {SIZE}²")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name) / "tiles"
        folder.mkdir()
        wcs, true = make_tile(folder, options.side, max(100, options.side**2 // 20000))
        rng = np.random.default_rng(2)
        x, y = rng.uniform(SIZE, options.side - SIZE, (2, options.targets))
        order = np.argsort(y)
        x, y = x[order], y[order]
        if "command" in parts:
            time_command(folder, Path(name), wcs, x, y)
        if "extraction" in parts:
            time_extraction(folder, x, y)
        if "compressed" in parts:
            packed, each = time_compressed(folder, x, y)
            print("\none band, tile-compressed")
            line("lensfinder, one pass", packed, f"{each / packed:.1f} x per-cutout access")
            line("per-cutout .section, from 40 targets", each)
        if "detection" in parts:
            print("\ndetection in the r band")
            print("\n".join(time_detection(folder, true)))
    print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
