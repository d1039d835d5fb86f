"""Whole mocks of an index range: truth, images and the columns of the contract, nothing written."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensfinder import schema
from lensfinder.simulate import composite
from lensfinder.simulate.artefacts import artefact
from lensfinder.simulate.families import Row
from lensfinder.simulate.material import Material
from lensfinder.simulate.noise import Noise, spoil
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.population import (
    draw,
    draw_conditions,
    draw_members,
    draw_surroundings,
    generator,
    join_fields,
)
from lensfinder.simulate.recipe import Population
from lensfinder.simulate.render import CHUNK, add_noise, render
from lensfinder.simulate.sections import Composite
from lensfinder.simulate.splits import split_of
from lensfinder.simulate.structure import draw_structure

# Images of some mocks, (N, C, H, W) in nJy, and what was measured on them.
Chunk = tuple[np.ndarray, dict[str, np.ndarray]]


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
    image_NCHW : float32, nJy, or levels of a picture where the recipe makes composites
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
    material : real images that mocks are made with, or None
    """

    population: Population
    observation: Observation
    sky: Sky
    survey: str
    seed: int
    val_fraction: float
    test_fraction: float
    material: Material | None = None

    @classmethod
    def of(cls, ingredients: Mapping[str, Any], material: Material | None = None) -> Setting:
        """Take it from the ingredients of a product of `simulate`.

        Parameters
        ----------
        ingredients : of a product
        material : real images that it was made with
        """
        keys, sky = ingredients["simulate"], ingredients["sky"]
        population = Population.model_validate(ingredients["population"])
        rules, bands = population.observing, tuple(keys["bands"])
        gains = rules.electrons_per_njy
        return cls(
            population=population,
            observation=Observation(
                bands=bands,
                size=keys["size"],
                pixel_scale_arcsec=sky["pixel_scale_arcsec"],
                reference_band=sky["reference_band"],
                electrons_per_njy=tuple(gains[band] for band in bands) if gains else None,
                psf="image" if material is not None and material.psf is not None else rules.psf,
                moffat_beta=rules.moffat_beta,
                psf_images=None if material is None else material.psf,
                sources=None if material is None else material.sources,
                compiled=keys.get("compile", False),
                noise=Noise(
                    kind=rules.noise,
                    sky_patches_PCYX=None if material is None else material.sky_PCYX,
                    bad_pixel_fraction=rules.bad_pixel_fraction,
                    bad_columns=rules.bad_columns,
                    off_edge_fraction=rules.off_edge_fraction,
                ),
            ),
            sky=Sky(sky["psf_fwhm_arcsec"], sky["sky_rms_njy"]),
            survey=sky["survey"],
            seed=ingredients["seed"],
            val_fraction=keys["val_fraction"],
            test_fraction=keys["test_fraction"],
            material=material,
        )

    @functools.cached_property
    def tag(self) -> str:
        """What sets modelled galaxies of this run apart from those of others, 8 letters."""
        said = f"{self.seed} {self.population.model_dump_json()}"
        return hashlib.sha256(said.encode()).hexdigest()[:8]

    def host_id(self, name: str) -> str:
        """Name of the modelled host of a mock."""
        return f"host-{self.tag}-{name}"

    def split_of_modelled(self, name: str) -> str:
        """Split of a mock on a modelled host."""
        return split_of(self.host_id(name), self.val_fraction, self.test_fraction)

    def source_id(self, row: Row, name: str) -> str:
        """Name of the source in a mock: a modelled one is its own, an image the file's."""
        if row["kind"] != "lens":
            return ""
        stamp = float(row["source_stamp"])
        if self.material is None or self.material.sources is None or math.isnan(stamp):
            return f"source-{self.tag}-{name}"
        return self.material.source_ids[int(stamp)]

    def sources_of(self, split: str) -> np.ndarray:
        """Which source images mocks of a split may show."""
        assert self.material is not None
        return self.material.sources_of(split, self.val_fraction, self.test_fraction)


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
    # The last chunk is rendered whole, so that its mocks don't change as the count grows.
    whole = range(indices.start, indices.start + -(-len(indices) // CHUNK) * CHUNK)
    rows = [modelled_row(setting, setting.seed, i, prefix) for i in whole]
    observed = observe(rows, setting, [(setting.seed, i) for i in whole])
    ids = [mock_id(i, prefix) for i in indices]
    contract = contract_columns(
        ids,
        host_id=[setting.host_id(name) for name in ids],
        split=[setting.split_of_modelled(name) for name in ids],
        noise=[(setting.seed, i) for i in indices],
        source_id=[setting.source_id(row, name) for row, name in zip(rows, ids, strict=False)],
    )
    return assemble(*observed, rows[: len(ids)], contract | {"flags": flags_of(observed[1])})


def modelled_row(setting: Setting, seed: int, index: int, prefix: str = "mock") -> Row:
    """All that there is to know of a modelled mock, as precise as it is stored."""
    population, sky = setting.population, setting.sky
    conditions = draw_conditions(population, sky.psf_fwhm_arcsec, sky.sky_rms_njy, seed, index)
    row = {**draw(population, setting.observation.bands, seed, index), **conditions}
    if setting.material is not None:
        split = setting.split_of_modelled(mock_id(index, prefix))
        usable = setting.sources_of(split)
        setting.material.choose(row, setting.observation.bands, seed, index, usable)
    return as_stored(row)


def assemble(
    image_NCHW: np.ndarray,
    mask_NCHW: np.ndarray,
    truth: Mapping[str, np.ndarray],
    rows: Sequence[Row],
    contract: Mapping[str, np.ndarray],
) -> Mocks:
    """Put mocks together; what was rendered beyond `rows` to fill a chunk is left out.

    Parameters
    ----------
    truth : as measured by `render`
    contract : as from `contract_columns`
    """
    count = len(rows)
    columns = {
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
        **{name: values[:count] for name, values in truth.items()},
        **{name: values[:count] for name, values in contract.items()},
    }
    return Mocks(image_NCHW[:count], mask_NCHW[:count], columns)


def as_stored(row: Row) -> Row:
    """A row as precise as its columns are in a file, so that it renders the same when read back."""
    rounded = dict(row)
    for name, value in row.items():
        known = schema.column(name)
        if known is not None and known.dtype == "float32" and not isinstance(value, str):
            rounded[name] = float(np.float32(value))
    return rounded


def in_chunks(
    make: Callable[[slice, list[np.random.Generator]], Chunk],
    noise: Sequence[tuple[int, int]],
    setting: Setting,
) -> Chunk:
    """Make any number of mocks, a chunk at a time; pictures where the recipe wants them.

    Parameters
    ----------
    make : image and truth of a range of them, with a generator each for their noise
    noise : seed and index of each mock's noise
    setting : what all of them have in common
    """
    images_NCHW, truths = np.empty(0, np.float32), []
    for first in range(0, len(noise), CHUNK):
        chunk = slice(first, first + CHUNK)
        image, truth = make(chunk, [generator(seed, 4, index) for seed, index in noise[chunk]])
        if setting.population.composite is not None:
            image, how = _pictures(image, noise[chunk], setting, setting.population.composite)
            truth = truth | how
        if first == 0:
            images_NCHW = np.empty((len(noise), *image.shape[1:]), np.float32)
        images_NCHW[chunk] = image
        truths.append(truth)
    joined = {name: np.concatenate([truth[name] for truth in truths]) for name in truths[0]}
    return images_NCHW, joined


def observe(
    rows: Sequence[Row], setting: Setting, noise: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Render any number of modelled mocks; `noise` is seed and index of each.

    Returns
    -------
    image_NCHW : float32, nJy, or levels of pictures; NaN beyond the edge of a tile
    mask_NCHW : uint8, 0 good
    truth : as measured by `render`
    """
    image_NCHW, truth = in_chunks(
        lambda chunk, rngs: observe_chunk(rows[chunk], setting, rngs), noise, setting
    )
    mask_NCHW = np.zeros(image_NCHW.shape, dtype=np.uint8)
    if setting.observation.noise.spoils:
        for k, (seed, index) in enumerate(noise):
            image_NCHW[k], mask_NCHW[k] = spoil(
                generator(seed, 13, index), image_NCHW[k], setting.observation.noise
            )
    return image_NCHW, mask_NCHW, truth


def flags_of(mask_NCHW: np.ndarray) -> np.ndarray:
    """What `cutout` would flag of stamps with such pixels, (N,) int32."""
    if not mask_NCHW.any():
        return np.zeros(len(mask_NCHW), np.int32)
    off_edge_N = ((mask_NCHW & schema.MASK_NO_DATA) != 0).any(axis=(1, 2, 3))
    masked_N = ((mask_NCHW != 0).mean(axis=(2, 3)) > schema.MUCH_MASKED).any(axis=1)
    flags_N: np.ndarray = off_edge_N * schema.FLAG_EDGE | masked_N * schema.FLAG_MASKED
    return flags_N.astype(np.int32)


def _pictures(
    image_NCHW: np.ndarray,
    noise: Sequence[tuple[int, int]],
    setting: Setting,
    recipe: Composite,
) -> Chunk:
    """Turn fluxes into composites, each stretched in its own way, and say how."""
    bands = setting.observation.bands
    sky_rms_C = np.array([setting.sky.sky_rms_njy[band] for band in bands])
    stretches = [
        composite.draw(generator(seed, 12, index), recipe, bands, sky_rms_C)
        for seed, index in noise
    ]
    # A chunk may be filled up with mocks that nobody asked for.
    pairs = zip(image_NCHW, stretches, strict=True)
    pictures = np.stack([composite.compose(image_CYX, how) for image_CYX, how in pairs])
    level_NC = np.stack([how.level_per_njy for how in stretches])
    told = {f"composite_{b}_level_per_njy": level_NC[:, c] for c, b in enumerate(bands)}
    return pictures, told | {"composite_softening": np.array([how.softening for how in stretches])}


def observe_chunk(
    rows: Sequence[Row], setting: Setting, generators: Sequence[np.random.Generator]
) -> Chunk:
    """Render a chunk of modelled mocks with all that surrounds them, and its noise.

    Parameters
    ----------
    rows : up to 64, with their conditions
    generators : one for each row, for its noise

    Returns
    -------
    image_NCHW : float32, nJy
    truth : as in `render.Rendered`
    """
    population, observation = setting.population, setting.observation
    bands, half_width = observation.bands, observation.half_width_arcsec
    surroundings = [
        join_fields(
            draw_surroundings(population, bands, row["surroundings_seed"], half_width),
            draw_members(population, bands, row),
            draw_structure(population, bands, row),
        )
        for row in rows
    ]
    rendered = render(rows, surroundings, observation)
    scene_NCHW = rendered.background_NCHW
    scene_NCHW += rendered.feature_NCHW
    for k, row in enumerate(rows):
        if row["artefact"]:
            scene_NCHW[k] += artefact(row, observation)
    return add_noise(scene_NCHW, rows, observation, generators), rendered.truth


def contract_columns(
    ids: list[str],
    *,
    host_id: list[str],
    split: list[str],
    noise: Sequence[tuple[int, int]],
    source_id: list[str],
    place: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Columns of the contract that rows don't bring along.

    Parameters
    ----------
    ids, host_id, split : of each mock
    noise : seed and index of each mock's noise, by which it can be made again
    source_id : of the lensed source in it; empty where there is none
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
    return {
        "id": np.array(ids),
        **nowhere,
        **(place or {}),
        "split": np.array(split),
        "host_id": np.array(host_id),
        "source_id": np.array(source_id),
        "noise_seed": np.array([seed for seed, _ in noise], dtype=np.int64),
        "noise_index": np.array([index for _, index in noise], dtype=np.int64),
    }
