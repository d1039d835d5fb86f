"""Ways in which good figures deceive: shortcuts, mocks unlike the sky, inputs that drift.

A linear probe sees only trivial numbers of each stamp: flux, noise, centroid, masked pixels. What
it can tell apart, the network needs no arc to tell apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from lensfinder.report import metrics
from lensfinder.report.bootstrap import units
from lensfinder.report.estimates import Estimate

# An arc brightens its galaxy and lenses are the more massive ones, so that an honest recipe stands
# above 0.5: flux alone gives 0.6 to 0.7 for modelled lenses among negatives of many kinds.
SHORTCUT_AUROC = 0.7
# Kolmogorov-Smirnov distance from which a statistic of the inputs is said to drift.
DRIFT_DISTANCE = 0.2
_FEWEST_PER_CLASS_AND_HALF = 20
# A probe of ten numbers learns nothing more from more objects.
_MOST_OBJECTS = 40_000
_TRIVIAL = re.compile(r"stamp_(?:flux|noise)_[A-Za-z0-9]+_njy|stamp_(?:offset_pix|masked_fraction)")
_DRIFTING = re.compile(r"psf_fwhm_[A-Za-z0-9]+_arcsec|mag_[A-Za-z0-9]+")
_EMBEDDING = re.compile(r"embedding_\d+")

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Probe:
    """How well a linear probe tells two sets of objects apart.

    Attributes
    ----------
    auroc : Estimate
        On the half that it was not fitted on, its interval resampled by host; 0.5 is chance.
    n_fitted, n_scored : int
        Objects in either half.
    features : list of (str, float)
        Each number it saw, with the AUROC of that number alone (of the scored half, at least 0.5),
        the most telling first; empty for embeddings.
    """

    auroc: Estimate
    n_fitted: int
    n_scored: int
    features: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Drift:
    """One statistic of the inputs, on mocks and on the sky.

    Attributes
    ----------
    name : str
        Column.
    mocks_median, sky_median : float
        In the column's unit.
    distance : float
        Kolmogorov-Smirnov: the largest difference of the two cumulative distributions, in [0, 1].
    drifts : bool
        Whether it reaches `DRIFT_DISTANCE`.
    """

    name: str
    mocks_median: float
    sky_median: float
    distance: float
    drifts: bool


def trivial_names(columns: Columns) -> list[str]:
    """Columns with the trivial numbers of each stamp, which ``infer`` writes."""
    return [name for name in columns if _TRIVIAL.fullmatch(name)]


def embedding_names(columns: Columns) -> list[str]:
    """Columns ``embedding_0``, ``embedding_1``, ... of the network's penultimate features."""
    return [name for name in columns if _EMBEDDING.fullmatch(name)]


