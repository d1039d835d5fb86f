"""Thresholds at a false positive rate, with the interval of what they will really give.

An object passes a threshold when its logit is strictly greater, so a threshold may be the logit
of a negative itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from lensfinder.report.estimates import CONFIDENCE, Estimate, clopper_pearson, fraction
from lensfinder.report.logits import COUNTED_IN_BINS, Logits

# fpr * N is meant as a decimal product: 0.29 * 100 must be 29, not 28.999999999999996.
_ROUND_OFF = 1e-9


@dataclass(frozen=True, slots=True)
class ThresholdPoint:
    """What one asked false positive rate came to.

    Attributes
    ----------
    fpr_asked : float
        The rate asked for, in (0, 1).
    logit : float or None
        The threshold; None where refused.
    n_negatives, n_negatives_needed : int
        Negatives there are, and the fewest that support this rate (3 / FPR).
    n_galaxies : int
        Different galaxies that the negatives stand on.
    n_false_positives : int or None
        Negatives strictly above the threshold.
    fpr, tpr, purity : Estimate
        True rates at the threshold, and purity at the given prevalence.
    reason : str or None
        Why there is no threshold.
    """

    fpr_asked: float
    logit: float | None
    n_negatives: int
    n_negatives_needed: int
    n_galaxies: int
    n_false_positives: int | None
    fpr: Estimate
    tpr: Estimate
    purity: Estimate
    reason: str | None = None


def negatives_needed(fpr: float) -> int:
    """Fewest negatives that bound this rate at 95 %: ceil(3 / FPR), the rule of three.

    Parameters
    ----------
    fpr : float
        False positive rate in (0, 1).
    """
    return math.ceil(3.0 / fpr - _ROUND_OFF)


def threshold_at_fpr(
    negative_logit_N: NDArray[np.floating],
    lens_logit_P: NDArray[np.floating],
    fpr: float,
    prevalence: float,
    confidence: float = CONFIDENCE,
    galaxies: tuple[int, int] | None = None,
) -> ThresholdPoint:
    """Threshold that lets at most floor(FPR N) of N negatives pass, and what it is worth.

    With k = floor(FPR N), the threshold is the (k+1)-th highest negative logit: k / N is the
    largest observed rate that does not exceed the asked one. For continuous scores the rate of
    **new** negatives above it follows Beta(k+1, N-k) (the distribution of an order statistic;
    David & Nagaraja 2003, eq. 2.1.5), whose central interval is quoted. Where logits tie at the
    threshold, fewer than k pass: the upper end still holds, and the lower one is that of
    Clopper-Pearson for those that do pass.

    Parameters
    ----------
    negative_logit_N, lens_logit_P : float arrays, shapes (N,) and (P,)
        Finite logits of test negatives and test lenses.
    fpr : float
        Rate asked for, in (0, 1).
    prevalence : float
        Fraction of lenses among targets on the sky, in (0, 1), for the purity.
    confidence : float
        Of the intervals.
    galaxies : (int, int), optional
        Different galaxies that the negatives and the lenses stand on, where several are painted on
        one: mocks of one galaxy pass together, and so galaxies are what counts. Intervals are those
        of as many independent objects at the same rate.

    Returns
    -------
    ThresholdPoint
        Refused where N < 3 / FPR, with the number it would take.
    """
    n = len(negative_logit_N)
    independent, independent_lenses = galaxies or (n, len(lens_logit_P))
    needed = negatives_needed(fpr)
    if independent < needed:
        on = f" on {independent:,} galaxies" if independent < n else ""
        reason = f"an FPR of {fpr:g} takes {needed:,} negatives, there are {n:,}{on}"
        refused = Estimate(None, n=n, reason=reason)
        return ThresholdPoint(
            fpr, None, n, needed, independent, None, refused, refused, refused, reason
        )
    k = math.floor(fpr * n + _ROUND_OFF)
    threshold = float(np.partition(negative_logit_N, n - 1 - k)[n - 1 - k])
    n_above = int(np.sum(negative_logit_N > threshold))
    n_found = int(np.sum(lens_logit_P > threshold))

    lenses = (n_found, len(lens_logit_P), "lenses in the test split")
    rate = _order_statistic_rate(k, n_above, n, confidence, independent)
    tpr = fraction(*lenses, confidence, independent=independent_lenses)
    # Both ends at once: lenses and negatives are independent, so that intervals of sqrt(0.95)
    # each hold together with 0.95.
    each = math.sqrt(confidence)
    return ThresholdPoint(
        fpr_asked=fpr,
        logit=threshold,
        n_negatives=n,
        n_negatives_needed=needed,
        n_galaxies=independent,
        n_false_positives=n_above,
        fpr=rate,
        tpr=tpr,
        purity=purity_at_prevalence(
            fraction(*lenses, each, independent=independent_lenses),
            _order_statistic_rate(k, n_above, n, each, independent),
            prevalence,
        ),
    )


def _order_statistic_rate(
    k: int, n_above: int, n: int, confidence: float, independent: int
) -> Estimate:
    """FPR above the (k+1)-th highest of n negatives, of which n_above <= k are strictly above."""
    tail = (1.0 - confidence) / 2.0
    share = independent / n
    a, b = share * k + 1, share * (n - k)
    high = float(beta.ppf(1.0 - tail, a, b))
    if n_above == k:
        return Estimate(n_above / n, float(beta.ppf(tail, a, b)), high, n)
    low, _ = clopper_pearson(share * n_above, independent, confidence)
    reason = f"{k - n_above + 1} or more negatives tie at the threshold"
    return Estimate(n_above / n, float(low), high, n, reason)


def purity(completeness: float, fpr: float, prevalence: float) -> float:
    """Fraction of lenses among candidates: pi C / (pi C + (1 - pi) FPR).

    Parameters
    ----------
    completeness, fpr : float
        Rates in [0, 1], not both 0.
    prevalence : float
        pi, the fraction of lenses among targets, in (0, 1).
    """
    lenses = prevalence * completeness
    return lenses / (lenses + (1.0 - prevalence) * fpr)


def purity_at_prevalence(tpr: Estimate, fpr: Estimate, prevalence: float) -> Estimate:
    """Purity with the interval that those of TPR and FPR imply.

    Purity rises with the TPR and falls with the FPR, so the corners of the rectangle are its ends.

    Parameters
    ----------
    tpr, fpr : Estimate
        With intervals.
    prevalence : float
        In (0, 1).

    Returns
    -------
    Estimate
        ``value`` None where nothing passed the threshold; refused where TPR or FPR is.
    """
    if tpr.value is None or fpr.value is None:
        return Estimate(None, reason=tpr.reason or fpr.reason)
    if tpr.low is None or tpr.high is None or fpr.low is None or fpr.high is None:
        raise ValueError("purity needs the intervals of TPR and FPR")
    # FPR may be 0 at the lower end (ties): anything found would then be pure.
    low = purity(tpr.low, fpr.high, prevalence)
    high = purity(tpr.high, fpr.low, prevalence)
    if tpr.value == 0.0 and fpr.value == 0.0:
        return Estimate(None, low, high, reason="no test object passes this threshold")
    return Estimate(purity(tpr.value, fpr.value, prevalence), low, high)


def strictest_supported(points: Sequence[ThresholdPoint]) -> int | None:
    """Index of the smallest asked FPR that has a threshold; None where there is none."""
    supported = [i for i, point in enumerate(points) if point.logit is not None]
    return min(supported, key=lambda i: points[i].fpr_asked, default=None)


def rate_above(
    logit_N: NDArray[np.floating], threshold: float, of_what: str, galaxies: int | None = None
) -> Estimate:
    """Fraction strictly above a threshold that these objects did not set (Clopper-Pearson).

    Parameters
    ----------
    logit_N : float array, shape (N,)
        Finite logits.
    threshold : float
        A logit.
    of_what : str
        What the objects are, in the plural.
    galaxies : int, optional
        Different galaxies that they stand on, see :func:`threshold_at_fpr`.
    """
    n_above = int(np.sum(logit_N > threshold))
    return fraction(n_above, len(logit_N), of_what, independent=galaxies)


def galaxies_of(host_id_N: NDArray[np.str_]) -> int:
    """Count different host galaxies; objects that name none stand on one each."""
    named = host_id_N[host_id_N != ""]
    return len(host_id_N) - len(named) + len(np.unique(named))


def sky_quantile(sky: Logits, fpr: float, confidence: float = CONFIDENCE) -> Estimate:
    """Logit that a fraction ``fpr`` of the unlabelled sky exceeds, with its interval.

    Nearly every object on the sky is a negative, and lenses can only add to those above, so the
    FPR on the sky at this logit is at most ``fpr``. The interval is that of order statistics
    (David & Nagaraja 2003, sect. 7.1): free of the scores' distribution.

    Parameters
    ----------
    sky : Logits
        Of sky objects.
    fpr : float
        In (0, 1).
    confidence : float
        Of the interval.

    Returns
    -------
    Estimate
        In logits; refused where N < 3 / FPR. Where so few objects bound it from below alone, there
        is no upper end.
    """
    n = len(sky)
    needed = negatives_needed(fpr)
    if n < needed:
        reason = f"an FPR of {fpr:g} takes {needed:,} sky objects, there are {n:,}"
        return Estimate(None, n=n, reason=reason)
    k = math.floor(fpr * n + _ROUND_OFF)
    tail = (1.0 - confidence) / 2.0
    # The number of objects above the true quantile is Binomial(n, fpr).
    fewest = int(binom.ppf(tail, n, fpr))
    most = int(binom.ppf(1.0 - tail, n, fpr))
    low, _ = sky.highest(min(most, n - 1))
    # Where none at all may lie above the true one, not even the highest logit is its bound.
    high = sky.highest(fewest - 1)[1] if fewest else None
    # Of a bin, its upper end: no more than the asked fraction lies above.
    lowest, value = sky.highest(k)
    return Estimate(value, low, high, n, None if lowest == value else COUNTED_IN_BINS)
