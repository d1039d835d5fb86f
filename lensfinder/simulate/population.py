"""Draws of a population: one truth row for each object index, the same whoever asks for it.

A row says everything that `render` needs. Lengths are in arcsec, positions relative to the centre
of the galaxy with +x along rows of the image, position angles east of north (north up, east left,
as modelled stamps stand). Values that a kind does not have are NaN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lensfinder.simulate import composite
from lensfinder.simulate.distributions import RecipeError
from lensfinder.simulate.families import Row, colours_minus_r
from lensfinder.simulate.kinds import DRAW
from lensfinder.simulate.recipe import Population
from lensfinder.simulate.sections import MAX_CLUMPS, MAX_COMPANIONS

Field = dict[str, np.ndarray]

# Keeps the random numbers of this stage apart from those of others with the same seed.
STAGE_KEY = 0x51A0

_GALAXY = ("z_galaxy", "bulge_re_arcsec", "bulge_n", "bulge_q", "bulge_pa_deg")
_DISC = ("disc_re_arcsec", "disc_q", "disc_pa_deg")
_LENS = ("z_lens", "z_source", "sigma_v_km_s", "theta_e_arcsec", "q_lens", "pa_lens_deg")
_SHEAR = ("shear", "pa_shear_deg")
_POTENTIAL = ("lens_slope", "grf_kappa_rms", "grf_power", "grf_seed")
_SOURCE = ("x_arcsec", "y_arcsec", "re_arcsec", "n", "q", "pa_deg")
_CLUMP = ("x_arcsec", "y_arcsec", "sigma_arcsec", "fraction")
_BLOB = ("x_arcsec", "y_arcsec", "re_arcsec", "n", "q", "pa_deg", "fraction")
_PARTNER = ("x_arcsec", "y_arcsec", "re_arcsec", "n", "q", "pa_deg")
_ARMS = ("arm_count", "arm_pitch_deg", "arm_phase_deg", "arm_sharpness", "arm_re_arcsec")
_ARTEFACT = (
    "pa_deg",
    "azimuth_deg",
    "band",
    "distance_arcsec",
    "snr",
    "count",
    "length_pixels",
    "bend_deg",
)
_KNOTS = (
    "knot_count",
    "knot_fraction",
    "knot_mag_r",
    "knot_re_arcsec",
    "knot_bluer_mag",
    "knot_line_mag",
    "knot_lopsidedness",
)
_RING_SHAPE = ("ring_radius_arcsec", "ring_width_arcsec", "ring_q", "ring_pa_deg")
_RING_KNOTS = (
    "ring_lopsidedness",
    "ring_knot_contrast",
    "ring_knot_count",
    "ring_phase_deg",
    "ring_seed",
)


@functools.cache
def columns(bands: tuple[str, ...]) -> tuple[str, ...]:
    """Names of all columns of a truth row, in order, for these bands."""
    names = [
        "kind",
        "label",
        "sky_fraction",
        "dx",
        "dy",
        "centre_x_arcsec",
        "centre_y_arcsec",
        "surroundings_seed",
    ]
    names += [f"mag_{b}" for b in bands]
    names += [*_GALAXY, *_DISC, *_LENS, *_SHEAR, *_POTENTIAL, *(f"source_{c}" for c in _SOURCE)]
    names += ["source_stamp", "source_stamp_pixel_arcsec", "psf_index"]
    names += ["feature_snr", "feature_mag_r", "feature_peak_ratio", "feature_peak_njy"]
    names += [*_ARMS, *_RING_SHAPE, *_RING_KNOTS]
    for part in ("bulge", "disc", "partner"):
        names += [f"mag_{part}_{b}" for b in bands]
    names += [f"feature_{b}_minus_r" for b in bands] + [f"clump_{b}_minus_r" for b in bands]
    names += [f"partner_{c}" for c in _PARTNER]
    names += [f"clump_{k}_{c}" for k in range(1, MAX_CLUMPS + 1) for c in _CLUMP]
    names += _KNOTS
    names += ["group_count", "artefact", *(f"artefact_{c}" for c in _ARTEFACT)]
    names += [f"mag_artefact_{b}" for b in bands]
    names += [f"companion_{k}_{c}" for k in range(1, MAX_COMPANIONS + 1) for c in _BLOB]
    return tuple(names)


def generator(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of (seed, stage, key...): never of a worker, an order or a total."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, STAGE_KEY, *key])))


def check_bands(population: Population, bands: tuple[str, ...]) -> None:
    """Refuse bands for which the recipe has no colours.

    Raises
    ------
    RecipeError
        naming them and the bands that there are; or where they make no colour picture
    """
    known = population.colours.bands()
    missing = [b for b in bands if b not in known]
    if missing:
        raise RecipeError(
            f"population '{population.name}' has no colours in {', '.join(missing)}; "
            f"expected bands among {', '.join(sorted(known))}: add them to its [colours]"
        )
    if population.composite is not None:
        composite.check_bands(bands, population.composite)
    gains = population.observing.electrons_per_njy
    missing = [b for b in bands if gains and b not in gains]
    if missing:
        raise RecipeError(
            f"population '{population.name}' has no observing.electrons_per_njy in "
            f"{', '.join(missing)}; expected one for each band, or none at all"
        )


def draw(
    population: Population,
    bands: tuple[str, ...],
    seed: int,
    index: int,
    *,
    kind: str | None = None,
    attempt: int = 0,
) -> Row:
    """Truth row of object `index`.

    Parameters
    ----------
    bands : any that the recipe has colours for
    seed : of the run
    index : of the object, >= 0
    kind : to draw; by default the recipe's fractions decide
    attempt : number of an alternative draw of the same object

    Returns
    -------
    row : with the keys of `columns(bands)`

    Raises
    ------
    RecipeError
        if the recipe's bounds contradict one another
    """
    rng = generator(seed, 1, index, attempt)
    row: Row = dict.fromkeys(columns(bands), math.nan)
    if kind is None:
        positive = bool(rng.random() < population.positive_fraction)
        kind = "lens" if positive else _negative_kind(population, rng)
    row["kind"], row["artefact"] = kind, ""
    row["label"] = int(kind == "lens")
    shares: Mapping[Any, float] = population.sky_fraction
    row["sky_fraction"] = shares.get(kind, math.nan)
    row["dx"], row["dy"] = rng.random() - 0.5, rng.random() - 0.5
    scatter = population.conditions.centroid_scatter_arcsec
    row["centre_x_arcsec"], row["centre_y_arcsec"] = rng.normal(0, scatter, 2).tolist()
    row["surroundings_seed"] = int(rng.integers(2**32))
    DRAW[kind](row, population, bands, rng)
    add_total_magnitudes(row, bands)
    return row


def add_total_magnitudes(row: Row, bands: tuple[str, ...]) -> None:
    """Write the magnitude of bulge and disc together, in place; NaN without either."""
    for band in bands:
        flux = sum(
            10 ** (-0.4 * magnitude)
            for part in ("bulge", "disc")
            if math.isfinite(magnitude := float(row[f"mag_{part}_{band}"]))
        )
        row[f"mag_{band}"] = -2.5 * math.log10(flux) if flux else math.nan


def draw_conditions(
    population: Population,
    psf_fwhm_arcsec: dict[str, float],
    sky_rms_njy: dict[str, float],
    seed: int,
    index: int,
) -> dict[str, float]:
    """Observing conditions of object `index`: what the survey has, with scatter.

    Parameters
    ----------
    psf_fwhm_arcsec, sky_rms_njy : typical values by band, in the survey's order

    Returns
    -------
    conditions : psf_fwhm_<band>_arcsec and sky_rms_<band>_njy, and noise_correlation_pixels where
        the recipe has it
    """
    rng = generator(seed, 2, index)
    scatter = population.conditions
    result = {}
    for band, fwhm in psf_fwhm_arcsec.items():
        psf, sky = (
            min(max(sigma * rng.standard_normal(), -0.5), 0.5)
            for sigma in (scatter.psf_scatter, scatter.sky_scatter)
        )
        result[f"psf_fwhm_{band}_arcsec"] = fwhm * math.exp(psf)
        result[f"sky_rms_{band}_njy"] = (
            sky_rms_njy[band] * math.exp(sky) / math.sqrt(scatter.epochs)
        )
    if scatter.noise_correlation_pixels is not None:
        result["noise_correlation_pixels"] = scatter.noise_correlation_pixels.sample(rng)
    return result


def draw_surroundings(
    population: Population,
    bands: tuple[str, ...],
    surroundings_seed: float | str,
    half_width_arcsec: float,
) -> Field:
    """Field galaxies and stars of one stamp.

    Parameters
    ----------
    surroundings_seed : of the row; NaN: nothing is near
    half_width_arcsec : objects fall anywhere in a square of twice this width about the target

    Returns
    -------
    field : x_arcsec, y_arcsec, re_arcsec (0 for a star), n, q, phi_rad of shape (K,), and
        flux_njy of shape (K, bands)
    """
    if math.isnan(float(surroundings_seed)):
        return make_field(np.zeros((0, 6)), np.zeros((0, len(bands))))
    rng = generator(int(surroundings_seed), 3)
    recipe = population.surroundings
    count = int(rng.poisson(recipe.density_per_arcmin2 * (2 * half_width_arcsec / 60) ** 2))
    table = np.zeros((count, 6))
    flux_njy = np.zeros((count, len(bands)))
    steepness = recipe.log_counts_slope * math.log(10)
    faintest = recipe.mag_r_high
    weight_of_bright_end = math.exp(-steepness * (faintest - recipe.mag_r_low))
    for k in range(count):
        x, y = ((2 * rng.random() - 1) * half_width_arcsec for _ in range(2))
        # Counts grow as 10^(slope m); the inverse of their cumulative distribution.
        mag_r = faintest + math.log(1 - rng.random() * (1 - weight_of_bright_end)) / steepness
        q, phi = recipe.q.sample(rng), rng.uniform(0, math.pi)
        z = recipe.z.sample(rng)
        size = recipe.r_e_arcsec_at_mag_23 * 10 ** (
            recipe.r_e_dex_per_mag * (mag_r - 23) + rng.normal(0, recipe.r_e_scatter_dex)
        )
        family = rng.random()
        if family < recipe.star_fraction:
            track, n, size = population.colours.star, 1.0, 0.0
        elif family < recipe.star_fraction + recipe.early_type_fraction:
            track, n = population.colours.early_type, 3.0
        else:
            track, n = population.colours.late_type, 1.0
        table[k] = x, y, size, n, q, phi
        colours = colours_minus_r(population, track, bands, z, rng)
        flux_njy[k] = [10 ** (-0.4 * (mag_r + c - 31.4)) for c in colours]
    return make_field(table, flux_njy)


def draw_members(population: Population, bands: tuple[str, ...], row: Row) -> Field:
    """The other members of a group, about its first; nobody about a galaxy without a group.

    Returns
    -------
    field : as `draw_surroundings`
    """
    recipe = population.group
    if recipe is None or not float(row["group_count"]) >= 1:
        return make_field(np.zeros((0, 6)), np.zeros((0, len(bands))))
    rng = generator(int(row["surroundings_seed"]), 8)
    count, z = round(float(row["group_count"])), float(row["z_galaxy"])
    # The first in r; without r, what the reddest band that there is says of it.
    if "r" in bands:
        first = _whole_mag(row, "r")
    else:
        (colour,) = population.colours.early_type.typical(bands[-1:], z, rng)
        first = _whole_mag(row, bands[-1]) - colour
    table, flux_njy = np.zeros((count, 6)), np.zeros((count, len(bands)))
    for k in range(count):
        distance, azimuth = recipe.distance_arcsec.sample(rng), rng.uniform(0, 2 * math.pi)
        fainter = recipe.mag_difference.sample(rng)
        is_early = rng.random() < recipe.early_type_fraction
        track = population.colours.early_type if is_early else population.colours.late_type
        size = float(row["bulge_re_arcsec"]) * 10 ** (-0.2 * fainter + rng.normal(0, 0.1))
        x, y = distance * math.cos(azimuth), distance * math.sin(azimuth)
        q, phi = population.surroundings.q.sample(rng), rng.uniform(0, math.pi)
        table[k] = x, y, max(size, 0.1), 3.5 if is_early else 1.0, q, phi
        colours = colours_minus_r(population, track, bands, z, rng)
        flux_njy[k] = [10 ** (-0.4 * (first + fainter + c - 31.4)) for c in colours]
    return make_field(table, flux_njy)


def _whole_mag(row: Row, band: str) -> float:
    """Magnitude of bulge and disc together."""
    bulge, disc = float(row[f"mag_bulge_{band}"]), float(row[f"mag_disc_{band}"])
    if math.isnan(disc):
        return bulge
    return bulge - 2.5 * math.log10(1 + 10 ** (0.4 * (bulge - disc)))


def join_fields(*fields: Field) -> Field:
    """Several fields as one."""
    return {name: np.concatenate([field[name] for field in fields]) for name in fields[0]}


def make_field(table_K6: np.ndarray, flux_njy: np.ndarray) -> Field:
    """A field from x, y, r_e, n, q and phi of each object, and its fluxes."""
    names = ("x_arcsec", "y_arcsec", "re_arcsec", "n", "q", "phi_rad")
    return {name: table_K6[:, i] for i, name in enumerate(names)} | {"flux_njy": flux_njy}


def _negative_kind(population: Population, rng: np.random.Generator) -> str:
    threshold = rng.random() * sum(population.negatives.values())
    for kind, weight in population.negatives.items():
        threshold -= weight
        if threshold < 0:
            return kind
    return next(kind for kind, weight in population.negatives.items() if weight > 0)