def probe(
    columns: Columns,
    names: Sequence[str],
    is_positive_N: NDArray[np.bool_],
    host_id_N: NDArray[np.str_],
    *,
    seed: int,
) -> Probe:
    """Fit a linear probe on half of the hosts and score it on the others.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        With ``names`` among them; rows with a value that is not finite are left out.
    names : sequence of str
        What the probe sees.
    is_positive_N : bool array, shape (N,)
        What it is to tell.
    host_id_N : str array, shape (N,)
        Objects of one host stay in one half.
    seed : int
        Of the halves, the sample and the bootstrap.

    Returns
    -------
    Probe
        Refused where there is nothing to see, or too few of a class.
    """
    if not names:
        reason = "the scores have no such columns; score again with this version of lensfinder"
        return Probe(Estimate(None, reason=reason), 0, 0, [])
    features_NF = np.column_stack([columns[name].astype(np.float64) for name in names])
    rows = np.flatnonzero(np.isfinite(features_NF).all(axis=1))
    rng = np.random.default_rng(seed)
    if len(rows) > _MOST_OBJECTS:
        rows = np.sort(rng.choice(rows, _MOST_OBJECTS, replace=False))
    unit_K, n_units = units(host_id_N[rows], len(rows))
    is_fitted_K = (rng.permutation(n_units) < n_units // 2)[unit_K]
    fit, score = rows[is_fitted_K], rows[~is_fitted_K]
    for half in (fit, score):
        fewest = int(np.bincount(is_positive_N[half].astype(int), minlength=2).min())
        if fewest < _FEWEST_PER_CLASS_AND_HALF:
            reason = (
                f"takes {_FEWEST_PER_CLASS_AND_HALF} objects of each class in either half, "
                f"there are {fewest}"
            )
            return Probe(Estimate(None, n=len(rows), reason=reason), len(fit), len(score), [])
    # Ranks instead of values: fluxes span decades, and a probe must not hang on a few of them.
    model = make_pipeline(
        QuantileTransformer(n_quantiles=min(1000, len(fit)), output_distribution="normal",
                            subsample=None, random_state=0),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    )  # fmt: skip
    model.fit(features_NF[fit], is_positive_N[fit])
    auroc = metrics.auroc(
        model.decision_function(features_NF[score]), is_positive_N[score],
        seed=seed, host_id_N=host_id_N[score],
    )  # fmt: skip
    alone = []
    for f, name in enumerate(names):
        if _TRIVIAL.fullmatch(name):
            area = float(roc_auc_score(is_positive_N[score], features_NF[score, f]))
            alone.append((name, max(area, 1.0 - area)))
    return Probe(auroc, len(fit), len(score), sorted(alone, key=lambda item: -item[1]))


def is_shortcut(found: Probe) -> bool:
    """Whether the probe tells the sets apart beyond doubt: its interval lies above the limit."""
    low = found.auroc.value if found.auroc.low is None else found.auroc.low
    return low is not None and low > SHORTCUT_AUROC


def mocks_against_sky(mocks: Columns, sky: Columns, *, seed: int) -> tuple[Probe, str]:
    """Tell mock negatives from the sky, by embeddings where both have them.

    Nearly every object of the sky is a negative, so that mock lenses would be told by their arcs.

    Parameters
    ----------
    mocks, sky : mappings of str to arrays
        Mock negatives with ``host_id``, and sky objects.
    seed : int
        Of the halves and the bootstrap.

    Returns
    -------
    probe : Probe
    by : str
        ``embeddings`` or ``stamp statistics``.
    """
    by, names = "embeddings", [n for n in embedding_names(mocks) if n in sky]
    if not names:
        by, names = "stamp statistics", [n for n in trivial_names(mocks) if n in sky]
    n_mocks, n_sky = len(mocks["logit"]), len(sky["logit"])
    both = {name: np.concatenate([mocks[name], sky[name]]) for name in names}
    is_sky_N = np.arange(n_mocks + n_sky) >= n_mocks
    host_id_N = np.concatenate([mocks["host_id"], np.full(n_sky, "")])
    return probe(both, names, is_sky_N, host_id_N, seed=seed), by


def drifts(mocks: Columns, sky: Columns) -> list[Drift]:
    """Compare statistics of the inputs between mock negatives and the sky.

    The mocks of the test split come from the recipe that the network was trained on.

    Parameters
    ----------
    mocks, sky : mappings of str to arrays
        Columns that only one of them has are left out, and so are values that are not finite.

    Returns
    -------
    list of Drift
        The largest distance first.
    """
    found = []
    for name in mocks:
        if name not in sky or not (_TRIVIAL.fullmatch(name) or _DRIFTING.fullmatch(name)):
            continue
        ours = mocks[name][np.isfinite(mocks[name])].astype(np.float64)
        theirs = sky[name][np.isfinite(sky[name])].astype(np.float64)
        if len(ours) == 0 or len(theirs) == 0:
            continue
        # A constant, such as a survey's typical PSF, has no distribution to compare: it drifts
        # only where the other never goes.
        apart = ours.max() < theirs.min() or theirs.max() < ours.min()
        if not apart and (np.ptp(ours) == 0 or np.ptp(theirs) == 0):
            continue
        # Only the distance is used; its asymptotic p-value is cheap for a million objects.
        distance = float(ks_2samp(ours, theirs, method="asymp").statistic)
        medians = float(np.median(ours)), float(np.median(theirs))
        found.append(Drift(name, *medians, distance, distance >= DRIFT_DISTANCE))
    return sorted(found, key=lambda drift: -drift.distance)
