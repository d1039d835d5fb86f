"""What a threshold asks of people: candidates per square degree, hours, or a budget of hours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from lensfinder.infer.reach import Reach, reach
from lensfinder.report.estimates import CONFIDENCE, Estimate, fraction
from lensfinder.report.logits import Logits
from lensfinder.report.thresholds import purity_at_prevalence

# Fewer targets do not show how far a tile reaches.
_FEWEST_IN_TILE = 10


@dataclass(frozen=True, slots=True)
class Area:
    """Solid angle that was searched.

    Attributes
    ----------
    deg2 : float or None
        Square degrees; None where it is not known.
    how : str
        Where the value comes from, or why there is none.
    """

    deg2: float | None
    how: str


@dataclass(frozen=True, slots=True)
class Workload:
    """Candidates that pass a threshold on the sky.

    Attributes
    ----------
    n_candidates : int or None
        Sky objects above it.
    per_deg2 : Estimate
        Their density, with the exact interval of a Poisson count.
    hours : float or None
        To look at all of them.
    """

    n_candidates: int | None
    per_deg2: Estimate
    hours: float | None


@dataclass(frozen=True, slots=True)
class Budget:
    """What can be had for a number of hours.

    Attributes
    ----------
    hours : float
        To be spent.
    n_inspected : int
        Objects that they are enough for.
    logit : float or None
        Threshold that lets no more than those pass; None where all of the sky can be looked at.
    n_candidates : int
        Sky objects that pass.
    fpr, tpr, purity : Estimate
        On the mocks, at this threshold.
    """

    hours: float
    n_inspected: int
    logit: float | None
    n_candidates: int
    fpr: Estimate
    tpr: Estimate
    purity: Estimate


def area_of_targets(columns: Mapping[str, NDArray[Any]]) -> Area:
    """Solid angle from how far the targets reach in each tile.

    N points spread evenly over a length L reach on average over L (N - 1) / (N + 1); pixels are
    measured by the two targets that lie farthest apart. A target belongs to one tile, so that
    overlaps count once; masked regions are not taken off.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        ``tile``, ``x``, ``y`` (pixel), ``ra``, ``dec`` (deg).
    """
    return area_of_reach(reach(columns))


def area_of_reach(reached: Reach) -> Area:
    """Solid angle from how far targets are known to reach; see `area_of_targets`."""
    if not reached:
        return Area(None, "the sky's scores name no tiles; give area_deg2")
    deg2 = 0.0
    for tile in reached.values():
        if tile["n"] < _FEWEST_IN_TILE:
            return Area(None, f"a tile has fewer than {_FEWEST_IN_TILE} targets; give area_deg2")
        (x_1, y_1, *place_1), (x_2, y_2, *place_2) = tile["first"], tile["last"]
        pixels = math.hypot(x_2 - x_1, y_2 - y_1)
        if pixels == 0.0:
            return Area(None, "the targets of a tile share one pixel; give area_deg2")
        scale_deg = _separation_deg(*place_1, *place_2) / pixels
        widened = (tile["n"] + 1) / (tile["n"] - 1)
        sides = (tile["x"][1] - tile["x"][0]) * (tile["y"][1] - tile["y"][0])
        deg2 += sides * (widened * scale_deg) ** 2
    tiled = f"{len(reached):,} tile{'' if len(reached) == 1 else 's'}"
    return Area(deg2, f"estimated from how far the targets reach in {tiled}")


def _separation_deg(ra_1: float, dec_1: float, ra_2: float, dec_2: float) -> float:
    from astropy.coordinates import angular_separation

    return math.degrees(angular_separation(*np.radians([ra_1, dec_1, ra_2, dec_2])))


def workload(
    n_above: int | None, area: Area, per_hour: float, confidence: float = CONFIDENCE
) -> Workload:
    """Density and hours of a number of candidates.

    Parameters
    ----------
    n_above : int or None
        Sky objects above the threshold; None where there is no sky or no threshold.
    area : Area
        That they lie in.
    per_hour : float
        Objects that a person grades in an hour.
    confidence : float
        Of the exact Poisson interval (Garwood 1936).
    """
    if n_above is None:
        return Workload(None, Estimate(None, reason="there is no threshold, or no sky"), None)
    hours = n_above / per_hour
    if area.deg2 is None:
        return Workload(n_above, Estimate(None, n=n_above, reason=area.how), hours)
    tail = (1.0 - confidence) / 2.0
    low = chi2.ppf(tail, 2 * n_above) / 2.0 if n_above else 0.0
    high = chi2.ppf(1.0 - tail, 2 * n_above + 2) / 2.0
    density = Estimate(
        n_above / area.deg2, float(low) / area.deg2, float(high) / area.deg2, n_above
    )
    return Workload(n_above, density, hours)


def within_budget(
    sky: Logits,
    lens_logit_P: NDArray[np.floating],
    negative_logit_M: NDArray[np.floating],
    *,
    hours: float,
    per_hour: float,
    prevalence: float,
    galaxies: tuple[int, int] | None = None,
) -> Budget:
    """Threshold that these hours of inspection can pay for, and what it is worth.

    Parameters
    ----------
    sky : Logits
        Of the sky. Where no more than a bin is known, its upper end is the threshold.
    lens_logit_P, negative_logit_M : float arrays
        Finite logits of the mocks' test split.
    hours, per_hour : float
        Both above 0.
    prevalence : float
        Fraction of lenses among targets on the sky, in (0, 1).
    galaxies : (int, int), optional
        On which lenses and negatives stand: intervals are those of as many.
    """
    n_inspected = math.floor(hours * per_hour + 1e-9)
    on_lenses, on_negatives = galaxies or (None, None)
    cut = sky.highest(n_inspected)[1] if n_inspected < len(sky) else None
    above = -math.inf if cut is None else cut

    def rates(confidence: float) -> tuple[Estimate, Estimate]:
        # The mocks did not set this threshold, so that both are plain binomials.
        found, passed = int(np.sum(lens_logit_P > above)), int(np.sum(negative_logit_M > above))
        return (
            fraction(
                found, len(lens_logit_P), "lenses in the test split", confidence,
                independent=on_lenses,
            ),
            fraction(
                passed, len(negative_logit_M), "negatives in the test split", confidence,
                independent=on_negatives,
            ),
        )  # fmt: skip

    tpr, fpr = rates(CONFIDENCE)
    return Budget(
        hours=hours,
        n_inspected=n_inspected,
        logit=cut,
        n_candidates=sky.above(above)[1],
        fpr=fpr,
        tpr=tpr,
        purity=purity_at_prevalence(*rates(math.sqrt(CONFIDENCE)), prevalence),
    )
