"""How fast `simulate` renders, beside lenstronomy and the floor. Run by hand:

    python tests/bench/bench_simulate.py [--systems 256] [--count 2048]

One process, one thread, checked. All render the same systems: an isothermal ellipsoid with shear,
Sersic lens light, a Sersic source, Moffat PSFs, 3 bands of 101 x 101 pixels of 0.2 arcsec, white
noise. Sampling error is that of the lensed source's flux and brightest pixel against a grid twelve
times finer than the pixels, in every part of which each is the same convolution.

The floor is what any renderer that convolves by Fourier transforms must do for a system: for each
band a forward and an inverse real transform of stamp and margin, and a product between; for lens
and source each a logarithm and two exponentials a pixel, and for the deflection two inverse
tangents and a root; a normal number for each pixel of each band, and the stamp written to memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from lenstronomy.Data.imaging_data import ImageData  # noqa: E402
from lenstronomy.Data.psf import PSF  # noqa: E402
from lenstronomy.ImSim.image_model import ImageModel  # noqa: E402
from lenstronomy.LensModel.lens_model import LensModel  # noqa: E402
from lenstronomy.LightModel.light_model import LightModel  # noqa: E402
from oracle import lens_names, model_kwargs, nothing_nearby, system  # noqa: E402
from threadpoolctl import threadpool_info  # noqa: E402

from lensfinder import parallel  # noqa: E402
from lensfinder.simulate.observation import Observation  # noqa: E402
from lensfinder.simulate.observe import unbroadened_fwhm  # noqa: E402
from lensfinder.simulate.render import CHUNK, add_noise, render  # noqa: E402

SCALE, SIZE = 0.2, 101
FWHM = {"g": 0.84, "r": 0.7, "i": 0.78}
BANDS = tuple(FWHM)


def assert_one_thread() -> None:
    """Stop if any library that computes would use more than one thread."""
    torch.set_num_threads(1)
    pools = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
    assert torch.get_num_threads() == 1, torch.get_num_threads()
    assert all(threads == 1 for threads in pools.values()), pools


def cpu_seconds(what: Callable[[], object], repeats: int = 3) -> float:
    """Best of `repeats` times on the processor, s: waiting for another process doesn't count."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        what()
        best = min(best, time.process_time() - start)
    return best


def ours(rows: list[dict[str, Any]], *, compiled: bool) -> None:
    """Images with noise, in chunks."""
    observation = Observation(BANDS, SIZE, SCALE, "r", compiled=compiled)
    for first in range(0, len(rows), CHUNK):
        part = rows[first : first + CHUNK]
        rendered = render(part, nothing_nearby(len(part), len(BANDS)), observation)
        generators = [np.random.default_rng(first + k) for k in range(len(part))]
        image = rendered.background_NCHW + rendered.feature_NCHW
        add_noise(image, part, observation, generators)


class Lenstronomy:
    """One call a band.

    `adaptive`: samples finer by a factor where arcs are, PSF at the pixels' sampling, which is its
    fastest setting but errs by that of the PSF however fine the samples. Else all of the stamp and
    the PSF are sampled finer, by which the error has no floor.
    """

    def __init__(self, factor: int, *, adaptive: bool) -> None:
        self.factor, self.adaptive = factor, adaptive
        half = SIZE // 2 * SCALE
        self.data = ImageData(
            image_data=np.zeros((SIZE, SIZE)),
            transform_pix2angle=np.eye(2) * SCALE,
            ra_at_xy_0=-half,
            dec_at_xy_0=-half,
        )
        fine = 1 if adaptive else factor
        axis = np.arange(-20 * fine, 20 * fine + 1) * SCALE / fine
        self.psf = {}
        for band, fwhm in FWHM.items():
            own = float(unbroadened_fwhm(torch.tensor(fwhm), SCALE, 3.5))
            a = own / (2 * np.sqrt(2 ** (1 / 3.5) - 1))
            kernel = (1 + (axis[None, :] ** 2 + axis[:, None] ** 2) / a**2) ** -3.5
            self.psf[band] = PSF(
                "PIXEL", kernel_point_source=kernel, point_source_supersampling_factor=fine
            )
        y, x = np.indices((SIZE, SIZE)) - SIZE // 2
        self.radius = np.hypot(x, y) * SCALE

    def __str__(self) -> str:
        how = "adaptive" if self.adaptive else "everywhere, PSF too,"
        return f"lenstronomy, {how} {self.factor}x"

    def image(self, row: dict[str, Any], band: str, *, light: bool) -> np.ndarray:
        """One band, as one call."""
        model = ImageModel(
            self.data,
            self.psf[band],
            LensModel(lens_names(row)),
            LightModel(["SERSIC_ELLIPSE"]),
            LightModel(["SERSIC_ELLIPSE"] if light else []),
            kwargs_numerics={
                "supersampling_factor": self.factor,
                "supersampling_convolution": not self.adaptive,
                "compute_mode": "adaptive" if self.adaptive else "regular",
                # An annulus about the ring, and the cusp of the lens.
                "supersampled_indexes": self.radius < 2.0 * row["theta_e_arcsec"],
            },
        )
        kwargs = model_kwargs(row, band, SCALE)
        if not light:
            kwargs["kwargs_lens_light"] = []
        image: np.ndarray = model.image(**kwargs)
        return image

    def render(self, rows: list[dict[str, Any]]) -> None:
        """Images with noise."""
        for k, row in enumerate(rows):
            rng = np.random.default_rng(k)
            for band in BANDS:
                noise = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
                self.image(row, band, light=True) + 6.0 * noise


