"""How fast `cutout` is, beside its peers and the floor. Run by hand:

    python tests/bench/bench_cutout.py [--side 10000] [--targets 10000] [--folder DIR]

The tile has four bands and lies in a temporary folder, its pages in memory; start-up (imports) is
not counted. Peers write the bytes that this command writes. `astrocut` and `sep` are used where
they can be imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib import metadata
from io import StringIO
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.nddata.utils import NoOverlapError
from astropy.wcs import WCS

from lensfinder import cli, survey, tiles
from lensfinder.cutout.extract import Room, extract
from lensfinder.ledger import read_index

BANDS = ("u", "g", "r", "i")
SIZE = 101
NOISE = 1.7e-12  # KiDS' own unit
NJY = 10 ** (31.4 / 2.5)
FWHM_PIX = 3.5
# Thresholds at which both find the same share of the galaxies and next to nothing else.
SIGMA, SEP_THRESHOLD, PIXELS = 4.6, 1.2, 5


def timed(what: Callable[[], object], repeats: int = 1) -> float:
    """Return the best of `repeats` wall-clock times, s."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        what()
        best = min(best, time.perf_counter() - start)
    return best


def anonymous_mib() -> float:
    """Anonymous memory of this process and its children, MiB."""
    pids = [os.getpid()]
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += [int(child) for child in task.read_text().split()]
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    return total / 1024


@contextmanager
def watched() -> Iterator[list[float]]:
    """Sample anonymous memory while something runs; the list ends with the peak, MiB."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            peak[0] = max(peak[0], anonymous_mib())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


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


def peers(folder: Path, out: Path, wcs: WCS, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Time the others, s."""
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

    found = {"slices": timed(slices, 2), "Cutout2D": timed(cutout2d, 2)}
    found["write"] = timed(write, 2)
    out.unlink()
    try:
        found["astrocut"] = time_astrocut(paths, wcs, x, y)
    except ImportError as error:
        print(f"astrocut: not installed ({error})")
    return found


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

    share = np.linspace(0, len(x) - 1, min(len(x), 100)).astype(int)

    def each() -> None:
        with fits.open(packed) as hdus:
            for k in share:
                a, b = int(x[k]), int(y[k])
                _ = hdus[1].section[b - 50 : b + 51, a - 50 : a + 51]

    return timed(ours), timed(each) * len(x) / len(share)


