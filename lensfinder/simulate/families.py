"""Two families of galaxies, early and late type, and their colours.

Each function writes the light of one galaxy into a truth row and returns what the rest of the row
hangs on. Numbers are drawn one after another from the generator that is handed in.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lensfinder.simulate import cosmology
from lensfinder.simulate.colours import Track
from lensfinder.simulate.distributions import Distribution, RecipeError
from lensfinder.simulate.forecast import Forecast, axis_ratio
from lensfinder.simulate.forecast import draw as draw_system
from lensfinder.simulate.recipe import Population
from lensfinder.simulate.sections import Knots, Lenticular

Row = dict[str, float | str]

# A joint draw is repeated until it obeys the recipe's bounds; more often means they contradict.
MAX_REDRAWS = 2000


class SourceDraw(NamedTuple):
    """The source of a forecast's system, unlensed."""

    mag_r: float
    r_e_arcsec: float
    beta_over_theta_e: float


class EarlyTypeDraw(NamedTuple):
    """What an early-type galaxy does, or would do, to a source behind it."""

    theta_e_arcsec: float
    z_source: float
    sigma_v_km_s: float
    mag_r: float
    # The rest of a system that a forecast drew as a whole.
    source: SourceDraw | None = None


class LateTypeDraw(NamedTuple):
    """Magnitudes of a disc galaxy."""

    mag_r: float
    mag_disc_r: float


def colours_minus_r(
    population: Population,
    track: Track,
    bands: tuple[str, ...],
    z: float,
    rng: np.random.Generator,
) -> list[float]:
    """m_band - m_r of one galaxy: one number strays it along the scatter direction."""
    stray = track.sigma * rng.standard_normal()
    direction = population.colours.scatter_direction
    typical = track.typical(bands, z, rng)
    return [
        0.0 if band == "r" else colour + direction[band] * stray
        for band, colour in zip(bands, typical, strict=True)
    ]


def position_angle_deg(rng: np.random.Generator) -> float:
    """A direction on the sky, east of north, in [0, 180)."""
    return float(rng.uniform(0, 180))


def early_type(
    row: Row, population: Population, bands: tuple[str, ...], rng: np.random.Generator
) -> EarlyTypeDraw:
    """Write the light of an early-type galaxy, drawn from the Einstein radius it has or would have.

    Raises
    ------
    RecipeError
        if the recipe's bounds on sigma_v and mag_r leave nothing for a theta_e, or a forecast
        discovers nothing
    """
    if population.forecast is not None:
        return _forecast_early_type(row, population, population.forecast, bands, rng)
    recipe = population.early_type
    # Only the rest is redrawn, so that theta_E keeps the distribution that the recipe gives it.
    theta_e = population.lens.theta_e_arcsec.sample(rng)
    for _ in range(MAX_REDRAWS):
        z = recipe.z.sample(rng)
        z_source = population.source.z.sample(rng)
        if z_source < z + population.source.min_redshift_gap:
            continue
        sigma_v = cosmology.sigma_v_km_s(theta_e, z, z_source)
        if not recipe.sigma_v_low_km_s <= sigma_v <= recipe.sigma_v_high_km_s:
            continue
        absolute = (
            recipe.absolute_mag_r_at_220_km_s
            + recipe.mag_per_dex_of_sigma_v * math.log10(sigma_v / 220)
            + rng.normal(0, recipe.absolute_mag_scatter)
        )
        mag_r = absolute + cosmology.distance_modulus(z)
        if recipe.mag_r_low <= mag_r <= recipe.mag_r_high:
            break
    else:
        raise RecipeError(
            f"population '{population.name}': no early-type galaxy with theta_e = {theta_e:.2f} "
            f"arcsec obeys its bounds on sigma_v and mag_r in {MAX_REDRAWS} draws; widen "
            "[early_type] or narrow lens.theta_e_arcsec"
        )
    r_e_kpc = recipe.r_e_kpc_at_220_km_s * 10 ** (
        recipe.r_e_dex_per_mag * (absolute - recipe.absolute_mag_r_at_220_km_s)
        + rng.normal(0, recipe.r_e_scatter_dex)
    )
    row["z_galaxy"] = z
    row["bulge_re_arcsec"] = r_e_kpc / cosmology.kpc_per_arcsec(z)
    row["bulge_n"] = recipe.sersic_n.sample(rng)
    row["bulge_q"] = recipe.q.sample(rng)
    _finish_early_type(row, population, bands, mag_r, rng)
    return EarlyTypeDraw(theta_e, z_source, sigma_v, mag_r)


def _forecast_early_type(
    row: Row,
    population: Population,
    forecast: Forecast,
    bands: tuple[str, ...],
    rng: np.random.Generator,
) -> EarlyTypeDraw:
    """The deflector of a system that would be discovered; a negative leaves its source away."""
    system = draw_system(rng, forecast)
    sigma_v, z, z_source = (system[name] for name in ("sigma_v_km_s", "z_lens", "z_source"))
    row["z_galaxy"] = z
    row["bulge_re_arcsec"] = system["r_e_arcsec"]
    row["bulge_n"] = population.early_type.sersic_n.sample(rng)
    row["bulge_q"] = axis_ratio(rng, forecast.deflectors, sigma_v)
    _finish_early_type(row, population, bands, system["mag_r"], rng)
    return EarlyTypeDraw(
        cosmology.theta_e_arcsec(sigma_v, z, z_source),
        z_source,
        sigma_v,
        system["mag_r"],
        SourceDraw(
            system["mag_source_r"], system["r_e_source_arcsec"], system["beta_over_theta_e"]
        ),
    )


