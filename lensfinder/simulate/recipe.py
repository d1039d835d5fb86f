"""A population recipe: the TOML file that says what the mock sky holds, checked as a whole.

Magnitudes in a recipe are AB in r; `colours` carries them to the bands of a survey. Every key,
every value and every distribution's support is checked, and all that is wrong is reported at once.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from lensfinder.simulate.distributions import (
    AxisRatio,
    Count,
    Finite,
    Fraction,
    Length,
    Magnitude,
    Positive,
    RecipeError,
    Redshift,
    Section,
    SersicIndex,
    SignalToNoise,
    Spread,
)

NegativeKind = Literal[
    "galaxy", "disc", "spiral", "ring", "companions", "edge_on", "merger", "star"
]
NEGATIVE_KINDS: tuple[str, ...] = get_args(NegativeKind)
# Those that hold something which a careless look takes for an arc.
HARD_KINDS = frozenset({"spiral", "ring", "companions", "edge_on", "merger"})

UnitInterval = Annotated[float, Field(ge=0, le=1)]


class Conditions(Section):
    """Scatter of the observing conditions from one mock to the next."""

    psf_scatter: Annotated[float, Field(ge=0, le=0.5)]
    sky_scatter: Annotated[float, Field(ge=0, le=0.5)]
    centroid_scatter_arcsec: Annotated[float, Field(ge=0, le=2)]


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
        for what in ("sigma_v_{}_km_s", "mag_r_{}"):
            low, high = (getattr(self, what.format(side)) for side in ("low", "high"))
            if not low < high:
                raise ValueError(f"{what.format('low')} is {low} and {what.format('high')} {high}")
        return self


class Lens(Section):
    """Mass of the lens, relative to its light, and the place of the source behind it."""

    theta_e_arcsec: Length
    q_offset: Spread
    pa_offset_deg: Spread
    shear: Fraction
    beta_over_theta_e: Fraction


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
    clump_sigma_arcsec: Length
    clump_distance_in_r_e: Length


class LateType(Section):
    """Disc galaxies with a bulge."""

    z: Redshift
    mag_r: Magnitude
    r_e_arcsec_at_mag_19: Positive
    r_e_dex_per_mag: Finite
    r_e_scatter_dex: Positive
    q: AxisRatio
    bulge_fraction: Fraction
    bulge_r_e_over_disc: Length
    bulge_n: SersicIndex
    bulge_q: AxisRatio


class Spiral(Section):
    """Arms on a late-type galaxy that is seen well enough from above."""

    q: AxisRatio
    arm_count: Count
    arm_pitch_deg: Spread
    arm_sharpness: Length
    arm_fraction: Fraction


class Ring(Section):
    """A star-forming ring around a galaxy."""

    early_type_fraction: UnitInterval
    radius_arcsec: Length
    width_over_radius: Fraction
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


class EdgeOn(Section):
    """A disc seen from its side."""

    q: AxisRatio
    bulge_fraction: Fraction


class Merger(Section):
    """Two galaxies in contact, with a tidal arm."""

    early_type_fraction: UnitInterval
    separation_arcsec: Length
    mag_difference: Spread
    tail_fraction: Fraction
    tail_pitch_deg: Spread


class Star(Section):
    """A point source that a catalogue took for a target."""

    mag_r: Magnitude


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
        if not self.mag_r_low < self.mag_r_high:
            raise ValueError(f"mag_r_low is {self.mag_r_low} and mag_r_high {self.mag_r_high}")
        return self


class ColourTrack(Section):
    """Colour m_band - m_r over redshift, and how far a single galaxy strays from it."""

    redshift: tuple[Annotated[float, Field(ge=0, le=10)], ...] = Field(min_length=1)
    minus_r: dict[str, tuple[Finite, ...]]
    sigma: Annotated[float, Field(ge=0, le=2)]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        steps = zip(self.redshift, self.redshift[1:], strict=False)
        if any(later <= earlier for earlier, later in steps):
            raise ValueError(f"redshift {list(self.redshift)} is not increasing")
        for band, colours in self.minus_r.items():
            if len(colours) != len(self.redshift):
                raise ValueError(
                    f"minus_r.{band} has {len(colours)} values for {len(self.redshift)} redshifts"
                )
        return self


class Colours(Section):
    """Colour prior of each family, and the direction in which colours scatter together."""

    scatter_direction: dict[str, Finite]
    early_type: ColourTrack
    late_type: ColourTrack
    source: ColourTrack
    star: ColourTrack

    def bands(self) -> set[str]:
        """Bands for which every family has a colour; r is the reference and always there."""
        tracks = (self.early_type, self.late_type, self.source, self.star)
        common = set(self.scatter_direction).intersection(*(t.minus_r for t in tracks))
        return common | {"r"}


_SHARES_SUM_TOLERANCE = 1e-6


class Population(Section):
    """A whole recipe."""

    name: str = Field(min_length=1)
    description: str
    positive_fraction: UnitInterval
    negatives: dict[NegativeKind, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    # Share of each kind among the targets on the sky, for false positive rates that mean it;
    # empty where nobody knows.
    sky_fraction: dict[NegativeKind, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict
    )
    conditions: Conditions
    early_type: EarlyType
    lens: Lens
    source: Source
    late_type: LateType
    spiral: Spiral
    ring: Ring
    companions: Companions
    edge_on: EdgeOn
    merger: Merger
    star: Star
    surroundings: Surroundings
    colours: Colours

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if sum(self.negatives.values()) <= 0:
            problems.append("negatives: the weights sum to 0; expected a positive sum")
        whole = sum(self.sky_fraction.values())
        if self.sky_fraction and abs(whole - 1) > _SHARES_SUM_TOLERANCE:
            problems.append(f"sky_fraction: the shares sum to {whole:g}; expected 1")
        nearest_lens = self.early_type.z.support()[0] + self.source.min_redshift_gap
        if self.source.z.support()[1] <= nearest_lens:
            problems.append(
                f"source.z ends at {self.source.z.support()[1]:g}, in front of every lens: "
                f"expected more than {nearest_lens:g} (early_type.z + source.min_redshift_gap)"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self


def parse(text: str, origin: str) -> Population:
    """Read and check a recipe.

    Parameters
    ----------
    text : TOML
    origin : what to call it in errors

    Raises
    ------
    RecipeError
        with one line for each thing that is wrong
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin} is not TOML: {error}") from error
    try:
        return Population.model_validate(document)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"]) or "recipe"
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message}")
        problems = "\n  ".join(lines)
        raise RecipeError(f"{origin} has {len(lines)} error(s):\n  {problems}") from error


def names() -> list[str]:
    """Recipes that come with the package."""
    folder = resources.files("lensfinder.simulate") / "populations"
    files = [file.name for file in folder.iterdir()]
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def shipped_text(name: str) -> str:
    """TOML text of a recipe that comes with the package.

    Raises
    ------
    RecipeError
        if there is none of this name
    """
    if name not in names():
        raise RecipeError(
            f"population '{name}' is unknown; expected one of {', '.join(names())}, "
            "or the path of a TOML file"
        )
    file = resources.files("lensfinder.simulate") / "populations" / f"{name}.toml"
    return file.read_text(encoding="utf-8")