def columns_of(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    ids = np.array([f"t{number}" for number in range(len(x))], dtype=object)
    return {"id": ids, "ra": x * 0 + 180, "dec": y * 0, "x": x, "y": y}


def recovered(found_xy: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Return completeness at matched-filter S/N above 10, and the share of spurious detections."""
    from scipy.spatial import cKDTree

    tree = cKDTree(found_xy)
    near, _ = tree.query(true[:, :2], distance_upper_bound=3)
    wanted = true[:, 2] > 10
    away, _ = cKDTree(true[:, :2]).query(found_xy, distance_upper_bound=5)
    return float(np.isfinite(near[wanted]).mean()), float((~np.isfinite(away)).mean())


def time_detection(folder: Path, true: np.ndarray) -> list[str]:
    """Time detection through the command's own kernel, and sep, at matched spurious rates."""
    script = Path(__file__)
    lines = []
    for what in ("lensfinder", "sep"):
        if what == "sep" and not importlib.util.find_spec("sep"):
            lines.append("sep: not installed")
            continue
        np.save(folder / "true.npy", true)
        done = subprocess.run(
            [sys.executable, script, "--detect", what, "--folder", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        lines.append(f"{what:12s} {done.stdout.strip() or done.stderr.strip()[-300:]}")
    return lines


def detect_alone(what: str, folder: Path) -> None:
    """Detect in this process alone, so that its memory is its own; print one line."""
    with watched() as peak:
        took, xy = detect_with(what, folder)
    complete, spurious = recovered(xy, np.load(folder / "true.npy"))
    print(
        f"{took:6.1f} s, {len(xy)} objects, completeness {complete:.3f}, "
        f"spurious {spurious:.4f}, anonymous memory at most {peak[0] / 1024:.2f} GiB"
    )


def detect_with(what: str, folder: Path) -> tuple[float, np.ndarray]:
    """Return the time, s, and the positions found."""
    path = folder / "KiDS_DR4.0_180.0_-0.5_r_sci.fits"
    if what == "sep":
        import sep

        sep.set_extract_pixstack(10**7)
        y, x = np.mgrid[-5:6, -5:6]
        kernel = np.exp(-4 * np.log(2) * (x**2 + y**2) / FWHM_PIX**2)
        start = time.perf_counter()
        with fits.open(path) as hdus:
            image = np.ascontiguousarray(hdus[0].data.astype(np.float32)) * np.float32(NJY)
        sky = sep.Background(image)
        image -= sky.back()
        objects = sep.extract(
            image,
            SEP_THRESHOLD,
            err=sky.globalrms,
            filter_kernel=kernel,
            minarea=PIXELS,
            deblend_cont=0.005,
        )
        sep.flux_radius(image, objects["x"], objects["y"], 6 * objects["a"], 0.5)
        took, xy = time.perf_counter() - start, np.column_stack([objects["x"], objects["y"]])
    else:
        from lensfinder.cutout.detect import detect

        kids = survey.load("kids")
        (files,) = tiles.find([path], kids, ("r",))
        start = time.perf_counter()
        with tiles.open_tile(files, kids, ("r",)) as tile:
            pixels = tile.pixels["r"]

            def read(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
                window = pixels[rows, columns]
                return window.flux, window.mask != 0

            found = detect(read, tile.shape_YX, FWHM_PIX, sigma=SIGMA, pixels=PIXELS)
        took, xy = time.perf_counter() - start, np.column_stack([found["x"], found["y"]])
    return took, xy


def run_command(folder: Path, out: Path, catalog: Path, engine: str) -> tuple[float, float]:
    """Run `lensfinder cutout` in this process, whose imports are done; s and peak MiB."""
    sys.argv = [
        *("lensfinder", "cutout", str(folder), "-o", str(out), "--catalog", str(catalog)),
        *("--bands", ",".join(BANDS), "--size", str(SIZE), "--engine", engine, "-q"),
    ]
    with watched() as peak, redirect_stdout(StringIO()):
        start = time.perf_counter()
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, stop.code  # noqa: PT017
        took = time.perf_counter() - start
    return took, peak[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10000)
    parser.add_argument("--targets", type=int, default=10000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--detect", choices=["lensfinder", "sep"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.detect:
        detect_alone(options.detect, options.folder)
        return
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

        # The first run loads pages and modules; shown is the best of the others.
        extracted = timed(partial(extraction, Room()), 3)
        others = peers(folder, Path(name) / "peer.raw", wcs, x, y)
        serial, memory = run_command(folder, Path(name) / "serial", catalog, "serial")
        counts = read_index(Path(name) / "serial")["counts"]
        assert counts["ok"] == options.targets, counts
        local, _ = run_command(folder, Path(name) / "local", catalog, "local")
        floor = others["slices"] + others["write"]
        cutout2d = others["Cutout2D"] + others["write"]

        def line(what: str, seconds: float, *said: str) -> None:
            print(f"{what:44s} {seconds:8.2f} s  {'; '.join(said)}")

        print("\nthrough the whole command (WCS, mask, shard, ledger)")
        line("floor: bare slices and writing", floor, f"writing alone {others['write']:.2f} s")
        for engine, took in (("serial", serial), ("local, cluster start included", local)):
            line(
                f"lensfinder cutout, {engine}",
                took,
                f"{cutout2d / took:.1f} x Cutout2D",
                f"{floor / took:.2f} of the floor",
            )
        print(f"  anonymous memory of the serial run at most {memory:.0f} MiB")
        line("Cutout2D, one open file, writing", cutout2d)
        if "astrocut" in others:
            line("astrocut in memory, from 50 targets", others["astrocut"])
        print("\nextraction alone")
        line("lensfinder", extracted, f"{others['Cutout2D'] / extracted:.1f} x Cutout2D")
        line("Cutout2D", others["Cutout2D"])
        line("bare slices", others["slices"])
        packed, each = time_compressed(folder, x, y)
        print("\none band, tile-compressed")
        line("lensfinder, one pass", packed, f"{each / packed:.1f} x per-cutout access")
        line("per-cutout .section, from 100 targets", each)
        print("\ndetection in the r band")
        print("\n".join(time_detection(folder, true)))


if __name__ == "__main__":
    main()
