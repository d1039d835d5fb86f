"""Compiled kernels: what torch draws, to 1e-5 of the peak, in the same bits wherever they run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mockfolders import contents
from oracle import nothing_nearby, system
from scipy.stats import kstest

from lensfinder import config, runs, shards, tables
from lensfinder.errors import RequestError
from lensfinder.ledger import products_of
from lensfinder.simulate import backends, lensing, noise, recipe
from lensfinder.simulate.compiled import wait_ahead
from lensfinder.simulate.mocks import Setting, Sky, make_modelled
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.population import generator
from lensfinder.simulate.recipe import Population
from lensfinder.simulate.render import add_noise, render
from lensfinder.simulate.sources import SourceImages
from lensfinder.simulate.stream import MockStream

BANDS = ("g", "r", "i")
OPTIONS: dict[str, Any] = {"count": 192, "size": 41, "unit_size": 64, "compile": True}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where machine code is kept, for this process and those that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def compiled(observation: Observation) -> Observation:
    return replace(observation, compiled=True)


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of two images of an object and band, in units of their peaks."""
    peak = np.abs(theirs).max(axis=(2, 3))
    lit = peak > 0
    return float((np.abs(ours - theirs).max(axis=(2, 3))[lit] / peak[lit]).max())


exponents = st.floats(-126, 127, width=32)
positive = st.floats(2.0**-100, 2.0**100, width=32, allow_subnormal=False)


@given(
    x=exponents, size=positive, y=st.floats(-(2.0**50), 2.0**50, width=32, allow_subnormal=False)
)
def test_elementary_functions(x: float, size: float, y: float) -> None:
    from lensfinder.simulate.compiled import maths

    f32 = np.float32
    assert maths.exp2(f32(x)) == pytest.approx(2.0**x, rel=3e-7)
    assert maths.log2(f32(size)) == pytest.approx(np.log2(size), rel=3e-7, abs=2e-7)
    assert maths.log1p(f32(size)) == pytest.approx(np.log1p(size), rel=4e-7)
    assert maths.atan_of(f32(y), f32(size)) == pytest.approx(np.arctan(y / size), rel=4e-7)


def test_normal_numbers_are_those_of_the_same_bits() -> None:
    from lensfinder.simulate.compiled.noise import normals

    for shape in ((3, 101, 101), (1,), (7, 2)):
        ours, theirs = (draw(generator(1, 2, 3), shape) for draw in (normals, noise.normals))
        np.testing.assert_allclose(ours, theirs, atol=3e-6)
        assert ours.dtype == np.float32
    many = normals(generator(4, 5, 6), (500_001,))
    assert kstest(many, "norm").pvalue > 1e-3
    pairs = many[:500_000].reshape(2, -1)
    assert abs(np.corrcoef(pairs)[0, 1]) < 5 / np.sqrt(250_000)


@pytest.mark.parametrize("slope", [2.0, 1.7, 2.2])
@pytest.mark.parametrize("q", [0.2, 0.7, 0.9999, 1.0])
def test_rays_end_where_the_formulas_say(slope: float, q: float) -> None:
    from lensfinder.simulate.compiled.rays import shoot

    rng = np.random.default_rng(3)
    x, y = rng.uniform(-6, 6, (2, 999)).astype(np.float32)
    lens = np.array([1.3, q, 0.4, 0.08, 1.1, slope, 0.2, -0.1], np.float32)
    beta_x, beta_y = np.empty_like(x), np.empty_like(y)
    shoot(x, y, beta_x, beta_y, lens)
    exact = [torch.tensor(float(value), dtype=torch.float64) for value in lens]
    expected = lensing.ray_shoot(
        *(torch.from_numpy(each).double() for each in (x, y)),
        *exact[:5],
        None if slope == 2 else exact[5],
    )
    np.testing.assert_allclose(beta_x, expected[0] - exact[6], atol=6e-6)
    np.testing.assert_allclose(beta_y, expected[1] - exact[7], atol=6e-6)


