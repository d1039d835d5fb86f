"""The sections of a population recipe: one frozen model each, every value checked."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lensfinder.simulate.distributions import (
    AxisRatio,
    Count,
    Distribution,
    Finite,
    Fraction,
    Length,
    Magnitude,
    Positive,
    Redshift,
    Section,
    SersicIndex,
    SignalToNoise,
    Spread,
    refuse_disorder,
    within,
)
from lensfinder.simulate.noise import LONGEST_CORRELATION_PIXELS

UnitInterval = Annotated[float, Field(ge=0, le=1)]
# Of a spiral: a circle at 0, a ray at 90; it winds either way.
Pitch = Annotated[Distribution, within(2, 88)]


class Stamps(Section):
    """What the command takes where nobody asked for anything else."""

    survey: str
    bands: tuple[str, ...] = Field(min_length=1)
    size: Annotated[int, Field(ge=9, le=1023)]
    # Whether the recipe means nothing but mocks on real galaxies.
    hosts: bool = False

    @model_validator(mode="after")
    def _has_a_centre(self) -> Self:
        if self.size % 2 == 0:
            raise ValueError(f"size is {self.size}; expected an odd number of pixels")
        return self


class Hosts(Section):
    """What a mock on a real galaxy takes from it; "free": nothing, as if there were no host."""

    theta_e: Literal["of_host", "free"] = "of_host"
    shape: Literal["of_host", "free"] = "of_host"
    # Peak of the feature over that of the host, in the reference band, instead of source.snr.
    peak_ratio: Fraction | None = None


class Observing(Section):
    """How the telescope draws and what its noise is like; without a gain, the sky's alone."""

    psf: Literal["moffat", "gaussian"] = "moffat"
    moffat_beta: float = 3.5
    # By band, for the shot noise of objects: photo-electrons a nJy in the whole exposure.
    electrons_per_njy: dict[str, Positive] = Field(default_factory=dict)
    noise: Literal["gaussian", "poisson"] = "gaussian"
    bad_pixel_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bad_columns: Annotated[float, Field(ge=0, le=20)] = 0.0
    # Of stamps that reach beyond their tile's edge; real hosts bring their own gaps.
    off_edge_fraction: UnitInterval = 0.0

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.moffat_beta not in (2.5, 3.5, 4.5):
            raise ValueError(f"moffat_beta is {self.moffat_beta}; expected 2.5, 3.5 or 4.5")
        if self.noise == "poisson" and not self.electrons_per_njy:
            raise ValueError("noise is 'poisson'; expected electrons_per_njy for each band, too")
        return self


class Conditions(Section):
    """Scatter of the observing conditions from one mock to the next."""

    # Exposures of the survey's typical depth that are averaged into an image.
    epochs: Annotated[int, Field(ge=1, le=10000)] = 1
    psf_scatter: Annotated[float, Field(ge=0, le=0.5)]
    sky_scatter: Annotated[float, Field(ge=0, le=0.5)]
    centroid_scatter_arcsec: Annotated[float, Field(ge=0, le=2)]
    # Over which the noise of neighbouring pixels is correlated, as resampling leaves it.
    noise_correlation_pixels: (
        Annotated[Distribution, within(0, LONGEST_CORRELATION_PIXELS)] | None
    ) = None


class Composite(Section):
    """Mocks as 8-bit colour pictures; how each was stretched varies from one to the next."""

    # Noise of the sky in a band: sky_level times the band's ratio, in levels of 255.
    sky_level: Annotated[Distribution, within(0.1, 100)]
    level_ratio: dict[str, Positive]
    level_scatter_dex: Annotated[float, Field(ge=0, le=0.5)]
    # Lupton et al.'s Q; small: hardly stretched.
    softening: Annotated[Distribution, within(1e-3, 1000)]
    # Weights of what became of pixels below the sky: turned over, set to 0, or lifted above it.
    folded: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    clipped: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    lifted: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    # Of a lifted sky.
    lift_level: Annotated[Distribution, within(0, 128)]
    # Of pictures whose overflowing pixels are white; those of others keep their colour.
    white_fraction: UnitInterval

    @model_validator(mode="after")
    def _some_floor(self) -> Self:
        if self.folded + self.clipped + self.lifted <= 0:
            raise ValueError("folded, clipped and lifted sum to 0; expected a positive sum")
        return self


