"""How detection compares with `sep`, beside its memory. Part of bench_cutout.py:

    python tests/bench/bench_detect.py lensfinder|sep FOLDER

FOLDER holds the tile that bench_cutout.py makes, and ``true.npy`` with its galaxies.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from astropy.io import fits

from lensfinder import survey, tiles

BANDS = ("u", "g", "r", "i")
NOISE = 1.7e-12  # KiDS' own unit
NJY = 10 ** (31.4 / 2.5)
FWHM_PIX = 3.5
# Thresholds at which both find the same share of the galaxies and next to nothing else.
SIGMA, SEP_THRESHOLD, PIXELS = 4.6, 1.2, 5


def anonymous_mib(process: int) -> float:
    """Anonymous memory of a process and its children, MiB."""
    pids = [process]
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
def watched(process: int | None = None) -> Iterator[list[float]]:
    """Sample anonymous memory while something runs; the list ends with the peak, MiB."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            peak[0] = max(peak[0], anonymous_mib(process or os.getpid()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


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
            [sys.executable, script, what, folder],
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


if __name__ == "__main__":
    detect_alone(sys.argv[1], Path(sys.argv[2]))