@pytest.mark.parametrize("name", ["general", "lanusse2018", "collett2015", "bologna"])
@pytest.mark.parametrize("size", [41, 101])
def test_mocks_are_those_of_torch(name: str, size: int) -> None:
    """All kinds, with all that surrounds them, also beyond the edge of the stamp."""
    population = recipe.parse(recipe.shipped_text(name), name)
    sky = Sky({"g": 0.84, "r": 0.7, "i": 0.78}, {"g": 6.7, "r": 6.3, "i": 25.0})
    settings = [
        Setting(
            population, Observation(BANDS, size, 0.2, "r", compiled=c), sky, "kids", 9, 0.1, 0.1
        )
        for c in (False, True)
    ]
    theirs, ours = (make_modelled(setting, range(128)) for setting in settings)
    assert apart(ours.image_NCHW, theirs.image_NCHW) < 1e-5
    for column, values in theirs.columns.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(ours.columns[column], values, rtol=2e-4, err_msg=column)
        else:
            np.testing.assert_array_equal(ours.columns[column], values)


CLUMP = {"x_arcsec": 0.1, "y_arcsec": 0.0, "sigma_arcsec": 0.05, "fraction": 0.3}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"lens_slope": 2.2},
        {"lens_slope": 1.8, "q_lens": 0.3},
        {"shear": 0.0, "q_lens": 1.0},
        {"source_n": 4.0, "source_re_arcsec": 0.05},
        {"source_re_arcsec": 2.0},
        {"centre_x_arcsec": 3.9, "centre_y_arcsec": -3.9},
        {"centre_x_arcsec": 40.0},
        {"theta_e_arcsec": 6.0},
        {"bulge_n": 8.0, "bulge_re_arcsec": 0.05, "bulge_q": 0.2},
        {"grf_kappa_rms": 0.05, "grf_seed": 3.0, "grf_power": 6.0},
        {"source_stamp": 0.0, "source_stamp_pixel_arcsec": 0.02},
        {"psf_fwhm_r_arcsec": 0.25},
        # All of the light in clumps.
        {f"clump_1_{n}": v for n, v in CLUMP.items()} | {"clump_1_fraction": 1.0},
        {f"clump_1_{n}": v for n, v in CLUMP.items()} | {"clump_1_sigma_arcsec": 1e-5},
        {"source_n": 0.3, "source_re_arcsec": 1e-6},
    ],
    ids=str,
)
def test_single_systems_are_those_of_torch(change: dict[str, float]) -> None:
    """Whatever a row may say, alone and beside rows that say nothing of it."""
    rng = np.random.default_rng(5)
    y, x = np.indices((31, 31)) - 15
    blob = np.exp(-np.hypot(x, 1.5 * y) / 3)
    images = SourceImages.of([blob], ["blob"], [0.05])
    rows = [system(rng, dict.fromkeys(BANDS, 0.7)) for _ in range(8)]
    blank = dict.fromkeys(change, np.nan)
    altered = [
        row | ({**change} if k % 2 else {**blank, **{n: row[n] for n in change if n in row}})
        for k, row in enumerate(rows)
    ]
    theirs, ours = (
        render(
            altered,
            nothing_nearby(8, 3),
            Observation(BANDS, 41, 0.2, "r", sources=images, compiled=c),
        )
        for c in (False, True)
    )
    assert apart(ours.background_NCHW, theirs.background_NCHW) < 1e-5
    assert apart(ours.feature_NCHW, theirs.feature_NCHW) < 1e-5
    for name, values in theirs.truth.items():
        np.testing.assert_allclose(ours.truth[name], values, rtol=2e-4, err_msg=name)


def test_steep_small_sources_are_as_good_as_torchs(compiled: Observation) -> None:
    """There neither is better than float32 allows."""
    rng = np.random.default_rng(8)
    rows = [
        system(rng, dict.fromkeys(BANDS, 0.5)) | {"source_n": 4.7, "source_re_arcsec": 0.04}
        for _ in range(32)
    ]
    eager = replace(compiled, compiled=False)
    exact = render(rows, nothing_nearby(32, 3), eager, dtype=torch.float64).feature_NCHW
    theirs, ours = (
        render(rows, nothing_nearby(32, 3), each).feature_NCHW for each in (eager, compiled)
    )
    assert apart(ours, exact) < 1e-4
    assert apart(ours, exact) < 2 * apart(theirs, exact)


@pytest.mark.parametrize("correlation", [0.0, 1.5])
def test_noise_is_that_of_torch(compiled: Observation, correlation: float) -> None:
    rng = np.random.default_rng(5)
    row = system(rng, dict.fromkeys(BANDS, 0.7)) | {"noise_correlation_pixels": correlation}
    image = np.zeros((1, 3, 41, 41), np.float32)
    ours, theirs = (
        add_noise(image, [row], each, [generator(1, 2, 3)])
        for each in (compiled, replace(compiled, compiled=False))
    )
    np.testing.assert_allclose(ours, theirs, atol=3e-5)
    assert ours.std() == pytest.approx(6.0, rel=0.1)


