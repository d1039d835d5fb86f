"""A number with its interval, or a refusal with its reason; exact binomial intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; or no value, and the reason.

    Attributes
    ----------
    value : float or None
        The estimate; None where the data cannot support one.
    low, high : float or None
        Ends of the interval of the stated confidence (95 % unless said otherwise).
    n : int or None
        Number of objects that the value rests on.
    reason : str or None
        Why there is no value, or what limits its interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reason: str | None = None


def clopper_pearson(
    n_hits: ArrayLike, n_trials: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact two-sided interval of a binomial probability (Clopper & Pearson 1934).

    Parameters
    ----------
    n_hits, n_trials : number or array of numbers
        Successes and trials, 0 <= n_hits <= n_trials and n_trials >= 1; they broadcast. Fractions
        of a trial are those of trials that are partly the same.
    confidence : float
        Coverage that the interval has at least, in (0, 1).

    Returns
    -------
    low, high : float arrays
        Ends of the interval, in [0, 1].

    Raises
    ------
    ValueError
        Where the counts are not a binomial outcome.
    """
    hits, trials = np.broadcast_arrays(np.asarray(n_hits), np.asarray(n_trials))
    if np.any(hits < 0) or np.any(hits > trials) or np.any(trials < 1):
        raise ValueError(f"expected 0 <= n_hits <= n_trials >= 1, got {hits} of {trials}")
    tail = (1.0 - confidence) / 2.0
    misses = trials - hits
    # beta.ppf has no value where a parameter is 0; there the exact ends are 0 and 1.
    some_hits, some_misses = np.where(hits > 0, hits, 1), np.where(misses > 0, misses, 1)
    low = np.where(hits > 0, beta.ppf(tail, some_hits, misses + 1), 0.0)
    high = np.where(misses > 0, beta.ppf(1.0 - tail, hits + 1, some_misses), 1.0)
    return low, high


def fraction(
    n_hits: int,
    n_trials: int,
    of_what: str,
    confidence: float = CONFIDENCE,
    independent: int | None = None,
) -> Estimate:
    """Fraction n_hits / n_trials with its Clopper-Pearson interval.

    Parameters
    ----------
    n_hits, n_trials : int
        Successes and trials.
    of_what : str
        What was counted, in the plural; it stands in the reason where there is none of it.
    confidence : float
        Coverage of the interval.
    independent : int, optional
        Fewer trials that are independent of one another: the interval is theirs, at the same rate.

    Returns
    -------
    Estimate
        Refused where ``n_trials`` is 0.
    """
    if n_trials == 0:
        return Estimate(None, n=0, reason=f"there are no {of_what}")
    share = 1.0 if independent is None else independent / n_trials
    low, high = clopper_pearson(share * n_hits, share * n_trials, confidence)
    return Estimate(n_hits / n_trials, float(low), float(high), n_trials)
