"""What fills in a lens of one's own where its row says nothing: constants and mean relations."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lensfinder.simulate import cosmology, population
from lensfinder.simulate.families import Row
from lensfinder.simulate.mocks import Setting

# What a lens has where its row does not say.
DEFAULTS: dict[str, float] = {
    "z_lens": 0.5,
    "z_source": 2.0,
    "q_lens": 0.75,
    "pa_lens_deg": 0.0,
    "shear": 0.0,
    "pa_shear_deg": 0.0,
    "source_re_arcsec": 0.2,
    "source_n": 1.0,
    "source_q": 0.7,
    "source_pa_deg": 0.0,
    "bulge_n": 4.0,
}
# A source that nobody placed stands here, in Einstein radii along the mass ellipse's diagonal.
_SOURCE_AT = 0.2
_SOURCE_SNR = 50.0


def value_or(value: float | str | None, default: float) -> float:
    return default if value is None or math.isnan(float(value)) else float(value)


def light_problems(row: Row, kind: str, bands: tuple[str, ...]) -> list[str]:
    """What the light of a modelled negative lacks: "column: what is wrong with it"."""
    problems = []
    parts = {
        part: [b for b in bands if math.isfinite(float(row[f"mag_{part}_{b}"]))]
        for part in ("bulge", "disc", "partner")
    }
    dark = [band for band in bands if band not in parts["bulge"] + parts["disc"]]
    if dark:
        problems.append(f"mag_bulge_{dark[0]}: missing; a {kind} needs light in {', '.join(dark)}")
    for part, lit in parts.items():
        # What has no size is a star.
        if lit and float(row[f"{part}_re_arcsec"]) != 0:
            needed = ("re_arcsec", "q", "pa_deg", *(("n",) if part != "disc" else ()))
            problems += _missing(row, part, needed, f"a {part} with light")
    number = 1
    while f"companion_{number}_fraction" in row:
        name = f"companion_{number}"
        if math.isfinite(float(row[f"{name}_fraction"])):
            needed = ("x_arcsec", "y_arcsec", "re_arcsec", "n", "q", "pa_deg")
            problems += _missing(row, name, needed, "a companion")
        number += 1
    return problems


def _missing(row: Row, part: str, names: tuple[str, ...], whose: str) -> list[str]:
    return [
        f"{part}_{name}: missing; {whose} needs it"
        for name in names
        if math.isnan(float(row[f"{part}_{name}"]))
    ]


def complete_lens(
    row: Row, given: Mapping[str, float], setting: Setting, *, painted: bool
) -> list[str]:
    """Fill in what the row of a lens leaves open, in place.

    Parameters
    ----------
    row : with NaN for what is not told
    given : the table's columns, those that `row` does not have too
    setting : bands; its recipe gives mean relations and colours
    painted : whether the light is that of a real galaxy

    Returns
    -------
    problems : "column: what is wrong with it"
    """
    for name, default in DEFAULTS.items():
        if name != "bulge_n" or not painted:
            row[name] = value_or(row[name], default)
    z_lens, z_source = float(row["z_lens"]), float(row["z_source"])
    row["z_galaxy"] = value_or(row["z_galaxy"], z_lens)
    if not 0 < z_lens < z_source <= cosmology.Z_MAX:
        return [
            f"z_source: {z_source:g} with z_lens {z_lens:g}; expected a source behind the lens, "
            f"at most at {cosmology.Z_MAX:g}"
        ]
    theta_e, sigma_v = float(row["theta_e_arcsec"]), float(row["sigma_v_km_s"])
    if math.isnan(theta_e) and math.isnan(sigma_v):
        return ["theta_e_arcsec: missing; a lens needs it, or sigma_v_km_s"]
    if math.isnan(theta_e):
        row["theta_e_arcsec"] = theta_e = cosmology.theta_e_arcsec(sigma_v, z_lens, z_source)
    if not theta_e > 0 or sigma_v <= 0:
        return []  # found by its bounds
    implied = cosmology.sigma_v_km_s(theta_e, z_lens, z_source)
    if math.isfinite(sigma_v) and not math.isclose(sigma_v, implied, rel_tol=1e-3):
        return [
            f"sigma_v_km_s: {sigma_v:g}; theta_e_arcsec {theta_e:g} at these redshifts means "
            f"{implied:.1f}: give one of them"
        ]
    row["sigma_v_km_s"] = value_or(row["sigma_v_km_s"], implied)
    for name in ("source_x_arcsec", "source_y_arcsec"):
        row[name] = value_or(row[name], _SOURCE_AT * theta_e)
    _complete_source(row, given, setting, z_source)
    return [] if painted else _complete_light(row, given, setting, implied, z_lens)


def _complete_source(row: Row, given: Mapping[str, float], setting: Setting, z: float) -> None:
    """Brightness and colours: as told, else by S/N."""
    bands = setting.observation.bands
    typical = _typical_colours(setting, "source", z)
    for band in bands:
        name = f"feature_{band}_minus_r"
        told = given.get(f"mag_source_{band}", math.nan) - given.get("mag_source_r", math.nan)
        row[name] = value_or(row[name], value_or(told, typical[band]))
    if math.isfinite(float(row["feature_snr"])) or math.isfinite(float(row["feature_mag_r"])):
        return
    told_bands = [b for b in bands if math.isfinite(given.get(f"mag_source_{b}", math.nan))]
    if math.isfinite(given.get("mag_source_r", math.nan)):
        row["feature_mag_r"] = given["mag_source_r"]
    elif told_bands:
        band = told_bands[0]
        row["feature_mag_r"] = given[f"mag_source_{band}"] - float(row[f"feature_{band}_minus_r"])
    elif math.isfinite(mag_r := _in_r(given, "mag_source_{}", "source", setting, z)):
        row["feature_mag_r"] = mag_r
    else:
        row["feature_snr"] = value_or(given.get("source_snr"), _SOURCE_SNR)


def _complete_light(
    row: Row, given: Mapping[str, float], setting: Setting, sigma_v: float, z: float
) -> list[str]:
    """Where light is not told, that of the mean early-type galaxy of this velocity dispersion.

    Returns what a disc with light lacks.
    """
    bands = setting.observation.bands
    disc_r = _in_r(given, "mag_disc_{}", "early_type", setting, z)
    has_disc = math.isfinite(disc_r)
    needed = ("re_arcsec", "q", "pa_deg") if has_disc else ()
    problems = _missing(row, "disc", needed, "a disc with light")
    mag_r, r_e = _typical_light(setting, sigma_v, z)
    row["bulge_re_arcsec"] = value_or(row["bulge_re_arcsec"], r_e)
    row["bulge_q"] = value_or(row["bulge_q"], float(row["q_lens"]))
    row["bulge_pa_deg"] = value_or(row["bulge_pa_deg"], float(row["pa_lens_deg"]))
    colours = _typical_colours(setting, "early_type", z)
    if has_disc:
        for band, colour in colours.items():
            row[f"mag_disc_{band}"] = value_or(row[f"mag_disc_{band}"], disc_r + colour)
    told = {b: mag for b in bands if math.isfinite(mag := float(row[f"mag_bulge_{b}"]))}
    bulge_r = math.nan if told else _in_r(given, "mag_bulge_{}", "early_type", setting, z)
    if has_disc and not told and math.isnan(bulge_r):
        return problems  # a disc alone
    if not told:
        told = {b: mag for b in bands if math.isfinite(mag := float(row[f"mag_{b}"]))}
        row |= {f"mag_bulge_{band}": mag for band, mag in told.items()}
    if told:
        # A magnitude in one band tells those in the others.
        band, mag = next(iter(told.items()))
        mag_r = mag - colours[band]
    else:
        # As does one in a band that is not rendered.
        whole_r = _in_r(given, "mag_{}", "early_type", setting, z)
        mag_r = value_or(bulge_r, value_or(whole_r, mag_r))
    for band, colour in colours.items():
        row[f"mag_bulge_{band}"] = value_or(row[f"mag_bulge_{band}"], mag_r + colour)
    return problems


def _in_r(given: Mapping[str, float], name: str, family: str, setting: Setting, z: float) -> float:
    """Magnitude in r by the first band that one is told in, rendered or not; else NaN."""
    track = getattr(setting.population.colours, family)
    for band in ("r", *sorted(setting.population.colours.bands())):
        mag = given.get(name.format(band), math.nan)
        if math.isfinite(mag):
            (typical,) = track.typical((band,), z, population.generator(0, 10))
            own = given.get(f"feature_{band}_minus_r") if family == "source" else None
            return mag - value_or(own, typical)
    return math.nan


def _typical_light(setting: Setting, sigma_v: float, z: float) -> tuple[float, float]:
    recipe = setting.population.early_type
    stray = recipe.mag_per_dex_of_sigma_v * math.log10(sigma_v / 220)
    mag_r = recipe.absolute_mag_r_at_220_km_s + stray + cosmology.distance_modulus(z)
    r_e_kpc = recipe.r_e_kpc_at_220_km_s * 10 ** (recipe.r_e_dex_per_mag * stray)
    return mag_r, r_e_kpc / cosmology.kpc_per_arcsec(z)


def _typical_colours(setting: Setting, family: str, z: float) -> dict[str, float]:
    bands = setting.observation.bands
    track = getattr(setting.population.colours, family)
    return dict(zip(bands, track.typical(bands, z, population.generator(0, 10)), strict=True))
