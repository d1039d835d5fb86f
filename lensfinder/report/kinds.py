"""Each kind of negative on its own, and their false positives in the sky's proportions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensfinder.report import metrics, thresholds
from lensfinder.report.estimates import CONFIDENCE, Estimate, fraction

# Kinds are compared at the rate that a few hundred negatives of each can support.
KIND_FPR = 1e-2
# The interval of a kind's AUROC is read to two digits.
_DRAWS = 100


@dataclass(frozen=True, slots=True)
class KindMeasured:
    """All lenses against one kind of negative.

    Attributes
    ----------
    kind : str
        Of the negatives.
    n_above : int or None
        Negatives above the operating threshold; None where there is none.
    n_galaxies : int
        On which the negatives stand.
    rate : Estimate
        Their fraction.
    auroc, average_precision, tpr0 : Estimate
        Figures of merit.
    tpr_at_kind_fpr : Estimate
        Lenses above the threshold that `KIND_FPR` of this kind pass.
    roc : RocCurve
        For the figures.
    """

    kind: str
    n_above: int | None
    n_galaxies: int
    rate: Estimate
    auroc: Estimate
    average_precision: Estimate
    tpr0: Estimate
    tpr_at_kind_fpr: Estimate
    roc: metrics.RocCurve


def measure_kinds(
    logit_N: NDArray[np.floating],
    is_lens_N: NDArray[np.bool_],
    kind_N: NDArray[np.str_],
    host_id_N: NDArray[np.str_],
    *,
    threshold: float | None,
    prevalence: float,
    seed: int,
) -> list[KindMeasured]:
    """Measure the lenses against each kind of negative, in the order of the kinds' names.

    Parameters
    ----------
    logit_N : float array, shape (N,)
        Finite logits.
    is_lens_N : bool array, shape (N,)
        True for a lens.
    kind_N, host_id_N : str arrays, shape (N,)
        Kind and host galaxy.
    threshold : float or None
        The operating threshold.
    prevalence : float
        Fraction of lenses among targets on the sky, in (0, 1).
    seed : int
        Of the bootstrap.
    """
    measured = []
    for kind in np.unique(kind_N[~is_lens_N]):
        chosen_N = is_lens_N | (kind_N == kind)
        logit_K, is_lens_K = logit_N[chosen_N], is_lens_N[chosen_N]
        negative_logit_M = logit_K[~is_lens_K]
        hosts_K = host_id_N[chosen_N]
        n_galaxies = thresholds.galaxies_of(hosts_K[~is_lens_K])
        n_lens_galaxies = thresholds.galaxies_of(hosts_K[is_lens_K])
        rate = Estimate(None, n=len(negative_logit_M), reason="there is no threshold")
        n_above = None
        if threshold is not None:
            n_above = int(np.sum(negative_logit_M > threshold))
            rate = thresholds.rate_above(
                negative_logit_M, threshold, "negatives of this kind", n_galaxies
            )
        point = thresholds.threshold_at_fpr(
            negative_logit_M, logit_K[is_lens_K], KIND_FPR, prevalence,
            galaxies=(n_galaxies, n_lens_galaxies),
        )  # fmt: skip
        measured.append(
            KindMeasured(
                kind=str(kind),
                n_above=n_above,
                n_galaxies=n_galaxies,
                rate=rate,
                auroc=metrics.auroc(
                    logit_K, is_lens_K, seed=seed, host_id_N=hosts_K, n_bootstrap=_DRAWS
                ),
                average_precision=metrics.average_precision(logit_K, is_lens_K),
                tpr0=metrics.tpr_before(logit_K, is_lens_K, 1, n_lens_galaxies),
                tpr_at_kind_fpr=point.tpr,
                roc=metrics.roc(logit_K, is_lens_K),
            )
        )
    return measured


@dataclass(frozen=True, slots=True)
class WeightedRate:
    """False positive rate of the mocks in the sky's proportions of kinds.

    Attributes
    ----------
    rate : Estimate
        Refused where no weights are known.
    without_weight : list of str
        Kinds among the mocks that the sky is taken to hold none of.
    not_simulated : list of str
        Kinds with a weight of which there are no mocks: their share is not in the rate.
    """

    rate: Estimate
    without_weight: list[str]
    not_simulated: list[str]


def weighted_rate(kinds: Sequence[KindMeasured], sky_fraction: Mapping[str, float]) -> WeightedRate:
    """Sum of the kinds' rates above the operating threshold, in the sky's proportions.

    The interval adds the ends of Clopper-Pearson intervals that hold together with at least the
    stated confidence: each has its K-th root, since the kinds are independent.

    Parameters
    ----------
    kinds : sequence of KindMeasured
        At one threshold.
    sky_fraction : mapping of kind to float
        Share of each kind among the sky's targets, >= 0; scaled to a sum of 1 over the kinds
        that were simulated.
    """
    there = [kind for kind in kinds if sky_fraction.get(kind.kind, 0.0) > 0.0]
    names = {kind.kind for kind in kinds}
    without = sorted(names - {kind.kind for kind in there}) if sky_fraction else []
    absent = sorted(name for name, share in sky_fraction.items() if share > 0 and name not in names)
    if not there:
        reason = "no sky_fraction is known for the kinds of negatives"
        return WeightedRate(Estimate(None, reason=reason), without, absent)
    counted = [(kind, kind.n_above) for kind in there if kind.n_above is not None]
    if not counted:
        return WeightedRate(Estimate(None, reason="there is no threshold"), without, absent)
    total = sum(sky_fraction[kind.kind] for kind, _ in counted)
    each = CONFIDENCE ** (1.0 / len(counted))
    value = low = high = 0.0
    n = 0
    for kind, n_above in counted:
        weight = sky_fraction[kind.kind] / total
        n_kind = kind.rate.n or 0
        rate = fraction(n_above, n_kind, "negatives", each, independent=kind.n_galaxies)
        value += weight * (rate.value or 0.0)
        low += weight * (rate.low or 0.0)
        high += weight * (1.0 if rate.high is None else rate.high)
        n += n_kind
    return WeightedRate(Estimate(value, low, high, n), without, absent)
