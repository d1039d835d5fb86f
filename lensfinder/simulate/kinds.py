"""What each kind of mock is made of: one function a kind, writing its part of a truth row.

Negatives on early-type hosts go through the same draws as lenses, so that brightness, size and
colour of the host don't tell the classes apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lensfinder.simulate.distributions import RecipeError
from lensfinder.simulate.families import (
    MAX_REDRAWS,
    Row,
    colours_minus_r,
    early_type,
    feature_colours,
    late_type,
    position_angle_deg,
)
from lensfinder.simulate.recipe import ARTEFACTS, Population
from lensfinder.simulate.sections import MAX_CLUMPS, MAX_COMPANIONS, Source

Bands = tuple[str, ...]
Rng = np.random.Generator


def _lens(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """An early-type galaxy with a source behind it, inside the cut."""
    theta_e, z_source, sigma_v, _, drawn = early_type(row, population, bands, rng)
    _members(row, population, rng)
    lens, source = population.lens, population.source
    row["theta_e_arcsec"], row["z_source"], row["sigma_v_km_s"] = theta_e, z_source, sigma_v
    row["z_lens"] = row["z_galaxy"]
    q_low = 0.3 if drawn is None else 0.05
    row["q_lens"] = q = min(max(float(row["bulge_q"]) + lens.q_offset.sample(rng), q_low), 1.0)
    row["pa_lens_deg"] = pa = (float(row["bulge_pa_deg"]) + lens.pa_offset_deg.sample(rng)) % 180
    row["shear"], row["pa_shear_deg"] = lens.shear.sample(rng), position_angle_deg(rng)
    if lens.slope is not None:
        row["lens_slope"] = lens.slope.sample(rng)
    if lens.grf_kappa_rms is not None:
        row["grf_kappa_rms"], row["grf_power"] = lens.grf_kappa_rms.sample(rng), lens.grf_power
        row["grf_seed"] = float(rng.integers(2**24))
    cut = cut_over_isothermal(float(row["lens_slope"])) if lens.slope is not None else 1.0
    for _ in range(MAX_REDRAWS):
        beta = theta_e * (lens.beta_over_theta_e.sample(rng) if drawn is None else drawn[2])
        azimuth = rng.uniform(0, 2 * math.pi)
        if inside_cut(beta / cut, azimuth - math.radians(pa + 90), theta_e, q):
            break
    else:
        raise RecipeError(
            f"population '{population.name}': lens.beta_over_theta_e gave no multiple images in "
            f"{MAX_REDRAWS} draws; lower it"
        )
    row["source_x_arcsec"] = beta * math.cos(azimuth)
    row["source_y_arcsec"] = beta * math.sin(azimuth)
    r_e = source.r_e_arcsec.sample(rng) if drawn is None else drawn.r_e_arcsec
    row["source_re_arcsec"] = r_e
    row["source_n"] = source.sersic_n.sample(rng)
    row["source_q"], row["source_pa_deg"] = source.q.sample(rng), position_angle_deg(rng)
    if drawn is None:
        row["feature_snr"] = source.snr.sample(rng)
    else:
        row["feature_mag_r"] = drawn.mag_r
    feature_colours(row, population, bands, z_source, rng)
    if source.clump_bluer_mag is not None:
        bluer = source.clump_bluer_mag.sample(rng)
        for band in bands:
            shift = 0.0 if band == "r" else bluer * population.colours.scatter_direction[band]
            row[f"clump_{band}_minus_r"] = float(row[f"feature_{band}_minus_r"]) - shift
    for k in range(1, min(round(source.clump_count.sample(rng)), MAX_CLUMPS) + 1):
        distance = r_e * source.clump_distance_in_r_e.sample(rng)
        angle = rng.uniform(0, 2 * math.pi)
        row[f"clump_{k}_x_arcsec"] = distance * math.cos(angle)
        row[f"clump_{k}_y_arcsec"] = distance * math.sin(angle)
        row[f"clump_{k}_sigma_arcsec"] = _clump_sigma_arcsec(source, r_e, rng)
        row[f"clump_{k}_fraction"] = source.clump_fraction.sample(rng)


def _clump_sigma_arcsec(source: Source, r_e_arcsec: float, rng: Rng) -> float:
    if source.clump_sigma_in_r_e is not None:
        return max(r_e_arcsec * source.clump_sigma_in_r_e.sample(rng), 1e-3)
    assert source.clump_sigma_arcsec is not None
    return source.clump_sigma_arcsec.sample(rng)


def cut_over_isothermal(slope: float) -> float:
    """Size of the region of several images behind a power law over that behind an SIE, at most 1.

    A profile flatter than isothermal has a radial caustic in the cut's place. About a round lens
    beta = x - x^(1 - t), in Einstein radii and with t = slope - 1, has its extremum at
    x = (1 - t)^(1/t), whose beta is t / (1 - t) (1 - t)^(1/t); one to a flattened lens scales as
    its cut does. Behind steeper ones it is larger, which is left unused.
    """
    t = slope - 1
    return 1.0 if t >= 1 else t / (1 - t) * (1 - t) ** (1 / t)


def inside_cut(beta_arcsec: float, azimuth_rad: float, theta_e_arcsec: float, q: float) -> bool:
    """Whether a point source has at least two images behind an SIE.

    The cut is the curve that the deflection traces around the centre (Kormann et al. 1994,
    section 4). With f^2 = 1 - q^2 it is q^2 tan^2 u + tanh^2 v = f^2, where (u, v) is
    beta f / (theta_e sqrt q) in the frame of the major axis. Sources beyond the cut but inside a
    naked cusp are counted as outside.
    """
    f = math.sqrt(max((1 - q) * (1 + q), 1e-10))
    u = abs(beta_arcsec * math.cos(azimuth_rad)) * f / (theta_e_arcsec * math.sqrt(q))
    v = beta_arcsec * math.sin(azimuth_rad) * f / (theta_e_arcsec * math.sqrt(q))
    return u < math.pi / 2 and (q * math.tan(u)) ** 2 + math.tanh(v) ** 2 < f**2


def _galaxy(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """An early-type galaxy alone: what a lens would be without its source."""
    early_type(row, population, bands, rng)
    _members(row, population, rng)


def _members(row: Row, population: Population, rng: Rng) -> None:
    """Write how many galaxies of its group stand about an early type, which mostly are none."""
    group = population.group
    if group is not None and rng.random() < group.of_early_types:
        row["group_count"] = float(max(round(group.count.sample(rng)), 1))


def _disc(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """A disc with a bulge, without structure."""
    late = population.late_type
    q, bulge_fraction = late.q.sample(rng), late.bulge_fraction.sample(rng)
    late_type(row, population, bands, rng, q, bulge_fraction)


def _spiral(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """A disc with arms."""
    recipe = population.spiral
    bulge_fraction = population.late_type.bulge_fraction.sample(rng)
    q = recipe.q.sample(rng)
    drawn = late_type(row, population, bands, rng, q, bulge_fraction, recipe.mag_r)
    mag_disc = drawn.mag_disc_r
    row["arm_count"] = float(max(round(recipe.arm_count.sample(rng)), 1))
    row["arm_pitch_deg"] = recipe.arm_pitch_deg.sample(rng) * (1 if rng.random() < 0.5 else -1)
    row["arm_phase_deg"] = rng.uniform(0, 360)
    row["arm_sharpness"] = recipe.arm_sharpness.sample(rng)
    row["arm_re_arcsec"] = float(row["disc_re_arcsec"]) * 1.1
    row["feature_mag_r"] = mag_disc - 2.5 * math.log10(max(recipe.arm_fraction.sample(rng), 1e-3))
    feature_colours(row, population, bands, float(row["z_galaxy"]), rng)


def _ring(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """Either family with a star-forming ring."""
    recipe = population.ring
    q = recipe.q.sample(rng)
    if rng.random() < recipe.early_type_fraction:
        early_type(row, population, bands, rng)
        row["ring_pa_deg"] = row["bulge_pa_deg"]
    else:
        bulge_fraction = population.late_type.bulge_fraction.sample(rng)
        late_type(row, population, bands, rng, q, bulge_fraction)
        row["ring_pa_deg"] = row["disc_pa_deg"]
    row["ring_q"] = q
    row["ring_radius_arcsec"] = radius = recipe.radius_arcsec.sample(rng)
    row["ring_width_arcsec"] = radius * recipe.width_over_radius.sample(rng)
    row["ring_lopsidedness"] = recipe.lopsidedness.sample(rng)
    row["ring_knot_contrast"] = recipe.knot_contrast.sample(rng)
    row["ring_knot_count"] = recipe.knot_count.sample(rng)
    row["ring_phase_deg"] = rng.uniform(0, 360)
    row["ring_seed"] = float(rng.integers(2**24))
    row["feature_snr"] = population.source.snr.sample(rng)
    feature_colours(row, population, bands, float(row["z_galaxy"]), rng)


def _companions(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """An early-type galaxy with blue neighbours where images could stand."""
    recipe = population.companions
    theta_e, z_source, _, _, drawn = early_type(row, population, bands, rng)
    if drawn is None:
        row["feature_snr"] = population.source.snr.sample(rng)
    else:
        # As bright as the images that the same source would have.
        row["feature_mag_r"] = drawn.mag_r - 2.5 * math.log10(2.3 / drawn.beta_over_theta_e)
    feature_colours(row, population, bands, z_source, rng)
    count = min(max(round(recipe.count.sample(rng)), 1), MAX_COMPANIONS)
    shares = rng.dirichlet([3.0] * count)
    for k, share in enumerate(shares, start=1):
        radius = theta_e * recipe.radius_over_theta_e.sample(rng)
        azimuth = rng.uniform(0, 2 * math.pi)
        row[f"companion_{k}_x_arcsec"] = radius * math.cos(azimuth)
        row[f"companion_{k}_y_arcsec"] = radius * math.sin(azimuth)
        row[f"companion_{k}_re_arcsec"] = recipe.r_e_arcsec.sample(rng)
        row[f"companion_{k}_n"] = recipe.sersic_n.sample(rng)
        row[f"companion_{k}_q"] = recipe.q.sample(rng)
        row[f"companion_{k}_pa_deg"] = position_angle_deg(rng)
        row[f"companion_{k}_fraction"] = float(share)


def _edge_on(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """A disc seen from its side."""
    recipe = population.edge_on
    q, bulge_fraction = recipe.q.sample(rng), recipe.bulge_fraction.sample(rng)
    late_type(row, population, bands, rng, q, bulge_fraction)


def _merger(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """Two galaxies of a family in contact, and a tidal arm towards the lesser."""
    recipe = population.merger
    if rng.random() < recipe.early_type_fraction:
        mag_r = early_type(row, population, bands, rng).mag_r
        track, n, size = population.colours.early_type, 3.0, float(row["bulge_re_arcsec"])
    else:
        late = population.late_type
        q, bulge_fraction = late.q.sample(rng), late.bulge_fraction.sample(rng)
        mag_r = late_type(row, population, bands, rng, q, bulge_fraction).mag_r
        track, n, size = population.colours.late_type, 1.0, float(row["disc_re_arcsec"])
    z = float(row["z_galaxy"])
    mag_partner = mag_r + recipe.mag_difference.sample(rng)
    colours = colours_minus_r(population, track, bands, z, rng)
    for band, colour in zip(bands, colours, strict=True):
        row[f"mag_partner_{band}"] = mag_partner + colour
    separation, azimuth = recipe.separation_arcsec.sample(rng), rng.uniform(0, 2 * math.pi)
    row["partner_x_arcsec"] = separation * math.cos(azimuth)
    row["partner_y_arcsec"] = separation * math.sin(azimuth)
    row["partner_re_arcsec"] = max(size * rng.uniform(0.4, 1.0), 0.1)
    row["partner_n"] = n
    row["partner_q"] = population.late_type.q.sample(rng)
    row["partner_pa_deg"] = position_angle_deg(rng)
    row["arm_count"] = float(rng.integers(1, 3))
    row["arm_pitch_deg"] = recipe.tail_pitch_deg.sample(rng) * (1 if rng.random() < 0.5 else -1)
    row["arm_phase_deg"] = math.degrees(azimuth)
    row["arm_sharpness"] = 3.0
    row["arm_re_arcsec"] = separation
    row["feature_mag_r"] = mag_r - 2.5 * math.log10(max(recipe.tail_fraction.sample(rng), 1e-3))
    feature_colours(row, population, bands, z, rng)


def _group(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """An early-type galaxy with the other members of its group, drawn with the surroundings."""
    assert population.group is not None
    early_type(row, population, bands, rng)
    row["group_count"] = float(max(round(population.group.count.sample(rng)), 1))


def _artefact(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """A galaxy of either family with something that no telescope should show."""
    recipe = population.artefact
    assert recipe is not None
    if rng.random() < recipe.early_type_fraction:
        early_type(row, population, bands, rng)
    else:
        _disc(row, population, bands, rng)
    weights = np.array([getattr(recipe, name) for name in ARTEFACTS])
    row["artefact"] = ARTEFACTS[int(rng.choice(3, p=weights / weights.sum()))]
    row["artefact_pa_deg"] = position_angle_deg(rng)
    row["artefact_azimuth_deg"] = rng.uniform(0, 360)
    row["artefact_band"] = float(int(rng.random() * len(bands)))
    row["artefact_distance_arcsec"] = recipe.star_distance_arcsec.sample(rng)
    if row["artefact"] == "spikes":
        mag_r = recipe.star_mag_r.sample(rng)
        colours = colours_minus_r(population, population.colours.star, bands, 0.0, rng)
        for band, colour in zip(bands, colours, strict=True):
            row[f"mag_artefact_{band}"] = mag_r + colour
    elif row["artefact"] == "trail":
        row["artefact_snr"] = recipe.trail_snr.sample(rng)
        row["artefact_distance_arcsec"] = recipe.trail_distance_arcsec.sample(rng)
    else:
        row["artefact_snr"] = recipe.cosmic_ray_snr.sample(rng)
        row["artefact_count"] = float(max(round(recipe.cosmic_ray_count.sample(rng)), 1))
        row["artefact_bend_deg"] = recipe.cosmic_ray_bend_deg.sample(rng)
        row["artefact_length_pixels"] = recipe.cosmic_ray_length_pixels.sample(rng)


def _irregular(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """A small disc whose knots stand on one side."""
    recipe = population.irregular
    assert recipe is not None
    q, bulge_fraction = recipe.q.sample(rng), recipe.bulge_fraction.sample(rng)
    late_type(row, population, bands, rng, q, bulge_fraction, recipe.mag_r)
    factor = recipe.r_e_over_late_type.sample(rng)
    for name in ("disc_re_arcsec", "bulge_re_arcsec"):
        row[name] = float(row[name]) * factor
    row["knot_count"] = float(round(recipe.knot_count.sample(rng)))
    row["knot_fraction"] = recipe.knot_fraction.sample(rng)
    row["knot_lopsidedness"] = recipe.lopsidedness.sample(rng)


def _star(row: Row, population: Population, bands: Bands, rng: Rng) -> None:
    """A point source."""
    mag_r = population.star.mag_r.sample(rng)
    colours = colours_minus_r(population, population.colours.star, bands, 0.0, rng)
    for band, colour in zip(bands, colours, strict=True):
        row[f"mag_bulge_{band}"] = mag_r + colour
    row["bulge_re_arcsec"] = 0.0


DRAW: dict[str, Callable[[Row, Population, Bands, Rng], None]] = {
    "lens": _lens,
    "galaxy": _galaxy,
    "disc": _disc,
    "spiral": _spiral,
    "ring": _ring,
    "companions": _companions,
    "edge_on": _edge_on,
    "merger": _merger,
    "star": _star,
    "group": _group,
    "artefact": _artefact,
    "irregular": _irregular,
}
