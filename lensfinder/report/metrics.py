"""Figures of merit of a ranking: ROC, AUROC, TPR0, TPR10, calibration error.

Everything is computed from the logit: a float32 sigmoid is 1.0 for every logit above 17 and
would tie exactly the objects that matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from lensfinder.report.estimates import CONFIDENCE, Estimate, fraction


@dataclass(frozen=True, slots=True)
class RocCurve:
    """Points of the ROC, from the strictest threshold to the most generous.

    Attributes
    ----------
    fpr_M, tpr_M : float arrays, shape (M,)
        False and true positive rates, each in [0, 1]; both empty where refused.
    logit_M : float array, shape (M,)
        Objects with logit >= this are counted; the first one is +inf.
    reason : str or None
        Why there is no curve.
    """

    fpr_M: NDArray[np.float64]
    tpr_M: NDArray[np.float64]
    logit_M: NDArray[np.float64]
    reason: str | None = None


def missing_class(is_lens_N: NDArray[np.bool_]) -> str | None:
    """Reason why a figure that needs both classes has no value, or None.

    Parameters
    ----------
    is_lens_N : bool array, shape (N,)
        True for a lens, False for a negative.

    Returns
    -------
    str or None
        One sentence, or None where both classes are there.
    """
    if len(is_lens_N) == 0:
        return "there are no labelled objects"
    if not is_lens_N.any():
        return "there are no lenses among the labelled objects"
    if is_lens_N.all():
        return "there are no negatives among the labelled objects"
    return None


def roc(logit_N: NDArray[np.floating], is_lens_N: NDArray[np.bool_]) -> RocCurve:
    """Receiver operating characteristic (scikit-learn); tied scores move together.

    Parameters
    ----------
    logit_N : float array, shape (N,)
        Finite logits.
    is_lens_N : bool array, shape (N,)
        True for a lens.

    Returns
    -------
    RocCurve
        Empty, with its reason, where only one class is there.
    """
    reason = missing_class(is_lens_N)
    if reason is not None:
        empty = np.empty(0)
        return RocCurve(empty, empty, empty, reason)
    fpr_M, tpr_M, logit_M = roc_curve(is_lens_N, logit_N)
    return RocCurve(fpr_M, tpr_M, logit_M)


def auroc(
    logit_N: NDArray[np.floating],
    is_lens_N: NDArray[np.bool_],
    *,
    seed: int,
    host_id_N: NDArray[np.str_] | None = None,
    n_bootstrap: int = 300,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Area under the ROC with a percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    Mocks on one host galaxy are not independent, so whole hosts are drawn where they are known.

    Parameters
    ----------
    logit_N : float array, shape (N,)
        Finite logits.
    is_lens_N : bool array, shape (N,)
        True for a lens.
    seed : int
        Of the bootstrap's random numbers.
    host_id_N : str array, shape (N,), optional
        Host galaxy of each object; an object with an empty host is its own unit.
    n_bootstrap : int
        Number of draws.
    confidence : float
        Of the interval.

    Returns
    -------
    Estimate
        Refused where only one class is there; without an interval where no draw has an error in it.
    """
    reason = missing_class(is_lens_N)
    if reason is not None:
        return Estimate(None, n=len(is_lens_N), reason=reason)
    value = float(roc_auc_score(is_lens_N, logit_N))

    order = np.argsort(logit_N, kind="stable")
    unit_N, n_units = _units(host_id_N, len(logit_N))
    unit_N = unit_N[order]
    lens_N = is_lens_N[order]
    tie_starts = np.flatnonzero(np.r_[True, np.diff(logit_N[order]) > 0])
    rng = np.random.default_rng(seed)
    draws = np.full(n_bootstrap, np.nan)
    for i in range(n_bootstrap):
        times_drawn_U = np.bincount(rng.integers(0, n_units, n_units), minlength=n_units)
        draws[i] = _weighted_auroc(times_drawn_U[unit_N], lens_N, tie_starts)
    # A draw that holds one class only has no AUROC; it says nothing about the ranking.
    draws = draws[np.isfinite(draws)]
    if draws.size == 0 or draws.min() == draws.max():
        return Estimate(
            value, n=len(logit_N), reason="the bootstrap draws are all alike: no interval"
        )
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Estimate(value, float(low), float(high), len(logit_N))


