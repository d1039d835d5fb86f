"""A forecast of the lenses on the sky: deflectors, sources behind them, and which would be found.

The steps are those of Collett (2015, ApJ 811, 20): early types by a velocity-dispersion function
of constant comoving density, their light from luminosity and the fundamental plane, sources from
number counts, and a survey that discovers some. All of a system is drawn jointly; the Einstein
radius follows from velocity dispersion and redshifts. What is estimated here (magnification,
signal-to-noise ratio) only decides which systems are kept; images are measured when rendered.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from lensfinder.simulate import cosmology, seds
from lensfinder.simulate.distributions import (
    Finite,
    Positive,
    RecipeError,
    Section,
    refuse_disorder,
)

Floats = npt.NDArray[np.float64]

_PROPOSALS = 768
_MAX_ROUNDS = 400
_AB_ZERO_POINT_NJY = 31.4
_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
# Total magnification of a point source in multiples of theta_E / beta: 2 behind a singular
# isothermal sphere, more behind ellipses, whose caustics reach farther.
_MAGNIFICATION = 2.5
# A de Vaucouleurs profile: surface brightness at R_e is M + 5 log10(R_e) + this, and it falls
# with 2.5 b / ln 10 (R / R_e)^(1/4), b = 7.669 (Graham & Driver 2005, PASA 22, 118).
_DEVAUCOULEURS_AT_RE, _DEVAUCOULEURS_SLOPE = 3.388, 8.327

Bound = Annotated[float, Field(gt=0, le=10)]


class Deflectors(Section):
    """Early-type galaxies by velocity dispersion, and the light that goes with it."""

    sigma_star_km_s: Positive
    alpha: Positive
    beta: Positive
    sigma_v_low_km_s: Positive
    sigma_v_high_km_s: Positive
    z_low: Bound
    z_high: Bound
    absolute_mag_r_at_220_km_s: Finite
    mag_per_dex_of_sigma_v: Finite
    absolute_mag_scatter: Positive
    # Passive evolution, beside the K-correction.
    brightening_mag_per_z: Finite
    # The fundamental plane: log10 R_e / kpc = zero + sigma_v (per dex) + mag (per magnitude).
    plane_zero: Finite
    plane_sigma_v: Finite
    plane_mag: Finite
    plane_scatter_dex: Positive
    # Axis ratio 1 - Rayleigh(at_zero + per_km_s sigma_v), redrawn outside [low, 1].
    ellipticity_at_zero: Positive
    ellipticity_per_km_s: Finite
    q_low: Annotated[float, Field(ge=0.05, lt=1)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        refuse_disorder(self, ("sigma_v_{}_km_s", "z_{}"))
        if self.ellipticity_at_zero + self.ellipticity_per_km_s * self.sigma_v_high_km_s <= 0:
            raise ValueError("ellipticity falls below 0 at sigma_v_high_km_s")
        return self


class Sources(Section):
    """Galaxies behind, by number counts, with redshift and size given the magnitude."""

    mag_r_low: Finite
    mag_r_high: Finite
    log_counts_slope: Positive
    # p(z) ~ z^power exp(-(z / z0)^cutoff), z0 growing with the magnitude.
    z0_at_mag_25: Positive
    z0_per_mag: Finite
    z_power: Positive
    z_cutoff: Positive
    # log10 R_e: falls with magnitude and redshift.
    r_e_kpc_at_mag_minus_20: Positive
    r_e_dex_per_mag: Finite
    r_e_power_of_1_plus_z: Finite
    r_e_scatter_dex: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        refuse_disorder(self, ("mag_r_{}",))
        faint_or_bright = (self.mag_r_low - 25, self.mag_r_high - 25)
        if min(self.z0_at_mag_25 + self.z0_per_mag * m for m in faint_or_bright) <= 0:
            raise ValueError("z0 falls to 0 between mag_r_low and mag_r_high")
        return self


class Selection(Section):
    """Which lenses a survey would discover (section 3 of the paper)."""

    snr_low: Positive
    magnification_low: Annotated[float, Field(ge=1)]
    seeing_arcsec: Positive
    # Of the seeing's logarithm, from field to field.
    seeing_scatter: Annotated[float, Field(ge=0, le=1)]
    # Noise of a square arcsecond of sky, and the sky's brightness, for the lens's own shot noise.
    sky_rms_njy_per_arcsec: Positive
    sky_mag_per_arcsec2: Finite


class Forecast(Section):
    """All of a forecast."""

    deflectors: Deflectors
    sources: Sources
    selection: Selection

    @model_validator(mode="after")
    def _behind(self) -> Self:
        sources, z_low = self.sources, self.deflectors.z_low
        # Beyond three times the cutoff nothing is left.
        farthest = 3 * (sources.z0_at_mag_25 + sources.z0_per_mag * (sources.mag_r_high - 25))
        if farthest <= z_low:
            raise ValueError(
                f"sources end near z = {farthest:.2g}, in front of every lens: expected more than "
                f"{z_low} (deflectors.z_low)"
            )
        return self


class Systems(NamedTuple):
    """Systems of a forecast, each of length N, or one of them as numbers."""

    sigma_v_km_s: Floats
    z_lens: Floats
    z_source: Floats
    theta_e_arcsec: Floats
    absolute_mag_r: Floats
    mag_r: Floats
    r_e_arcsec: Floats
    mag_source_r: Floats
    r_e_source_arcsec: Floats
    beta_over_theta_e: Floats

    def take(self, rows: npt.NDArray[np.bool_]) -> Systems:
        """Some of them."""
        return Systems(*(values[rows] for values in self))


def draw(rng: np.random.Generator, forecast: Forecast) -> dict[str, float]:
    """One system that would be discovered, by name as in `Systems`.

    Raises
    ------
    RecipeError
        if hardly any would be
    """
    for _ in range(_MAX_ROUNDS):
        found = discovered(rng, propose(rng, forecast, _PROPOSALS), forecast)
        rows = np.flatnonzero(found.sigma_v_km_s)
        if len(rows):
            return {name: float(getattr(found, name)[0]) for name in Systems._fields}
    raise RecipeError(
        f"none of {_MAX_ROUNDS * _PROPOSALS} systems of the forecast would be discovered; "
        "expected a selection that leaves some: lower selection.snr_low or magnification_low"
    )


def propose(rng: np.random.Generator, forecast: Forecast, count: int) -> Systems:
    """Systems in proportion to the area behind which they image a source more than once.

    Those without a source behind the lens are left out, so that fewer than `count` are returned.
    """
    lenses, sources = forecast.deflectors, forecast.sources
    # The area theta_E^2 goes with sigma^4 (D_ls / D_s)^2: the first makes another gamma
    # distribution of the velocity-dispersion function, the second is decided by a throw.
    shape = (lenses.alpha + 4) / lenses.beta
    sigma_v = lenses.sigma_star_km_s * rng.gamma(shape, size=count) ** (1 / lenses.beta)
    table_z, table_mpc = cosmology.table()
    low, high = np.interp([lenses.z_low, lenses.z_high], table_z, table_mpc) ** 3
    chi_l = rng.uniform(low, high, count) ** (1 / 3)
    z_lens = np.interp(chi_l, table_mpc, table_z)
    mag_source = _counts(rng, sources, count)
    z0 = sources.z0_at_mag_25 + sources.z0_per_mag * (mag_source - 25)
    power = (sources.z_power + 1) / sources.z_cutoff
    z_source = z0 * rng.gamma(power, size=count) ** (1 / sources.z_cutoff)
    chi_s = np.interp(np.minimum(z_source, cosmology.Z_MAX), table_z, table_mpc)
    ratio = 1 - chi_l / np.maximum(chi_s, 1e-9)
    beta, throw = np.sqrt(rng.random(count)), rng.random(count)
    scatter = rng.standard_normal((3, count))

    kept = (ratio > 0) & (throw < ratio**2) & (z_source < cosmology.Z_MAX)
    kept &= (sigma_v >= lenses.sigma_v_low_km_s) & (sigma_v <= lenses.sigma_v_high_km_s)
    log_sigma = np.log10(sigma_v / 220)
    stray = lenses.mag_per_dex_of_sigma_v * log_sigma + lenses.absolute_mag_scatter * scatter[0]
    absolute = lenses.absolute_mag_r_at_220_km_s + stray
    log_r_e = lenses.plane_zero + lenses.plane_sigma_v * log_sigma + lenses.plane_mag * stray
    log_r_e += lenses.plane_scatter_dex * scatter[1]
    k_r = np.interp(z_lens, seds.REDSHIFTS, seds.k_correction_r("passive"))
    mag_r = absolute + _modulus(chi_l, z_lens) + k_r - lenses.brightening_mag_per_z * z_lens
    # Flat in frequency, a galaxy is fainter in absolute terms by its bandwidth alone.
    absolute_source = mag_source - _modulus(chi_s, z_source) + 2.5 * np.log10(1 + z_source)
    log_r_s = (
        math.log10(sources.r_e_kpc_at_mag_minus_20)
        + sources.r_e_dex_per_mag * (absolute_source + 20)
        + sources.r_e_power_of_1_plus_z * np.log10(1 + z_source)
        + sources.r_e_scatter_dex * scatter[2]
    )
    return Systems(
        sigma_v,
        z_lens,
        z_source,
        cosmology.einstein_radius_arcsec(sigma_v, ratio),
        absolute,
        mag_r,
        10**log_r_e / _kpc_per_arcsec(chi_l, z_lens),
        mag_source,
        10**log_r_s / _kpc_per_arcsec(chi_s, z_source),
        beta,
    ).take(kept)


def _counts(rng: np.random.Generator, sources: Sources, count: int) -> Floats:
    """Magnitudes whose counts grow as 10^(slope m)."""
    steepness = sources.log_counts_slope * math.log(10)
    span = -math.expm1(-steepness * (sources.mag_r_high - sources.mag_r_low))
    result: Floats = sources.mag_r_high + np.log1p(-rng.random(count) * span) / steepness
    return result


def _modulus(chi_mpc: Floats, z: Floats) -> Floats:
    result: Floats = 5 * np.log10(np.maximum(chi_mpc, 1e-9) * (1 + z)) + 25
    return result


def _kpc_per_arcsec(chi_mpc: Floats, z: Floats) -> Floats:
    return np.maximum(chi_mpc, 1e-9) / (1 + z) * 1e3 / cosmology.ARCSEC_PER_RAD


def discovered(rng: np.random.Generator, systems: Systems, forecast: Forecast) -> Systems:
    """Those that the survey would discover: bright, magnified, sheared and resolved."""
    rule, theta_e, r_s = forecast.selection, systems.theta_e_arcsec, systems.r_e_source_arcsec
    magnification = _MAGNIFICATION / np.hypot(systems.beta_over_theta_e, r_s / theta_e)
    # A source and the arc it makes as Gaussians: the area over which noise counts.
    seeing = rule.seeing_arcsec * np.exp(rule.seeing_scatter * rng.standard_normal(len(r_s)))
    psf2, source2 = (seeing / _FWHM_PER_SIGMA) ** 2, (r_s / 1.4) ** 2
    area = 4 * math.pi * np.sqrt((psf2 + source2) * (psf2 + magnification**2 * source2))
    flux = 10 ** (0.4 * (_AB_ZERO_POINT_NJY - systems.mag_source_r)) * magnification
    relative = (theta_e / systems.r_e_arcsec) ** 0.25 - 1
    lens_mag_per_arcsec2 = (
        systems.mag_r
        + 5 * np.log10(systems.r_e_arcsec)
        + _DEVAUCOULEURS_AT_RE
        + _DEVAUCOULEURS_SLOPE * relative
    )
    lens_over_sky = 10 ** (0.4 * (rule.sky_mag_per_arcsec2 - lens_mag_per_arcsec2))
    noise = rule.sky_rms_njy_per_arcsec * np.sqrt(area * (1 + lens_over_sky))
    return systems.take(
        (flux > rule.snr_low * noise)
        & (magnification > rule.magnification_low)
        & (magnification * r_s > seeing)
        & (2 * theta_e**2 >= (2 * r_s) ** 2 + seeing**2)
    )


def axis_ratio(rng: np.random.Generator, deflectors: Deflectors, sigma_v_km_s: float) -> float:
    """Axis ratio of a deflector: rounder, the more massive it is."""
    width = deflectors.ellipticity_at_zero + deflectors.ellipticity_per_km_s * sigma_v_km_s
    # The chance to stay below 1 - q_low, so that nothing needs to be drawn again.
    inside = -math.expm1(-0.5 * ((1 - deflectors.q_low) / width) ** 2)
    return 1 - width * math.sqrt(-2 * math.log1p(-rng.random() * inside))
