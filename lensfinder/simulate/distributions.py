"""Distributions that a recipe names: validated when read, drawn from one at a time.

Each knows its support, so that a recipe can refuse an axis ratio above one or a width below zero
before anything is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# A bounded normal is drawn again until it falls inside; more often than this means that the
# bounds stand far out in its tail, which is a mistake in the recipe.
_MAX_REDRAWS = 1000

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RecipeError(ValueError):
    """A recipe breaks a rule, or contradicts itself."""


class Section(BaseModel):
    """A part of a recipe: nothing unknown, nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def refuse_disorder(section: Section, patterns: tuple[str, ...]) -> None:
    """Refuse a section whose bounds, such as ``mag_r_{}`` with low and high, are out of order.

    Raises
    ------
    ValueError
        naming both
    """
    for pattern in patterns:
        low, high = (getattr(section, pattern.format(side)) for side in ("low", "high"))
        if not low < high:
            names = pattern.format("low"), pattern.format("high")
            raise ValueError(
                f"{names[0]} is {low} and {names[1]} is {high}; expected {names[0]} < {names[1]}"
            )


class Constant(Section):
    """Always `value`."""

    distribution: Literal["constant"]
    value: Finite

    def support(self) -> tuple[float, float]:
        """Lowest and highest value that can be drawn."""
        return self.value, self.value

    def sample(self, rng: np.random.Generator) -> float:
        """One value."""
        return self.value


class _Bounded(Section):
    low: Finite
    high: Finite

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        refuse_disorder(self, ("{}",))
        return self

    def support(self) -> tuple[float, float]:
        """Lowest and highest value that can be drawn."""
        return self.low, self.high


class Uniform(_Bounded):
    """Flat between `low` and `high`."""

    distribution: Literal["uniform"]

    def sample(self, rng: np.random.Generator) -> float:
        """One value."""
        return self.low + (self.high - self.low) * rng.random()


class LogUniform(_Bounded):
    """Flat in the logarithm between `low` > 0 and `high`."""

    distribution: Literal["log_uniform"]
    low: Positive

    def sample(self, rng: np.random.Generator) -> float:
        """One value."""
        return self.low * math.exp(math.log(self.high / self.low) * rng.random())


def _redraw(draw: Callable[[], float], low: float, high: float) -> float:
    for _ in range(_MAX_REDRAWS):
        value = draw()
        if low <= value <= high:
            return value
    raise RecipeError(
        f"no draw of {_MAX_REDRAWS} fell between {low} and {high}: "
        "widen the bounds or move the centre of the distribution"
    )


class Normal(_Bounded):
    """Gaussian, redrawn outside `low` to `high`."""

    distribution: Literal["normal"]
    mean: Finite
    sigma: Positive

    def sample(self, rng: np.random.Generator) -> float:
        """One value."""
        return _redraw(lambda: rng.normal(self.mean, self.sigma), self.low, self.high)


class LogNormal(_Bounded):
    """Gaussian in log10 with width `dex` about `median`, redrawn outside `low` to `high`."""

    distribution: Literal["log_normal"]
    low: Positive
    median: Positive
    dex: Positive

    def sample(self, rng: np.random.Generator) -> float:
        """One value."""
        centre = math.log10(self.median)
        return _redraw(lambda: 10 ** rng.normal(centre, self.dex), self.low, self.high)


class Rayleigh(_Bounded):
    """Rayleigh with scale `sigma` starting at `low`, redrawn above `high`."""

    distribution: Literal["rayleigh"]
    sigma: Positive

    def sample(self, rng: np.random.Generator) -> float:
        """One value."""
        return _redraw(lambda: self.low + rng.rayleigh(self.sigma), self.low, self.high)


class Beta(_Bounded):
    """Beta(a, b) stretched from `low` to `high`."""

    distribution: Literal["beta"]
    a: Positive
    b: Positive

    def sample(self, rng: np.random.Generator) -> float:
        """One value."""
        return self.low + (self.high - self.low) * rng.beta(self.a, self.b)


class Choice(Section):
    """One of `values`, with `weights` (in any normalisation)."""

    distribution: Literal["choice"]
    values: tuple[Finite, ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...]

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.values)} values and {len(self.weights)} weights")
        if sum(self.weights) <= 0:
            raise ValueError("weights sum to 0; expected a positive sum")
        return self

    def support(self) -> tuple[float, float]:
        """Lowest and highest value that can be drawn."""
        possible = [v for v, w in zip(self.values, self.weights, strict=True) if w > 0]
        return min(possible), max(possible)

    def sample(self, rng: np.random.Generator) -> float:
        """One value."""
        threshold = rng.random() * sum(self.weights)
        total = 0.0
        for value, weight in zip(self.values, self.weights, strict=True):
            total += weight
            if threshold < total:
                return value
        return self.values[-1]


Distribution = Annotated[
    Constant | Uniform | LogUniform | Normal | LogNormal | Rayleigh | Beta | Choice,
    Field(discriminator="distribution"),
]


def within(low: float, high: float, *, open_low: bool = False) -> AfterValidator:
    """A check that every value a distribution can give lies in [low, high], or (low, high]."""

    def check(value: Distribution) -> Distribution:
        lowest, highest = value.support()
        if lowest < low or highest > high or (open_low and lowest <= low):
            bracket = "(" if open_low else "["
            raise ValueError(
                f"gives values from {lowest:g} to {highest:g}; expected {bracket}{low:g}, {high:g}]"
            )
        return value

    return AfterValidator(check)


AxisRatio = Annotated[Distribution, within(0.05, 1)]
Fraction = Annotated[Distribution, within(0, 1)]
Length = Annotated[Distribution, within(0, 60, open_low=True)]
SersicIndex = Annotated[Distribution, within(0.5, 8)]
Redshift = Annotated[Distribution, within(0, 10, open_low=True)]
Magnitude = Annotated[Distribution, within(5, 35)]
Spread = Annotated[Distribution, within(-180, 180)]
Count = Annotated[Distribution, within(0, 12)]
SignalToNoise = Annotated[Distribution, within(1, 1e5)]
