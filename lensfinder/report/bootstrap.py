"""Bootstrap of a ranking: whole hosts are drawn, since mocks on one host are not independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RocDraws:
    """What the draws came to (Efron & Tibshirani 1993, ch. 13).

    Attributes
    ----------
    auroc_D : float array, shape (D,)
        Area under the ROC of each draw that holds both classes.
    fpr_G : float array, shape (G,)
        False positive rates of the band.
    tpr_DG : float array, shape (D, G)
        True positive rate of each draw at each of them.
    """

    auroc_D: NDArray[np.float64]
    fpr_G: NDArray[np.float64]
    tpr_DG: NDArray[np.float64]

    def band(self, confidence: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pointwise percentile band of the true positive rate, each end of shape (G,)."""
        if len(self.tpr_DG) == 0:
            return np.full(len(self.fpr_G), np.nan), np.full(len(self.fpr_G), np.nan)
        tail = (1.0 - confidence) / 2.0
        low_G, high_G = np.quantile(self.tpr_DG, [tail, 1.0 - tail], axis=0)
        return low_G, high_G


class WeightedRanking:
    """Lenses and negatives sorted once, so that each draw only has to add weights.

    Parameters
    ----------
    lens_logit_P, negative_logit_M : float arrays, shapes (P,) and (M,)
        Finite logits, neither empty.
    """

    def __init__(
        self, lens_logit_P: NDArray[np.floating], negative_logit_M: NDArray[np.floating]
    ) -> None:
        self.lens_order_P = np.argsort(lens_logit_P, kind="stable")
        self.negative_order_M = np.argsort(negative_logit_M, kind="stable")
        self._lens_P = lens_logit_P[self.lens_order_P]
        self._negative_M = negative_logit_M[self.negative_order_M]
        # Negatives below each lens, and those that are not above it.
        self._below_P = np.searchsorted(self._negative_M, self._lens_P, side="left")
        self._not_above_P = np.searchsorted(self._negative_M, self._lens_P, side="right")

    def draw(
        self,
        lens_weight_P: NDArray[np.integer],
        negative_weight_M: NDArray[np.integer],
        fpr_G: NDArray[np.float64],
    ) -> tuple[float, NDArray[np.float64]]:
        """P(lens > negative) + P(tie) / 2, and the TPR at each FPR, of weighted objects.

        Parameters
        ----------
        lens_weight_P, negative_weight_M : int arrays
            How often each object was drawn, in the order given to the constructor.
        fpr_G : float array, shape (G,)
            In [0, 1].

        Returns
        -------
        auroc : float
            NaN where a class was not drawn.
        tpr_G : float array, shape (G,)
            Weight of the lenses above the most generous threshold that lets no more than this
            share of the negatives pass.
        """
        lens_P = lens_weight_P[self.lens_order_P]
        up_to_M = np.concatenate([[0], np.cumsum(negative_weight_M[self.negative_order_M])])
        n_lenses, n_negatives = int(lens_P.sum()), int(up_to_M[-1])
        if n_lenses == 0 or n_negatives == 0:
            return float("nan"), np.full(len(fpr_G), np.nan)
        twice_below_P = up_to_M[self._below_P] + up_to_M[self._not_above_P]
        auroc = float(np.dot(lens_P, twice_below_P)) / (2.0 * n_lenses * n_negatives)

        # The threshold is a negative's logit: the lowest with at most FPR of the weight above it.
        passing_G = np.floor(fpr_G * n_negatives + 1e-9)
        at_G = np.searchsorted(up_to_M[1:], n_negatives - passing_G, side="left")
        from_lens_G = np.searchsorted(self._lens_P, self._negative_M[at_G], side="right")
        lenses_up_to_P = np.concatenate([[0], np.cumsum(lens_P)])
        return auroc, (n_lenses - lenses_up_to_P[from_lens_G]) / n_lenses


def units(host_id_N: NDArray[np.str_] | None, n: int) -> tuple[NDArray[np.intp], int]:
    """Index of the unit to be drawn of each object, and how many units there are.

    Parameters
    ----------
    host_id_N : str array, shape (N,), or None
        Host galaxy of each object; one with an empty host is a unit of its own.
    n : int
        Number of objects.
    """
    if host_id_N is None or n == 0:
        return np.arange(n), n
    hosts, unit_N = np.unique(host_id_N, return_inverse=True)
    alone = host_id_N == ""
    unit_N = np.where(alone, len(hosts) + np.cumsum(alone), unit_N)
    _, unit_N = np.unique(unit_N, return_inverse=True)
    return unit_N, int(unit_N.max()) + 1


def roc_draws(
    logit_N: NDArray[np.floating],
    is_lens_N: NDArray[np.bool_],
    *,
    seed: int,
    host_id_N: NDArray[np.str_] | None = None,
    fpr_G: NDArray[np.float64] | None = None,
    n_bootstrap: int = 300,
) -> RocDraws:
    """Draw hosts with replacement and rank again.

    Parameters
    ----------
    logit_N : float array, shape (N,)
        Finite logits of both classes.
    is_lens_N : bool array, shape (N,)
        True for a lens.
    seed : int
        Of the random numbers.
    host_id_N : str array, shape (N,), optional
        Host galaxy of each object.
    fpr_G : float array, shape (G,), optional
        Where the band is wanted.
    n_bootstrap : int
        Number of draws.

    Returns
    -------
    RocDraws
        Without the draws that hold one class only: they say nothing about the ranking.
    """
    fpr_G = np.empty(0) if fpr_G is None else fpr_G
    unit_N, n_units = units(host_id_N, len(logit_N))
    ranking = WeightedRanking(logit_N[is_lens_N], logit_N[~is_lens_N])
    unit_P, unit_M = unit_N[is_lens_N], unit_N[~is_lens_N]
    rng = np.random.default_rng(seed)
    auroc_D = np.full(n_bootstrap, np.nan)
    tpr_DG = np.full((n_bootstrap, len(fpr_G)), np.nan)
    for i in range(n_bootstrap):
        times_U = np.bincount(rng.integers(0, n_units, n_units), minlength=n_units)
        auroc_D[i], tpr_DG[i] = ranking.draw(times_U[unit_P], times_U[unit_M], fpr_G)
    whole_D = np.isfinite(auroc_D)
    return RocDraws(auroc_D[whole_D], fpr_G, tpr_DG[whole_D])
