"""Figures of merit of a ranking: ROC, AUROC, precision, TPR0, TPR10, calibration error.

Everything is computed from the logit: a float32 sigmoid is 1.0 for every logit above 17 and
would tie exactly the objects that matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from lensfinder.report.bootstrap import RocDraws, roc_draws
from lensfinder.report.estimates import CONFIDENCE, Estimate, fraction
from lensfinder.report.logits import Counted


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
    draws: RocDraws | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Area under the ROC (scikit-learn) with a percentile bootstrap interval.

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
    draws : RocDraws, optional
        Of these very objects, where they were drawn already.
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
    if draws is None:
        draws = roc_draws(
            logit_N, is_lens_N, seed=seed, host_id_N=host_id_N, n_bootstrap=n_bootstrap
        )
    if draws.auroc_D.size == 0 or draws.auroc_D.min() == draws.auroc_D.max():
        return Estimate(
            value, n=len(logit_N), reason="the bootstrap draws are all alike: no interval"
        )
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws.auroc_D, [tail, 1.0 - tail])
    return Estimate(value, float(low), float(high), len(logit_N))


def average_precision(logit_N: NDArray[np.floating], is_lens_N: NDArray[np.bool_]) -> Estimate:
    """Mean precision over recall at the objects' own mix of classes (scikit-learn).

    Parameters
    ----------
    logit_N : float array, shape (N,)
        Finite logits.
    is_lens_N : bool array, shape (N,)
        True for a lens.

    Returns
    -------
    Estimate
        Without an interval; refused where only one class is there.
    """
    reason = missing_class(is_lens_N)
    if reason is not None:
        return Estimate(None, n=len(is_lens_N), reason=reason)
    return Estimate(float(average_precision_score(is_lens_N, logit_N)), n=len(is_lens_N))


def precision(
    curve: RocCurve, lenses_per_object: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall along a ROC, where lenses are this share of the objects.

    Precision needs the mix of classes: that of the test split says how the curve was measured,
    the sky's prevalence what an inspector will meet.

    Parameters
    ----------
    curve : RocCurve
        Not refused.
    lenses_per_object : float
        Share of lenses, in (0, 1).

    Returns
    -------
    recall_M, precision_M : float arrays
        Without the first point of the ROC, which nothing passes.
    """
    recall_M, fpr_M = curve.tpr_M[1:], curve.fpr_M[1:]
    lenses_M = lenses_per_object * recall_M
    passing_M = lenses_M + (1.0 - lenses_per_object) * fpr_M
    return recall_M, lenses_M / passing_M


def tpr_before(
    logit_N: NDArray[np.floating],
    is_lens_N: NDArray[np.bool_],
    n_false_positives: int,
    lens_galaxies: int | None = None,
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
    lens_galaxies : int, optional
        On which the lenses stand: the interval is that of as many.

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
    found = int(np.sum(lenses > threshold))
    tpr = fraction(found, len(lenses), "lenses", independent=lens_galaxies)
    return Estimate(tpr.value, tpr.low, tpr.high, n_negatives)


def histograms(
    logits: Mapping[str, NDArray[np.floating]],
    counted: Mapping[str, Counted] | None = None,
    n_bins: int = 48,
) -> dict[str, Any]:
    """Counts of each set of logits in common equal bins.

    Parameters
    ----------
    logits : mapping of str to float arrays
        Finite logits, each set under its name; all may be empty.
    counted : mapping of str to Counted, optional
        Objects of a set of which no more than a narrow bin is known: they are drawn at its middle.
    n_bins : int
        Number of bins from the lowest logit of all to the highest.

    Returns
    -------
    dict
        ``edges`` (n_bins + 1,), and ``counts``: (n_bins,) of every set that is not empty. Nothing
        where all are empty.
    """
    weights = {name: np.ones(len(values)) for name, values in logits.items()}
    logits = dict(logits)
    for name, more in (counted or {}).items():
        logits[name] = np.concatenate([logits[name], (more.low_B + more.high_B) / 2])
        weights[name] = np.concatenate([weights[name], more.count_B])
    shown = {name: values for name, values in logits.items() if len(values)}
    if not shown:
        return {}
    low = min(float(values.min()) for values in shown.values())
    high = max(float(values.max()) for values in shown.values())
    pad = 0.5 if high == low else 0.0
    edges = np.linspace(low - pad, high + pad, n_bins + 1)
    counts = {
        name: np.histogram(values, edges, weights=weights[name])[0].astype(np.int64)
        for name, values in shown.items()
    }
    return {"edges": edges, "counts": counts}