def _finish_early_type(
    row: Row, population: Population, bands: tuple[str, ...], mag_r: float, rng: np.random.Generator
) -> None:
    row["bulge_pa_deg"] = position_angle_deg(rng)
    z = float(row["z_galaxy"])
    colours = colours_minus_r(population, population.colours.early_type, bands, z, rng)
    for band, colour in zip(bands, colours, strict=True):
        row[f"mag_bulge_{band}"] = mag_r + colour
    recipe = population.lenticular
    if recipe is not None and rng.random() < recipe.fraction:
        _lenticular(row, recipe, bands, rng)


def _lenticular(
    row: Row, recipe: Lenticular, bands: tuple[str, ...], rng: np.random.Generator
) -> None:
    """Turn some of an early type's light into a disc."""
    share, q = recipe.disc_share.sample(rng), recipe.disc_q.sample(rng)
    r_e = float(row["bulge_re_arcsec"])
    row["disc_re_arcsec"] = r_e * recipe.disc_r_e_over_whole.sample(rng) * math.sqrt(q)
    row["disc_q"], row["disc_pa_deg"] = q, row["bulge_pa_deg"]
    row["bulge_re_arcsec"] = r_e * recipe.bulge_r_e_over_whole.sample(rng)
    for band in bands:
        whole = float(row[f"mag_bulge_{band}"])
        row[f"mag_disc_{band}"] = whole - 2.5 * math.log10(share)
        row[f"mag_bulge_{band}"] = whole - 2.5 * math.log10(1 - share)


def late_type(
    row: Row,
    population: Population,
    bands: tuple[str, ...],
    rng: np.random.Generator,
    q: float,
    bulge_fraction: float,
    magnitude: Distribution | None = None,
) -> LateTypeDraw:
    """Write the light of a disc of axis ratio `q` with a bulge of `bulge_fraction`.

    `magnitude` takes the place of the recipe's magnitudes of late types.
    """
    recipe = population.late_type
    z, mag_r = recipe.z.sample(rng), (magnitude or recipe.mag_r).sample(rng)
    pa = position_angle_deg(rng)
    r_e = recipe.r_e_arcsec_at_mag_19 * 10 ** (
        recipe.r_e_dex_per_mag * (mag_r - 19) + rng.normal(0, recipe.r_e_scatter_dex)
    )
    # The size is that of the face-on disc; inclining it leaves its major axis.
    row["disc_re_arcsec"], row["disc_q"], row["disc_pa_deg"] = r_e * math.sqrt(q), q, pa
    row["z_galaxy"] = z
    row["bulge_re_arcsec"] = max(r_e * recipe.bulge_r_e_over_disc.sample(rng), 0.05)
    row["bulge_n"] = recipe.bulge_n.sample(rng)
    row["bulge_q"] = recipe.bulge_q.sample(rng)
    row["bulge_pa_deg"] = pa
    # A bulge of nothing would have an infinite magnitude.
    bulge_fraction = max(bulge_fraction, 1e-3)
    mag_bulge = mag_r - 2.5 * math.log10(bulge_fraction)
    mag_disc = mag_r - 2.5 * math.log10(1 - bulge_fraction)
    old = colours_minus_r(population, population.colours.early_type, bands, z, rng)
    young = colours_minus_r(population, population.colours.late_type, bands, z, rng)
    for band, red, blue in zip(bands, old, young, strict=True):
        row[f"mag_bulge_{band}"] = mag_bulge + red
        row[f"mag_disc_{band}"] = mag_disc + blue
    if population.knots is not None:
        _knots(row, population.knots, mag_disc, rng)
    return LateTypeDraw(mag_r, mag_disc)


def _knots(row: Row, recipe: Knots, mag_disc_r: float, rng: np.random.Generator) -> None:
    """Write how many knots of young stars a disc has, and how bright they are together."""
    row["knot_count"] = float(round(recipe.count.sample(rng)))
    row["knot_fraction"], row["knot_mag_r"] = recipe.fraction.sample(rng), mag_disc_r
    size = float(row["disc_re_arcsec"]) * recipe.r_e_over_disc.sample(rng)
    row["knot_re_arcsec"] = min(max(size, 0.03), 1.0)
    row["knot_bluer_mag"] = recipe.bluer_mag.sample(rng)
    row["knot_line_mag"] = recipe.line_mag.sample(rng)
    row["knot_lopsidedness"] = recipe.lopsidedness.sample(rng)


def feature_colours(
    row: Row, population: Population, bands: tuple[str, ...], z: float, rng: np.random.Generator
) -> None:
    """Write the colours of a feature (source, companions, ring, arms) at redshift `z`."""
    colours = colours_minus_r(population, population.colours.source, bands, z, rng)
    for band, colour in zip(bands, colours, strict=True):
        row[f"feature_{band}_minus_r"] = colour
