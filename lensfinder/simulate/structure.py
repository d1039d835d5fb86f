"""What is uneven in late types and mergers: knots of young stars, tidal tails and plumes.

All of it is made of small Gaussian blobs, drawn like other galaxies of the field, so that each has
its own colours. Where a truth row leaves them open they follow from its `surroundings_seed`, and
are the same whoever draws them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lensfinder.simulate.families import Row, colours_minus_r
from lensfinder.simulate.population import Field, generator, make_field
from lensfinder.simulate.recipe import Population

Floats = npt.NDArray[np.float64]

# r_e over standard deviation of a Gaussian, which is a Sersic profile of index 0.5.
_R_E_PER_SIGMA = math.sqrt(2 * math.log(2))
# Blobs that a tail is made of, and how far round the galaxy it may wind.
_TAIL_BLOBS, _TAIL_TURN_RAD = 14, 2.2


def draw_structure(population: Population, bands: tuple[str, ...], row: Row) -> Field:
    """Knots of a late type, and tails of a merger; nothing for others.

    Returns
    -------
    field : as `population.draw_surroundings`
    """
    tables: list[Floats] = [np.zeros((0, 6))]
    flux_njy = [np.zeros((0, len(bands)))]
    knots = float(row["knot_count"])
    if knots >= 1 and math.isfinite(float(row["disc_re_arcsec"])):
        rng = generator(int(row["surroundings_seed"]), 10)
        table, share_K = _knots(row, round(knots), rng)
        tables.append(table)
        total = float(row["knot_fraction"]) * 10 ** (0.4 * (31.4 - float(row["knot_mag_r"])))
        flux_njy.append(_coloured(population, bands, row, total * share_K, rng))
    if row["kind"] == "merger":
        rng = generator(int(row["surroundings_seed"]), 11)
        table, share_K = _tails(row, rng)
        tables.append(table)
        total = 10 ** (0.4 * (31.4 - np.nan_to_num(float(row["feature_mag_r"]), nan=math.inf)))
        flux_njy.append(_coloured(population, bands, row, total * share_K, rng))
    table = np.concatenate(tables)
    # A row of one's own may leave the place of the galaxy open.
    table[:, 0] += np.nan_to_num(float(row["centre_x_arcsec"]))
    table[:, 1] += np.nan_to_num(float(row["centre_y_arcsec"]))
    return make_field(table, np.concatenate(flux_njy))


def _coloured(
    population: Population,
    bands: tuple[str, ...],
    row: Row,
    flux_r_K: Floats,
    rng: np.random.Generator,
) -> Floats:
    """Flux of each blob in each band; bluer than the disc, and red in r where lines shine."""
    z, direction = float(row["z_galaxy"]), population.colours.scatter_direction
    bluer, line = (np.nan_to_num(float(row[f"knot_{name}_mag"])) for name in ("bluer", "line"))
    flux = np.empty((len(flux_r_K), len(bands)))
    for k, flux_r in enumerate(flux_r_K):
        colours = colours_minus_r(population, population.colours.late_type, bands, z, rng)
        for b, (band, colour) in enumerate(zip(bands, colours, strict=True)):
            shift = 0.0 if band == "r" else line - bluer * direction[band]
            flux[k, b] = flux_r * 10 ** (-0.4 * (colour + shift))
    return flux


def _knots(row: Row, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Knots of a disc, along its arms where it has some: table as of a field, and shares."""
    r_e, q = float(row["disc_re_arcsec"]), float(row["disc_q"])
    phi = math.radians(float(row["disc_pa_deg"]) + 90)
    # In half-light radii, in the plane of the disc.
    radius = np.clip(rng.gamma(3.0, 0.42, count), 0.15, 3.5)
    if row["kind"] == "spiral":
        arms = max(float(row["arm_count"]), 1.0)
        pitch = math.radians(float(row["arm_pitch_deg"]))
        phase = math.radians(float(row["arm_phase_deg"])) - phi
        azimuth: Floats = phase + np.log(np.maximum(radius, 0.3)) / math.tan(pitch)
        azimuth += 2 * math.pi / arms * rng.integers(round(arms), size=count)
        azimuth += rng.normal(0, 0.13, count)
        radius = np.maximum(radius, 0.5)
    else:
        azimuth = rng.uniform(0, 2 * math.pi, count)
    shift, towards = float(row["knot_lopsidedness"]), rng.uniform(0, 2 * math.pi)
    x = radius * np.cos(azimuth) + shift * math.cos(towards)
    y = radius * np.sin(azimuth) + shift * math.sin(towards)
    # Circularised radii: the major axis is r_e / sqrt(q).
    x, y = x * r_e / math.sqrt(q), y * r_e * math.sqrt(q)
    size = float(row["knot_re_arcsec"]) * 10 ** rng.normal(0, 0.15, count)
    share = np.exp(rng.normal(0, 0.9, count))
    table = np.stack(
        [
            x * math.cos(phi) - y * math.sin(phi),
            x * math.sin(phi) + y * math.cos(phi),
            size,
            np.full(count, 0.5),
            rng.uniform(0.55, 1.0, count),
            rng.uniform(0, math.pi, count),
        ],
        axis=1,
    )
    return table, share / share.sum()


def _tails(row: Row, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Tidal tails of a merger's galaxies, and a plume: table as of a field, and shares."""
    length = float(row["arm_re_arcsec"])
    pitch = math.radians(float(row["arm_pitch_deg"]))
    partner = float(row["partner_x_arcsec"]), float(row["partner_y_arcsec"])
    away = math.atan2(partner[1], partner[0])
    tables, shares = [], []
    # One leaves the galaxy on the far side, the other its partner.
    for tail in range(round(float(row["arm_count"]))):
        start, out = ((0.0, 0.0), away + math.pi) if tail == 0 else (partner, away)
        t = (np.arange(_TAIL_BLOBS) + rng.uniform(-0.3, 0.3, _TAIL_BLOBS)) / _TAIL_BLOBS
        radius = length * (0.35 + rng.uniform(0.9, 2.2) * np.abs(t))
        turn = math.copysign(_TAIL_TURN_RAD * math.cos(pitch), pitch) * rng.uniform(0.3, 1.0)
        azimuth = out + rng.normal(0, 0.3) + turn * t + np.cumsum(rng.normal(0, 0.05, _TAIL_BLOBS))
        x, y = start[0] + radius * np.cos(azimuth), start[1] + radius * np.sin(azimuth)
        along = np.arctan2(np.gradient(y), np.gradient(x))
        width = length * (0.10 + 0.16 * np.abs(t)) * np.exp(rng.normal(0, 0.25, _TAIL_BLOBS))
        shape = [width * _R_E_PER_SIGMA, np.full(_TAIL_BLOBS, 0.5)]
        tables.append(np.stack([x, y, *shape, rng.uniform(0.3, 0.7, _TAIL_BLOBS), along], axis=1))
        shares.append(
            np.exp(-1.5 * np.abs(t) + rng.normal(0, 0.6, _TAIL_BLOBS)) * rng.uniform(0.4, 1)
        )
    angle, distance = rng.uniform(0, 2 * math.pi), length * rng.uniform(0.2, 1.0)
    plume = [distance * math.cos(angle), distance * math.sin(angle), length * rng.uniform(0.5, 1.1)]
    plume += [0.8, rng.uniform(0.35, 0.8), rng.uniform(0, math.pi)]
    tails = np.concatenate(shares)
    plume_share = rng.uniform(0.1, 0.5)
    share = np.append(tails / tails.sum() * (1 - plume_share), plume_share)
    return np.concatenate([*tables, np.array([plume])]), share
