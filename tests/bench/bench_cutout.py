"""How fast `cutout` is, beside its peers and the floor. Run by hand:

    python tests/bench/bench_cutout.py [--side 10000] [--targets 10000] [--folder DIR]

The tile has four bands and lies in a temporary folder, its pages in memory; start-up (imports) is
not counted. Peers write the bytes that this command writes. What is compared runs in turn, once to
warm up and then several times; shown is the median. Cutting and writing are one thread each, here
and in the peers; the command's sha256 is a second thread beside the one that writes. `astrocut` and
`sep` are used where they can be imported.
"""

from __future__ import annotations

import argparse
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
from contextlib import redirect_stdout
from functools import partial
from importlib import metadata
from io import StringIO
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.nddata.utils import NoOverlapError
from astropy.wcs import WCS
from bench_detect import BANDS, NOISE, time_detection, watched

from lensfinder import cli, survey, tiles
from lensfinder.cutout.extract import Room, extract
from lensfinder.ledger import read_index

SIZE = 101
REPEATS = 5


def timed(what: Callable[[], object]) -> float:
    """Return the wall-clock time, s."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def in_turn(
    jobs: dict[str, Callable[[], object]], repeats: int, tidy: Callable[[], object] = list
) -> dict[str, float]:
    """Return the median of each job's times, s; all run in turn, after once to warm up.

    `tidy` removes what a job wrote, which is not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repeats + 1):
        for name, job in jobs.items():
            took = timed(job)
            tidy()
            if number:
                taken[name].append(took)
    return {name: statistics.median(times) for name, times in taken.items()}


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


def peers(folder: Path, out: Path, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return what the others do: cut by bare slices or Cutout2D, and write what we write."""
    n = len(x)
    paths = [folder / f"KiDS_DR4.0_180.0_-0.5_{band}_sci.fits" for band in BANDS]
    image = np.empty((n, len(BANDS), SIZE, SIZE), np.float32)
    mask = np.zeros(image.shape, np.uint8)
    half = SIZE // 2

    def slices() -> None:
        columns, rows = np.floor(x + 0.5).astype(int).tolist(), np.floor(y + 0.5).astype(int)
        for c, path in enumerate(paths):
            with fits.open(path) as hdus:
                pixels = np.asarray(hdus[0].data)
                for k, (a, b) in enumerate(zip(columns, rows.tolist(), strict=True)):
                    image[k, c] = pixels[b - half : b + half + 1, a - half : a + half + 1]

    def cutout2d() -> None:
        for c, path in enumerate(paths):
            with fits.open(path) as hdus:
                own = WCS(hdus[0].header)
                for k in range(n):
                    try:
                        cut = Cutout2D(
                            hdus[0].data, (x[k], y[k]), SIZE, own, "partial", np.nan, copy=False
                        )
                    except NoOverlapError:
                        continue
                    image[k, c] = cut.data

    def write() -> None:
        with out.open("wb") as stream:
            stream.write(image.data)
            stream.write(mask.data)
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

    return timed(cut) * len(x) / share


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

    return timed(ours), timed(each) * len(x) / len(share)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10000)
    parser.add_argument("--targets", type=int, default=10000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
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
        ra, dec = wcs.all_pix2world(x, y, 0)
        catalog = Path(name) / "targets.csv"
        rows = [
            f"t{k},{a!r},{d!r}"
            for k, (a, d) in enumerate(zip(ra.tolist(), dec.tolist(), strict=True))
        ]
        catalog.write_text("\n".join(["id,ra,dec", *rows]) + "\n")

        kids = survey.load("kids")
        (files,) = tiles.find([folder], kids, BANDS)

        # Peers fill arrays that are there already, and so does this.
        def extraction(room: Room) -> None:
            with tiles.open_tile(files, kids, BANDS) as tile:
                extract(
                    tile,
                    columns_of(x, y),
                    SIZE,
                    pixel_scale_arcsec=0.2,
                    max_bad_fraction=0.5,
                    room=room,
                )

        room = Room()
        others = peers(folder, Path(name) / "peer.raw", x, y)
        cuts = {"lensfinder": partial(extraction, room)}
        took = in_turn(cuts | {key: others[key] for key in ("slices", "Cutout2D")}, REPEATS)

        def command(engine: str) -> None:
            out = Path(name) / engine
            run_command(folder, out, catalog, engine)
            counts = read_index(out)["counts"]
            assert counts["ok"] == options.targets, counts

        def tidy() -> None:
            (Path(name) / "peer.raw").unlink(missing_ok=True)
            for engine in ("serial", "local"):
                shutil.rmtree(Path(name) / engine, ignore_errors=True)

        written = {"write": others["write"], "serial": partial(command, "serial")}
        took |= in_turn(written, REPEATS, tidy)
        memory = command_memory(folder, Path(name) / "memory", catalog)
        took |= in_turn({"local": partial(command, "local")}, 1, tidy)
        if importlib.util.find_spec("astrocut"):
            took["astrocut"] = time_astrocut(
                [folder / f"KiDS_DR4.0_180.0_-0.5_{band}_sci.fits" for band in BANDS], wcs, x, y
            )
        floor = took["slices"] + took["write"]
        cutout2d = took["Cutout2D"] + took["write"]

        def line(what: str, seconds: float, *said: str) -> None:
            print(f"{what:44s} {seconds:8.2f} s  {'; '.join(said)}")

        print("\nthrough the whole command (WCS, mask, shard, ledger)")
        line("floor: bare slices and writing", floor, f"writing alone {took['write']:.2f} s")
        for engine, said in (("serial", ""), ("local", ", cluster start included")):
            line(
                f"lensfinder cutout, {engine}{said}",
                took[engine],
                f"{cutout2d / took[engine]:.1f} x Cutout2D",
                f"{floor / took[engine]:.2f} of the floor",
            )
        print(f"  anonymous memory of the serial run at most {memory:.0f} MiB")
        line("Cutout2D, one open file, writing", cutout2d)
        if "astrocut" in took:
            line("astrocut in memory, from 50 targets", took["astrocut"])
        print("\nextraction alone")
        line(
            "lensfinder",
            took["lensfinder"],
            f"{took['Cutout2D'] / took['lensfinder']:.1f} x Cutout2D",
            f"{took['slices'] / took['lensfinder']:.2f} of bare slices",
        )
        line("Cutout2D", took["Cutout2D"])
        line("bare slices", took["slices"], f"{took['Cutout2D'] / took['slices']:.1f} x Cutout2D")
        packed, each = time_compressed(folder, x, y)
        print("\none band, tile-compressed")
        line("lensfinder, one pass", packed, f"{each / packed:.1f} x per-cutout access")
        line("per-cutout .section, from 40 targets", each)
        print("\ndetection in the r band")
        print("\n".join(time_detection(folder, true)))


if __name__ == "__main__":
    main()
