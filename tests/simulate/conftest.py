"""A recipe and an observation small enough to render in no time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lensfinder.simulate import recipe
from lensfinder.simulate.mocks import Sky
from lensfinder.simulate.observation import Observation

BANDS = ("g", "r", "i")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The stage renders on one thread; small tensors on several only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def population() -> recipe.Population:
    return recipe.parse(recipe.shipped_text("general"), "general")


@pytest.fixture(scope="session")
def observation() -> Observation:
    return Observation(bands=BANDS, size=41, pixel_scale_arcsec=0.2, reference_band="r")


@pytest.fixture(scope="session")
def sky() -> Sky:
    return Sky({"g": 0.84, "r": 0.7, "i": 0.78}, {"g": 6.7, "r": 6.3, "i": 25.0})