def _units(host_id_N: NDArray[np.str_] | None, n: int) -> tuple[NDArray[np.intp], int]:
    """Index of the bootstrap unit of each object, and how many units there are."""
    if host_id_N is None:
        return np.arange(n), n
    hosts, unit_N = np.unique(host_id_N, return_inverse=True)
    alone = host_id_N == ""
    unit_N = np.where(alone, len(hosts) + np.cumsum(alone), unit_N)
    _, unit_N = np.unique(unit_N, return_inverse=True)
    return unit_N, int(unit_N.max()) + 1


def _weighted_auroc(
    weight_N: NDArray[np.integer], lens_N: NDArray[np.bool_], tie_starts: NDArray[np.intp]
) -> float:
    """P(lens > negative) + P(tie) / 2 for objects sorted by logit with integer weights."""
    lenses_G = np.add.reduceat(np.where(lens_N, weight_N, 0), tie_starts).astype(np.float64)
    negatives_G = np.add.reduceat(np.where(lens_N, 0, weight_N), tie_starts).astype(np.float64)
    pairs = lenses_G.sum() * negatives_G.sum()
    if pairs == 0:
        return float("nan")
    below_G = np.cumsum(negatives_G) - negatives_G
    return float(np.sum(lenses_G * (below_G + 0.5 * negatives_G)) / pairs)


def tpr_before(
    logit_N: NDArray[np.floating], is_lens_N: NDArray[np.bool_], n_false_positives: int
) -> Estimate:
    """Highest TPR with fewer than this many false positives (Metcalf et al. 2019, sect. 5).

    ``n_false_positives=1`` is their TPR0, 10 their TPR10. Both depend on the number of negatives,
    which therefore stands in ``n``. A lens that ties with the negative at the threshold is not
    above it.

    Parameters
    ----------
    logit_N : float array, shape (N,)
        Finite logits.
    is_lens_N : bool array, shape (N,)
        True for a lens.
    n_false_positives : int
        1 or more.

    Returns
    -------
    Estimate
        ``n`` is the number of **negatives**. The interval is Clopper-Pearson's at this threshold;
        it holds the scatter of the lenses, not that of the threshold.
    """
    reason = missing_class(is_lens_N)
    negatives = logit_N[~is_lens_N]
    n_negatives = len(negatives)
    if reason is None and n_negatives < n_false_positives:
        # Every lens would count, whatever the network: 1.0 by construction.
        reason = f"needs {n_false_positives} negatives, there are {n_negatives}"
    if reason is not None:
        return Estimate(None, n=n_negatives, reason=reason)
    threshold = np.partition(negatives, -n_false_positives)[-n_false_positives]
    lenses = logit_N[is_lens_N]
    tpr = fraction(int(np.sum(lenses > threshold)), len(lenses), "lenses")
    return Estimate(tpr.value, tpr.low, tpr.high, n_negatives)


def expected_calibration_error(
    score_N: NDArray[np.floating], is_lens_N: NDArray[np.bool_], n_bins: int = 15
) -> Estimate:
    """Mean |fraction of lenses - mean score| over equal bins of score (Guo et al. 2017, eq. 3).

    Parameters
    ----------
    score_N : float array, shape (N,)
        Calibrated scores in [0, 1].
    is_lens_N : bool array, shape (N,)
        True for a lens.
    n_bins : int
        Number of equal bins of [0, 1]; empty ones weigh nothing.

    Returns
    -------
    Estimate
        Without an interval; refused where only one class is there.
    """
    reason = missing_class(is_lens_N)
    if reason is not None:
        return Estimate(None, n=len(is_lens_N), reason=reason)
    bin_N = np.minimum((score_N * n_bins).astype(np.intp), n_bins - 1)
    score_B = np.bincount(bin_N, weights=score_N, minlength=n_bins)
    lenses_B = np.bincount(bin_N, weights=is_lens_N, minlength=n_bins)
    return Estimate(float(np.abs(lenses_B - score_B).sum() / len(score_N)), n=len(score_N))