class EarlyType(Section):
    """Early-type galaxies: the lenses, and the hosts of those negatives that look like them."""

    z: Redshift
    sigma_v_low_km_s: Positive
    sigma_v_high_km_s: Positive
    mag_r_low: Finite
    mag_r_high: Finite
    absolute_mag_r_at_220_km_s: Finite
    mag_per_dex_of_sigma_v: Finite
    absolute_mag_scatter: Positive
    r_e_kpc_at_220_km_s: Positive
    r_e_dex_per_mag: Finite
    r_e_scatter_dex: Positive
    sersic_n: SersicIndex
    q: AxisRatio

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        refuse_disorder(self, ("sigma_v_{}_km_s", "mag_r_{}"))
        return self


class Lens(Section):
    """Mass of the lens, relative to its light, and the place of the source behind it."""

    theta_e_arcsec: Length
    q_offset: Spread
    pa_offset_deg: Spread
    shear: Annotated[Distribution, within(0, 0.9)]
    beta_over_theta_e: Fraction
    # Of the density in three dimensions; without it the mass is isothermal, 2.
    slope: Annotated[Distribution, within(1.2, 2.8)] | None = None
    # Random potential with P(k) ~ k^-grf_power: rms of the convergence that it adds.
    grf_kappa_rms: Annotated[Distribution, within(0, 0.5)] | None = None
    grf_power: Annotated[float, Field(gt=0, le=12)] = 6.0


def _at_most(count: Distribution, most: int, name: str) -> int:
    """The largest whole number that a count can be; too large a one is refused."""
    largest = round(count.support()[1])
    if largest > most:
        raise ValueError(f"{name} goes up to {largest}; expected at most {most}")
    return largest


# Pieces that a row of truth has columns for.
MAX_CLUMPS = 5
MAX_COMPANIONS = 3


class Source(Section):
    """The lensed galaxy; its flux follows from the signal-to-noise ratio of its image."""

    z: Redshift
    min_redshift_gap: Positive
    snr: SignalToNoise
    r_e_arcsec: Length
    sersic_n: SersicIndex
    q: AxisRatio
    clump_count: Count
    clump_fraction: Fraction
    clump_sigma_arcsec: Length | None = None
    # Takes the place of clump_sigma_arcsec where it is given.
    clump_sigma_in_r_e: Fraction | None = None
    clump_distance_in_r_e: Length
    # By how much clumps are bluer than the rest, in g - r, and as that goes with in other bands.
    clump_bluer_mag: Spread | None = None

    @model_validator(mode="after")
    def _some_size(self) -> Self:
        if self.clump_sigma_arcsec is None and self.clump_sigma_in_r_e is None:
            raise ValueError("expected clump_sigma_arcsec or clump_sigma_in_r_e")
        most = _at_most(self.clump_count, MAX_CLUMPS, "clump_count")
        share = most * self.clump_fraction.support()[1]
        if share >= 1:
            raise ValueError(
                f"{most} clumps of clump_fraction up to {self.clump_fraction.support()[1]:g} hold "
                f"{share:g} of the source; expected less than 1 together"
            )
        return self


class LateType(Section):
    """Disc galaxies with a bulge."""

    z: Redshift
    mag_r: Magnitude
    r_e_arcsec_at_mag_19: Positive
    r_e_dex_per_mag: Finite
    r_e_scatter_dex: Positive
    q: AxisRatio
    bulge_fraction: Annotated[Distribution, within(0, 0.999)]
    bulge_r_e_over_disc: Length
    bulge_n: SersicIndex
    bulge_q: AxisRatio


class Spiral(Section):
    """Arms on a late-type galaxy that is seen well enough from above."""

    # Where it is given, in place of late_type.mag_r: arms of faint galaxies can't be seen.
    mag_r: Magnitude | None = None
    q: AxisRatio
    arm_count: Count
    arm_pitch_deg: Pitch
    arm_sharpness: Length
    arm_fraction: Fraction


