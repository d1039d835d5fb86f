"""Whole mocks of an index range: truth, images and the columns of the contract, nothing written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensfinder.simulate.families import Row
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.population import (
    draw,
    draw_conditions,
    draw_surroundings,
    generator,
)
from lensfinder.simulate.recipe import Population
from lensfinder.simulate.render import CHUNK, add_noise, render
from lensfinder.simulate.splits import split_of


@dataclass(frozen=True)
class Sky:
    """Typical conditions of a survey, by band.

    Attributes
    ----------
    psf_fwhm_arcsec : as observed
    sky_rms_njy : of a pixel
    """

    psf_fwhm_arcsec: dict[str, float]
    sky_rms_njy: dict[str, float]


@dataclass(frozen=True)
class Mocks:
    """Mocks of an index range.

    Attributes
    ----------
    image_NCHW : float32, nJy
    mask_NCHW : uint8, 0 good
    columns : contract and truth, each of length N
    """

    image_NCHW: np.ndarray
    mask_NCHW: np.ndarray
    columns: dict[str, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """What all mocks of a run have in common.

    Attributes
    ----------
    population : the recipe
    observation : what the telescope does to every mock
    sky : typical conditions
    survey : its name
    seed : of the run
    val_fraction, test_fraction : of hosts that fall into these splits
    """

    population: Population
    observation: Observation
    sky: Sky
    survey: str
    seed: int
    val_fraction: float
    test_fraction: float

    @classmethod
    def of(cls, ingredients: Mapping[str, Any]) -> Setting:
        """Take it from the ingredients of a product of `simulate`."""
        keys, sky = ingredients["simulate"], ingredients["sky"]
        return cls(
            population=Population.model_validate(ingredients["population"]),
            observation=Observation(
                bands=tuple(keys["bands"]),
                size=keys["size"],
                pixel_scale_arcsec=sky["pixel_scale_arcsec"],
                reference_band=sky["reference_band"],
            ),
            sky=Sky(sky["psf_fwhm_arcsec"], sky["sky_rms_njy"]),
            survey=sky["survey"],
            seed=ingredients["seed"],
            val_fraction=keys["val_fraction"],
            test_fraction=keys["test_fraction"],
        )


def mock_id(index: int, prefix: str = "mock") -> str:
    """Name of a mock."""
    return f"{prefix}-{index:08d}"


def make_modelled(setting: Setting, indices: range, prefix: str = "mock") -> Mocks:
    """Make mocks on modelled hosts.

    Parameters
    ----------
    setting : what all of them have in common
    indices : of the objects, consecutive; the first a multiple of 64
    prefix : of their ids

    Raises
    ------
    ValueError
        if the range doesn't start with a chunk
    RecipeError
        if the recipe's bounds contradict one another
    """
    if indices.start % CHUNK or indices.step != 1:
        raise ValueError(f"{indices} does not start with a chunk of {CHUNK}")
    population, observation, sky = setting.population, setting.observation, setting.sky
    bands, seed = observation.bands, setting.seed
    rows: list[Row] = []
    images, truths = [], []
    for first in range(indices.start, indices.stop, CHUNK):
        # The last chunk is rendered whole, so that its mocks don't change as the count grows.
        chunk = range(first, first + CHUNK)
        drawn: list[Row] = [
            {
                **draw(population, bands, seed, i),
                **draw_conditions(population, sky.psf_fwhm_arcsec, sky.sky_rms_njy, seed, i),
            }
            for i in chunk
        ]
        surroundings = [
            draw_surroundings(
                population, bands, int(row["surroundings_seed"]), observation.half_width_arcsec
            )
            for row in drawn
        ]
        rendered = render(drawn, surroundings, observation)
        image = add_noise(
            rendered.background_NCHW + rendered.feature_NCHW,
            drawn,
            observation,
            [generator(seed, 4, i) for i in chunk],
        )
        wanted = min(indices.stop - first, CHUNK)
        rows += drawn[:wanted]
        images.append(image[:wanted])
        truths.append({name: values[:wanted] for name, values in rendered.truth.items()})
    image_NCHW = np.concatenate(images)
    ids = [mock_id(i, prefix) for i in indices]
    columns = {
        **_as_columns(rows),
        **{name: np.concatenate([truth[name] for truth in truths]) for name in truths[0]},
        **contract_columns(
            ids,
            host_id=[f"host-{name}" for name in ids],
            split=[
                split_of(f"host-{name}", setting.val_fraction, setting.test_fraction)
                for name in ids
            ],
            has_source=[row["kind"] == "lens" for row in rows],
        ),
    }
    return Mocks(image_NCHW, np.zeros(image_NCHW.shape, dtype=np.uint8), columns)


def _as_columns(rows: list[Row]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def contract_columns(
    ids: list[str],
    *,
    host_id: list[str],
    split: list[str],
    has_source: list[bool],
    place: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Columns of the contract that rows don't bring along.

    Parameters
    ----------
    ids, host_id, split : of each mock
    has_source : whether a lensed source is in it; its id is the mock's own, so never shared
    place : ra, dec, tile, x, y and flags of real hosts; modelled ones are nowhere
    """
    n = len(ids)
    nowhere = {
        "ra": np.full(n, math.nan),
        "dec": np.full(n, math.nan),
        "tile": np.array([""] * n),
        "x": np.full(n, math.nan),
        "y": np.full(n, math.nan),
        "flags": np.zeros(n, dtype=np.int32),
    }
    sources = [f"source-{i}" if has else "" for i, has in zip(ids, has_source, strict=True)]
    return {
        "id": np.array(ids),
        **nowhere,
        **(place or {}),
        "split": np.array(split),
        "host_id": np.array(host_id),
        "source_id": np.array(sources),
    }
