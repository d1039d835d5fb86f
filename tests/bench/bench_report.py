"""How long a report takes, and how heavy its page is: prints its figures beside a floor.

    python tests/bench/bench_report.py [--scores 1000000] [--candidates 2000] [--size 101]

The floor of the report is reading the scores and sorting them once; the floor of the page is the
stamps' own bytes. First paint is that of Debian's chromium, opening the page from its file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from lensfinder import schema, shards, tables
from lensfinder.commit import write_json
from lensfinder.ledger import INDEX

_KINDS = np.array(["spiral", "ring", "galaxy", "companions", "merger"])


def write_folder(folder: Path, columns: dict[str, np.ndarray]) -> Path:
    product = folder / "products" / "scores.parquet"
    calibration = {"temperature": 1.2, "training_prevalence": 0.5}
    tables.write_columns(
        product, columns, {"ingredients": {"made": folder.name}, "calibration": calibration}
    )
    write_json(
        folder / INDEX,
        {"stage": "infer", "counts": {}, "products": [{"product": "products/scores.parquet"}]},
    )
    return folder


def scores(n: int, rng: np.random.Generator, *, is_sky: bool) -> dict[str, np.ndarray]:
    is_lens = rng.random(n) < (1e-4 if is_sky else 0.3)
    logit = rng.normal(-6, 2.2, n) + is_lens * rng.normal(11, 3, n)
    flux = rng.lognormal(9, 1, n) * (1 + 0.1 * is_lens)
    side = 18_000
    return {
        "id": np.array([f"{'sky' if is_sky else 'mock'} {i:07d}" for i in range(n)], object),
        "ra": rng.uniform(150, 160, n) if is_sky else np.full(n, np.nan),
        "dec": rng.uniform(-5, 5, n) if is_sky else np.full(n, np.nan),
        "tile": np.array([f"t{i % 100}" if is_sky else "" for i in range(n)], object),
        "x": rng.uniform(0, side, n), "y": rng.uniform(0, side, n),
        "logit": logit, "score": 1 / (1 + np.exp(-logit / 1.2)), "flags": np.zeros(n, np.int32),
        "outcome": np.full(n, "ok", object), "reason": np.full(n, "", object),
        "label": np.full(n, -1) if is_sky else is_lens.astype(int),
        "kind": np.full(n, "", object) if is_sky
        else np.where(is_lens, "lens", _KINDS[rng.integers(0, 5, n)]).astype(object),
        "split": np.full(n, "" if is_sky else "test", object),
        "host_id": np.array(["" if is_sky else f"h{i // 2}" for i in range(n)], object),
        "source_id": np.full(n, "", object), "model_id": np.full(n, "a" * 64, object),
        "theta_e_arcsec": np.where(is_lens, rng.uniform(0.5, 3, n), np.nan),
        "source_snr": np.where(is_lens, rng.lognormal(3.5, 0.7, n), np.nan),
        "mag_g": rng.normal(21, 1, n), "mag_r": rng.normal(20, 1, n),
        "mag_i": rng.normal(19.5, 1, n),
        "stamp_flux_r_njy": flux, "stamp_noise_r_njy": rng.normal(3, 0.2, n),
        "stamp_offset_pix": rng.exponential(0.4, n), "stamp_masked_fraction": np.zeros(n),
    }  # fmt: skip


def write_stamps(path: Path, ids: np.ndarray, size: int, rng: np.random.Generator) -> None:
    n = len(ids)
    yy, xx = np.mgrid[:size, :size] - size // 2
    radius = np.hypot(xx, yy)
    image = rng.normal(0, 3, (n, 3, size, size)).astype(np.float32)
    for k in range(n):
        galaxy = rng.uniform(100, 1500) * np.exp(-radius / rng.uniform(2, 5))
        angle, theta_e = rng.uniform(0, 6.28), rng.uniform(5, 12)
        arc = np.exp(-(((radius - theta_e) / 1.6) ** 2)) * (
            np.cos(np.arctan2(yy, xx) - angle) > 0.4
        )
        counter = np.exp(-(((radius - 0.6 * theta_e) / 1.4) ** 2)) * (
            np.cos(np.arctan2(yy, xx) - angle) < -0.9
        )
        for band, (red, blue) in enumerate([(0.2, 30.0), (0.6, 20.0), (1.0, 12.0)]):
            image[k, band] += red * galaxy + blue * (arc + counter)
    blank = {name: [schema.empty_value(name)] * n for name in schema.REQUIRED_COLUMNS}
    header = shards.Header("infer", "kids", ("g", "r", "i"), 0.2, {"made": "stamps"}, {})
    shards.write(path, header, image, np.zeros(image.shape, np.uint8), {**blank, "id": ids})


def first_paint_s(html: Path) -> list[float]:
    """Seconds from the start of the navigation to the first contentful paint, of three loads."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as started:
        for _ in range(3):
            browser = started.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(html.as_uri())
            page.locator("#shown").wait_for()
            found.append(
                page.evaluate(
                    "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
                )
                / 1000
            )
            browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=int, default=1_000_000, help="half mocks, half sky")
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--size", type=int, default=101)
    parser.add_argument("--keep", type=Path, help="folder for the report")
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    versions = {name: metadata.version(name) for name in ("numpy", "scikit-learn", "pyarrow")}
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))

    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        mocks = write_folder(folder / "mocks", scores(given.scores // 2, rng, is_sky=False))
        columns = scores(given.scores - given.scores // 2, rng, is_sky=True)
        sky = write_folder(folder / "sky", columns)
        best = np.argsort(-columns["logit"])[: given.candidates]
        write_stamps(sky / "candidates.h5", columns["id"][best], given.size, rng)
        # A threshold that as many pass as there are to be shown.
        cut = np.sort(columns["logit"])[-given.candidates]
        negatives = tables.read_columns(mocks / "products" / "scores.parquet", ["logit", "label"])
        fpr = float(np.mean(negatives["logit"][negatives["label"] == 0] > cut))

        start = time.perf_counter()
        for name in (mocks, sky):
            np.sort(tables.read_columns(name / "products" / "scores.parquet")["logit"])
        floor_s = time.perf_counter() - start

        start = time.perf_counter()
        command = [sys.executable, "-m", "lensfinder", "report", mocks, "-o", folder / "out",
                   "--sky", sky, "--fpr", f"{fpr:.6g}", "--engine", "serial", "-q"]  # fmt: skip
        subprocess.run([str(part) for part in command], check=True)
        took_s = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        peak, cpu_s = used.ru_maxrss / 1e6, used.ru_utime + used.ru_stime
        html = folder / "out" / "index.html"
        content = json.loads((folder / "out" / "report.json").read_text())
        shown = len(content["candidates"]["rows"])
        with shards.read(sky / "candidates.h5") as shard:
            raw = shard.image.size

        print(f"report of {given.scores:,} scores: {took_s:.1f} s (asked: < 60), "
              f"{cpu_s:.1f} s of CPU time, peak {peak:.2f} GB (asked: < 2);"
              f" floor, reading and sorting them: {floor_s:.1f} s")  # fmt: skip
        print(f"page of {shown:,} candidates of {given.size} px: {html.stat().st_size / 1e6:.1f} MB"
              f" (asked: < 60); floor, a byte a pixel and band: {raw / 1e6:.1f} MB")  # fmt: skip
        if shutil.which("chromium"):
            paints = ", ".join(f"{paint:.2f}" for paint in first_paint_s(html))
            print(f"first paint from file://: {paints} s (asked: < 2)")


if __name__ == "__main__":
    main()