def floor(count: int) -> None:
    """See above."""
    n = Observation(BANDS, SIZE, SCALE, "r").padded_size
    scene = torch.rand(3, n, n)
    otf = torch.rand(3, n, n // 2 + 1)
    plane, out = torch.rand(n, n), torch.empty(n, n)
    rng = np.random.default_rng(1)
    stamps = np.empty((count, 3, SIZE, SIZE), np.float32)
    first = (n - SIZE) // 2
    for k in range(count):
        for _ in range(2):
            torch.log(plane, out=out)
            torch.exp(out, out=out)
            torch.exp(out, out=out)
        torch.sqrt(plane, out=out)
        torch.atan(out, out=out)
        torch.atan(plane, out=out)
        product = torch.fft.rfft2(scene) * otf
        image = torch.fft.irfft2(product, s=(n, n))
        stamps[k] = image[:, first : first + SIZE, first : first + SIZE]
        stamps[k] += rng.standard_normal((3, SIZE, SIZE), dtype=np.float32)


def errors(images: np.ndarray, expected: np.ndarray) -> str:
    """Of flux and peak, (N, y, x)."""
    flux = np.abs(images.sum(axis=(1, 2)) / expected.sum(axis=(1, 2)) - 1)
    peak = np.abs(images - expected).max(axis=(1, 2)) / expected.max(axis=(1, 2))
    tail = np.percentile(flux, 95)
    return f"flux {np.median(flux):.1e} (95 %: {tail:.1e}), peak {np.median(peak):.1e}"


def whole_command(count: int, *, compiled: bool) -> tuple[float, float]:
    """Processor time a mock through the command line, s, start-up taken off, and start-up."""
    times = []
    for number in (64, 64 + count):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-P", "-m", "lensfinder", "simulate", "-o", f"{folder}/out"]
            command += ["--survey", "kids", "--set", "simulate.bands=g,r,i", "-n", str(number)]
            command += ["--size", str(SIZE), "--engine", "serial", "-q"]
            command += ["--compile"] if compiled else []
            before = os.times()
            subprocess.run(command, check=True)
            after = os.times()
            times.append(
                after.children_user
                - before.children_user
                + after.children_system
                - before.children_system
            )
    return (times[1] - times[0]) / count, times[0]


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", type=int, default=256)
    parser.add_argument("--count", type=int, default=1024, help="mocks through the command")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore", message="`axes` should not be `None`")
    assert_one_thread()
    parallel.keep_buffers()  # as the command does; here for all alike
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "numpy", "lenstronomy"))
    print(f"{platform.processor() or platform.machine()}, 1 thread, {versions}")
    rng = np.random.default_rng(1)
    rows = [system(rng, FWHM) for _ in range(chosen.systems)]

    few = rows[:16]
    peers = [Lenstronomy(4, adaptive=True), Lenstronomy(8, adaptive=True)]
    peers.append(Lenstronomy(4, adaptive=False))
    reference, mine, machine = (
        render(few, nothing_nearby(16, len(BANDS)), Observation(BANDS, SIZE, SCALE, "r", **how))
        .feature_NCHW[:, 1]
        .astype(float)
        for how in ({"supersampling": 12}, {}, {"compiled": True})
    )
    print(f"sampling error {'here':42s} {errors(mine, reference)}")
    print(f"sampling error {'here, compiled':42s} {errors(machine, reference)}")
    for peer in peers:
        theirs = np.stack([peer.image(row, "r", light=False) for row in few])
        print(f"sampling error {peer!s:42s} {errors(theirs, reference)}")

    for compiled in (False, True):
        ours(rows[:64], compiled=compiled)
    for peer in peers:
        peer.render(few[:2])
    floor(4)
    own = {
        f"here, {name}": cpu_seconds(partial(ours, rows, compiled=compiled)) / len(rows)
        for name, compiled in (("torch", False), ("compiled", True))
    }
    others = {str(peer): cpu_seconds(partial(peer.render, few), 2) / len(few) for peer in peers}
    least = cpu_seconds(lambda: floor(len(rows))) / len(rows)
    start = {}
    for name in tuple(own):
        whole, start[name] = whole_command(chosen.count, compiled="compiled" in name)
        own[f"{name}, whole command, population general"] = whole
    print("processor time a system of 3 bands, ms, and systems a second and core:")
    for name, seconds in (*own.items(), *others.items(), ("floor", least)):
        print(f"  {name:56s} {seconds * 1e3:8.2f} {1 / seconds:8.0f}")
    for name, seconds in start.items():
        print(f"  ({name}: start-up of the command {seconds:.1f} s)")
    for mine, seconds in own.items():
        ratios = [f"{other / seconds:.1f} of {name}" for name, other in others.items()]
        print(f"{mine} is as fast as {'; '.join(ratios)}; floor / it {least / seconds:.2f}")


if __name__ == "__main__":
    main()