def simulate(folder: Path, **options: Any) -> runs.Summary:
    given = OPTIONS | options
    if "truth" in options and "compile" not in options:
        del given["compile"]
    chosen = config.load(options={"simulate": given})
    return runs.execute("simulate", chosen, folder, runs.Execution(engine="serial", verbosity=-1))


@pytest.fixture(scope="module")
def mocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mocks")
    assert simulate(folder).exit_code == 0
    return folder


def test_other_processes_write_the_same_bytes(
    mocks: Path, tmp_path: Path, lensfinder: Callable[..., Any]
) -> None:
    """This process compiled the kernels, those of the command take what it kept."""
    arguments = ("-n", "192", "--size", "41", "--unit-size", "64", "--compile", "-q")
    done = lensfinder("simulate", "-o", str(tmp_path), *arguments, "--workers", "2")
    assert done.returncode == 0, done.stderr
    (image, catalog), (again, other) = contents(mocks), contents(tmp_path)
    assert again.tobytes() == image.tobytes()
    for name, values in catalog.items():
        np.testing.assert_array_equal(other[name], values)


def test_the_table_of_truth_says_that_they_were_compiled(mocks: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "same", truth=str(mocks / "truth.parquet"))
    assert contents(tmp_path / "same")[0].tobytes() == contents(mocks)[0].tobytes()
    metadata = tables.read_metadata(tmp_path / "same" / "truth.parquet")
    assert metadata is not None
    assert metadata["ingredients"]["simulate"]["compile"] is True
    simulate(tmp_path / "torch", truth=str(mocks / "truth.parquet"), compile=False)
    eager = contents(tmp_path / "torch")[0]
    assert eager.tobytes() != contents(mocks)[0].tobytes()
    assert apart(contents(mocks)[0], eager) < 1e-5


def test_fresh_mocks_for_training_are_compiled_like_those_on_disk(mocks: Path) -> None:
    with shards.read(products_of(mocks, "simulate")[0]) as shard:
        ingredients = shard.header.ingredients
    plain = {**ingredients, "simulate": {**ingredients["simulate"], "compile": False}}
    index = np.arange(10, 20)
    with MockStream(ingredients) as stream, MockStream(plain) as eager:
        assert stream.setting.observation.compiled
        ours, theirs = (each.gather(1, index).image_NCHW for each in (stream, eager))
    assert 0 < apart(ours, theirs) < 1e-5


SHOOT = """
import numpy as np
from lensfinder.simulate.compiled.rays import shoot
x, y = np.random.default_rng(1).uniform(-3, 3, (2, 100)).astype(np.float32)
beta = np.empty((2, 100), np.float32)
shoot(x, y, *beta, np.array([1, 0.7, 0.4, 0.05, 1, 2, 0, 0], np.float32))
print(beta.tobytes().hex())
"""


def test_what_was_kept_may_be_damaged_and_nothing_need_be_kept(tmp_path: Path) -> None:
    def said(cache: Path) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(cache))
            return wait_ahead()

    def shoot(cache: Path) -> str:
        environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
        command = [sys.executable, "-c", SHOOT]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout

    assert "compiled first" in said(tmp_path)
    first = shoot(tmp_path)
    assert said(tmp_path) == ""
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert shoot(tmp_path) == first
    for path in kept:
        path.write_bytes(b"cno_such_module\nnothing\n.")
    assert shoot(tmp_path) == first
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    assert "each process compiles" in said(no_folder)
    assert shoot(no_folder) == first


def test_without_numba_the_request_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: Observation
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="need numba"):
        simulate(tmp_path)
    with pytest.raises(RequestError, match=r"lensfinder\[compile\]"):
        backends.chosen(compiled=True)
    assert backends.chosen(compiled=False) is backends.EAGER


def test_what_compiled_kernels_are_not_for(population: Population, compiled: Observation) -> None:
    with pytest.raises(ValueError, match="adaptive grids"):
        replace(compiled, supersampling=4)
    row = system(np.random.default_rng(5), dict.fromkeys(BANDS, 0.7))
    with pytest.raises(ValueError, match="compiled kernels are float32"):
        render([row], nothing_nearby(1, 3), compiled, dtype=torch.float64)
