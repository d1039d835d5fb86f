"""Composites: whole levels, monotonic, colours kept, and the same again from the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mockfolders import contents
from simulate.test_stage import run

from lensfinder import shards
from lensfinder.ledger import products_of
from lensfinder.simulate import composite, recipe
from lensfinder.simulate.composite import Stretch
from lensfinder.simulate.distributions import RecipeError
from lensfinder.simulate.planning import load_population

PLAIN = Stretch(np.array([2.0, 1.0, 0.5]), 1.0, "clipped", 0.0, white=False)
stretches = st.builds(
    Stretch,
    st.tuples(*[st.floats(0.1, 10)] * 3).map(np.array),
    st.floats(1e-3, 100),
    st.sampled_from(["folded", "clipped", "lifted"]),
    st.floats(0, 100),
    st.booleans(),
)


def sky(seed: int, sigma: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, (3, 9, 9)).astype(np.float32)


@given(stretches, st.integers(0, 9), st.floats(0.01, 1e5))
def test_levels_are_whole_and_within_eight_bits(how: Stretch, seed: int, sigma: float) -> None:
    image_CYX = sky(seed, sigma)
    image_CYX[0, 0, 0] = np.nan
    level_CYX = composite.compose(image_CYX, how)
    good = np.isfinite(level_CYX)
    assert level_CYX.dtype == np.float32
    assert (good == np.isfinite(image_CYX.sum(axis=0))).all()
    assert ((level_CYX[good] >= 0) & (level_CYX[good] <= composite.WHITE)).all()
    assert (level_CYX[good] == np.rint(level_CYX[good])).all()


@given(stretches, st.floats(1, 1e4))
def test_brighter_light_of_one_colour_is_nowhere_darker(how: Stretch, factor: float) -> None:
    ramp_CYX = np.linspace(0, factor, 50)[None, None] * np.array([1.0, 2.0, 3.0])[:, None, None]
    # Its brightest band; where colours are kept, a lifted sky fades from the others.
    brightest = composite.compose(ramp_CYX, how)[:, 0].max(axis=0)
    assert (np.diff(brightest) >= 0).all()


def test_a_faint_pixel_has_the_level_that_was_asked_for() -> None:
    faint_CYX = np.full((3, 1, 1), 8.0)
    level_C = composite.compose(faint_CYX, replace(PLAIN, softening=1e-3))[:, 0, 0]
    assert level_C.tolist() == [16, 8, 4]


def test_bright_light_keeps_its_colour_or_turns_white() -> None:
    bright_CYX = np.array([1e5, 2e5, 2e5])[:, None, None]
    kept_C = composite.compose(bright_CYX, PLAIN)[:, 0, 0]
    assert kept_C.tolist() == [255, 255, 128]
    white_C = composite.compose(bright_CYX, replace(PLAIN, white=True))[:, 0, 0]
    assert white_C.tolist() == [255, 255, 255]


def test_below_the_sky_a_pixel_is_turned_over_or_zero_or_lifted() -> None:
    dark_CYX = np.full((3, 1, 1), -8.0)
    gentle = replace(PLAIN, softening=1e-3, lift=20.0)
    found = {
        floor: composite.compose(dark_CYX, replace(gentle, floor=floor))[1, 0, 0]
        for floor in ("folded", "clipped", "lifted")
    }
    assert found == {"folded": 8, "clipped": 0, "lifted": 12}


def recipe_text(**changed: Any) -> str:
    keys = {"folded": 1.0, "clipped": 1.0, "lifted": 0.0, "white_fraction": 0.5} | changed
    lines = [f"{name} = {value}" for name, value in keys.items()]
    return "\n".join(["base = 'rgb_composite'", "[composite]", *lines])


def test_bad_composites_are_refused_with_all_that_is_wrong() -> None:
    with pytest.raises(RecipeError, match=r"sky_level(.|\n)*white_fraction"):
        recipe.parse(
            recipe_text(
                white_fraction=1.5,
                sky_level='{ distribution = "uniform", low = -1.0, high = 3.0 }',
            ),
            "mine",
        )
    with pytest.raises(RecipeError, match="sum to 0"):
        recipe.parse(recipe_text(folded=0.0, clipped=0.0), "mine")


@pytest.mark.parametrize("bands", [("g", "r"), ("g", "r", "z"), ("u", "g", "r", "i")])
def test_bands_that_make_no_picture_are_refused(bands: tuple[str, ...]) -> None:
    known = load_population("rgb_composite").composite
    assert known is not None
    with pytest.raises(RecipeError, match="expected three"):
        composite.check_bands(bands, known)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    run(folder, population="rgb_composite", count=70, unit_size=64, preview=True)
    return folder


def test_shards_hold_pictures_and_say_so(pictures: Path) -> None:
    (first, *_) = products_of(pictures)
    with shards.read(first) as shard:
        assert shard.header.stretched
    image, catalog = contents(pictures)
    assert ((image >= 0) & (image <= 255) & (image == np.rint(image))).all()
    assert len(np.unique(catalog["composite_softening"])) == 70
    assert (catalog["composite_g_level_per_njy"] > 0).all()


def test_the_table_of_truth_makes_the_same_pictures_again(pictures: Path, tmp_path: Path) -> None:
    run(tmp_path, truth=pictures / "truth.parquet", count=None, size=None)
    again, _ = contents(tmp_path)
    assert again.tobytes() == contents(pictures)[0].tobytes()
