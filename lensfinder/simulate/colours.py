"""Colours of each family of galaxies over redshift: tables, or spectra through filters."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from lensfinder.simulate import seds
from lensfinder.simulate.distributions import Distribution, Finite, Section, within


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

    def bands(self) -> set[str]:
        """Bands that there are colours for, beside r."""
        return set(self.minus_r)

    def typical(self, bands: tuple[str, ...], z: float, rng: np.random.Generator) -> list[float]:
        """m_band - m_r at redshift z."""
        return [
            0.0 if band == "r" else _between(z, self.redshift, self.minus_r[band]) for band in bands
        ]


def _between(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Like np.interp, which takes ten times as long for one number."""
    k = bisect_right(xs, x)
    if k in (0, len(xs)):
        return ys[min(k, len(xs) - 1)]
    return ys[k - 1] + (ys[k] - ys[k - 1]) * (x - xs[k - 1]) / (xs[k] - xs[k - 1])


class SedTrack(Section):
    """Colours of a spectrum of `seds` through its filters, reddened by the galaxy's own dust."""

    sed: seds.SedName
    # E(B-V) of a galaxy.
    reddening: Annotated[Distribution, within(0, 0.8)]
    sigma: Annotated[float, Field(ge=0, le=2)]

    def bands(self) -> set[str]:
        """Bands that there are colours for."""
        return set(seds.FILTER_EDGES_ANGSTROM)

    def typical(self, bands: tuple[str, ...], z: float, rng: np.random.Generator) -> list[float]:
        """m_band - m_r at redshift z, for a reddening drawn from the recipe's."""
        ebv = self.reddening.sample(rng)
        colours = []
        for band in bands:
            table = seds.colour_minus_r(self.sed, band)
            k = min(max(int(np.searchsorted(seds.REDSHIFTS, z)), 1), len(seds.REDSHIFTS) - 1)
            share = (z - seds.REDSHIFTS[k - 1]) / (seds.REDSHIFTS[k] - seds.REDSHIFTS[k - 1])
            share = min(max(share, 0.0), 1.0)
            at_z = table[k - 1] * (1 - share) + table[k] * share
            colours.append(float(np.interp(ebv, seds.REDDENINGS, at_z)))
        return colours


def _kind_of_track(value: Any) -> str:
    return "sed" if isinstance(value, SedTrack) or "sed" in value else "table"


Track = Annotated[
    Annotated[ColourTrack, Tag("table")] | Annotated[SedTrack, Tag("sed")],
    Discriminator(_kind_of_track),
]


class Colours(Section):
    """Colour prior of each family, and the direction in which colours scatter together."""

    scatter_direction: dict[str, Finite]
    early_type: Track
    late_type: Track
    source: Track
    star: Track

    def bands(self) -> set[str]:
        """Bands for which every family has a colour; r is the reference and always there."""
        tracks = (self.early_type, self.late_type, self.source, self.star)
        common = set(self.scatter_direction).intersection(*(track.bands() for track in tracks))
        return common | {"r"}