class Knots(Section):
    """Knots of young stars in late types, along the arms where there are some."""

    count: Annotated[Distribution, within(0, 60)]
    # Their light, over that of the disc, which they come on top of.
    fraction: Fraction
    r_e_over_disc: Length
    # Than the galaxy, in g - r, and as much as that goes with in other bands.
    bluer_mag: Spread
    # By which emission lines make r brighter than all other bands: what looks pink.
    line_mag: Spread
    # Distance of their middle from the disc's, in half-light radii.
    lopsidedness: Fraction


class Lenticular(Section):
    """Discs of early types, which share their colour and angle."""

    # Of early types that have one.
    fraction: UnitInterval
    # Of the galaxy's light.
    disc_share: Annotated[Distribution, within(0.01, 0.95)]
    disc_q: AxisRatio
    # Half-light radii of disc (face on) and bulge over that of an early type as bright.
    disc_r_e_over_whole: Length
    bulge_r_e_over_whole: Length


class Irregular(Section):
    """A small disc without order: most of its light in a few knots on one side."""

    mag_r: Magnitude
    # Of its radius over that of other late types as bright.
    r_e_over_late_type: Length
    q: AxisRatio
    bulge_fraction: Annotated[Distribution, within(0, 0.999)]
    knot_count: Annotated[Distribution, within(1, 60)]
    knot_fraction: Annotated[Distribution, within(0, 10)]
    lopsidedness: Annotated[Distribution, within(0, 3)]


class Ring(Section):
    """A star-forming ring around a galaxy."""

    early_type_fraction: UnitInterval
    radius_arcsec: Length
    width_over_radius: Annotated[Distribution, within(0.01, 1)]
    q: AxisRatio
    lopsidedness: Fraction
    knot_contrast: Fraction
    knot_count: Count


class Companions(Section):
    """Blue galaxies beside an early-type one, where images of a source could stand."""

    count: Count
    radius_over_theta_e: Length
    r_e_arcsec: Length
    sersic_n: SersicIndex
    q: AxisRatio

    @model_validator(mode="after")
    def _few(self) -> Self:
        _at_most(self.count, MAX_COMPANIONS, "count")
        return self


class EdgeOn(Section):
    """A disc seen from its side."""

    q: AxisRatio
    bulge_fraction: Annotated[Distribution, within(0, 0.999)]


class Merger(Section):
    """Two galaxies in contact, with a tidal arm."""

    early_type_fraction: UnitInterval
    separation_arcsec: Length
    mag_difference: Spread
    tail_fraction: Fraction
    tail_pitch_deg: Pitch


class Star(Section):
    """A point source that a catalogue took for a target."""

    mag_r: Magnitude


class Group(Section):
    """An early-type galaxy among others of its group, most of them as red."""

    count: Count
    distance_arcsec: Length
    mag_difference: Spread
    early_type_fraction: UnitInterval
    # Of lenses and of plain galaxies, too, how many have members about them.
    of_early_types: UnitInterval = 0.0


class Artefact(Section):
    """What no mask has caught on a galaxy of either family."""

    early_type_fraction: UnitInterval
    # Weights of what it is.
    spikes: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    trail: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cosmic_ray: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    star_distance_arcsec: Length
    star_mag_r: Magnitude
    # Of a trail at its ridge, over the noise of a sky pixel.
    trail_snr: SignalToNoise
    trail_distance_arcsec: Length
    cosmic_ray_count: Count
    cosmic_ray_length_pixels: Annotated[Distribution, within(0.5, 100)]
    # By which a track bends from one pixel to the next.
    cosmic_ray_bend_deg: Spread
    cosmic_ray_snr: SignalToNoise

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.spikes + self.trail + self.cosmic_ray <= 0:
            raise ValueError("spikes, trail and cosmic_ray sum to 0; expected a positive sum")
        return self


class Surroundings(Section):
    """Whatever else stands in the stamp, on positives and negatives alike."""

    density_per_arcmin2: Annotated[float, Field(ge=0, le=500)]
    mag_r_low: Finite
    mag_r_high: Finite
    log_counts_slope: Positive
    star_fraction: UnitInterval
    early_type_fraction: UnitInterval
    z: Redshift
    r_e_arcsec_at_mag_23: Positive
    r_e_dex_per_mag: Finite
    r_e_scatter_dex: Positive
    q: AxisRatio

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        refuse_disorder(self, ("mag_r_{}",))
        return self
