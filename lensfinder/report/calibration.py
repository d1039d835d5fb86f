"""Scores as probabilities: what they are worth on mocks, and what they become on the sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from lensfinder.report.estimates import Estimate, clopper_pearson
from lensfinder.report.metrics import missing_class


@dataclass(frozen=True, slots=True)
class Reliability:
    """Fraction of lenses among objects of like score, in equal bins that hold any.

    Attributes
    ----------
    score_B, lenses_B : float arrays, shape (B,)
        Mean score and fraction of lenses in each bin; equal where calibrated.
    low_B, high_B : float arrays, shape (B,)
        Clopper-Pearson interval of the fraction (95 %).
    n_B : int array, shape (B,)
        Objects in each bin.
    """

    score_B: NDArray[np.float64]
    lenses_B: NDArray[np.float64]
    low_B: NDArray[np.float64]
    high_B: NDArray[np.float64]
    n_B: NDArray[np.int64]


def reliability(
    score_N: NDArray[np.floating], is_lens_N: NDArray[np.bool_], n_bins: int = 15
) -> Reliability:
    """Reliability diagram (Guo et al. 2017, sect. 2), in the bins of the calibration error.

    Parameters
    ----------
    score_N : float array, shape (N,)
        Calibrated scores in [0, 1].
    is_lens_N : bool array, shape (N,)
        True for a lens.
    n_bins : int
        Number of equal bins of [0, 1].
    """
    n_B, score_B, hits_B = _binned(score_N, is_lens_N, n_bins)
    there = n_B > 0
    if not there.any():
        nothing = np.empty(0)
        return Reliability(nothing, nothing, nothing, nothing, np.empty(0, np.int64))
    low_B, high_B = clopper_pearson(hits_B[there], n_B[there])
    n_B = n_B[there]
    return Reliability(score_B[there] / n_B, hits_B[there] / n_B, low_B, high_B, n_B)


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
    _, score_B, lenses_B = _binned(score_N, is_lens_N, n_bins)
    return Estimate(float(np.abs(lenses_B - score_B).sum() / len(score_N)), n=len(score_N))


def _binned(
    score_N: NDArray[np.floating], is_lens_N: NDArray[np.bool_], n_bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Objects, sum of scores, and lenses in equal bins of score, (n_bins,) each."""
    bin_N = np.minimum((score_N * n_bins).astype(np.intp), n_bins - 1)
    n_B: NDArray[np.int64] = np.bincount(bin_N, minlength=n_bins)
    score_B = np.bincount(bin_N, weights=score_N, minlength=n_bins).astype(np.float64)
    lenses_B: NDArray[np.int64] = np.bincount(bin_N[is_lens_N], minlength=n_bins)
    return n_B, score_B, lenses_B


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns a model's logit into a probability.

    Attributes
    ----------
    temperature : float
        The logit divided by this is calibrated.
    training_prevalence : float
        Share of lenses at which it is, in (0, 1).
    """

    temperature: float
    training_prevalence: float


def probability_at(
    logit_N: NDArray[np.floating], calibration: Calibration, prevalence: float
) -> NDArray[np.float64]:
    """Probability of a lens where lenses are this rare: Bayes' rule on the calibrated log odds.

    ``logit / T + ln[pi / (1 - pi)] - ln[pi_t / (1 - pi_t)]``, with the training prevalence pi_t
    (Saerens, Latinne & Decaestecker 2002, eq. 4, for two classes). It holds as far as the sky's
    negatives look like the training set's.

    Parameters
    ----------
    logit_N : float array, shape (N,)
        The network's output.
    calibration : Calibration
        Of the model.
    prevalence : float
        pi, in (0, 1).
    """
    shift = logit(prevalence) - logit(calibration.training_prevalence)
    probability_N: NDArray[np.float64] = expit(
        np.asarray(logit_N, np.float64) / calibration.temperature + shift
    )
    return probability_N
