"""Scores of mocks to numbers: which objects count, and what they say of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder.report import audits, calibration, completeness, metrics, thresholds
from lensfinder.report.bootstrap import RocDraws, roc_draws
from lensfinder.report.estimates import Estimate
from lensfinder.report.kinds import KindMeasured, WeightedRate, measure_kinds, weighted_rate

Columns = Mapping[str, NDArray[Any]]

_BAND_POINTS = 80
_DRAWS = 200


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Objects that no threshold or figure of merit uses, each counted under one cause.

    Attributes
    ----------
    other_split, not_scored, unlabelled, seen_in_training, adapted : int
        Of another split than test; without a logit; without a label; flagged so by ``infer``.
    """

    other_split: int
    not_scored: int
    unlabelled: int
    seen_in_training: int
    adapted: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Every number about the labelled mocks.

    Attributes
    ----------
    n_lenses, n_negatives : int
        Objects of the test split behind all of it.
    left_out : LeftOut
        The others.
    auroc, average_precision, tpr0, tpr10, calibration_error : Estimate
        Figures of merit.
    points : list of ThresholdPoint
        One for each asked FPR.
    operating : int or None
        Index of the operating point: the strictest FPR that the negatives support.
    kinds : list of KindMeasured
        Each kind of negative on its own.
    weighted : WeightedRate
        FPR at the operating threshold with the kinds in the sky's proportions.
    roc : RocCurve
        For the figures.
    band : RocDraws or None
        Bootstrap of the ROC by host; None where there is no ROC.
    reliability : Reliability
        Of the calibrated scores.
    completeness : Completeness
        Of the mock lenses.
    shortcut : Probe
        What trivial numbers of the stamps tell of the label.
    """

    n_lenses: int
    n_negatives: int
    left_out: LeftOut
    auroc: Estimate
    average_precision: Estimate
    tpr0: Estimate
    tpr10: Estimate
    calibration_error: Estimate
    points: list[thresholds.ThresholdPoint]
    operating: int | None
    kinds: list[KindMeasured]
    weighted: WeightedRate
    roc: metrics.RocCurve
    band: RocDraws | None
    reliability: calibration.Reliability
    completeness: completeness.Completeness
    shortcut: audits.Probe

    @property
    def operating_logit(self) -> float | None:
        """The operating threshold, or None."""
        return None if self.operating is None else self.points[self.operating].logit

    @property
    def operating_fpr(self) -> Estimate:
        """FPR on mocks at the operating threshold, in the sky's proportions where known."""
        if self.weighted.rate.value is not None:
            return self.weighted.rate
        if self.operating is None:
            return Estimate(None, reason="there is no threshold")
        return self.points[self.operating].fpr


def select_test(
    columns: Columns, seen_in_training_bit: int, adapted_bit: int
) -> tuple[NDArray[np.bool_], LeftOut]:
    """Mark the objects that thresholds and figures may use, and count the others.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        ``split``, ``logit`` (NaN where not scored), ``label`` (1, 0, -1), ``flags``.
    seen_in_training_bit, adapted_bit : int
        Bits of ``flags`` that keep an object out.

    Returns
    -------
    used_N : bool array, shape (N,)
    left_out : LeftOut
        ``used_N.sum()`` and its counts add up to N.
    """
    used_N = np.ones(len(columns["logit"]), dtype=bool)
    counts = {}
    causes = {
        "other_split": columns["split"] != "test",
        "not_scored": ~np.isfinite(columns["logit"]),
        "unlabelled": (columns["label"] != 0) & (columns["label"] != 1),
        "seen_in_training": (columns["flags"] & seen_in_training_bit) != 0,
        "adapted": (columns["flags"] & adapted_bit) != 0,
    }
    for cause, applies_N in causes.items():
        counts[cause] = int(np.sum(used_N & applies_N))
        used_N &= ~applies_N
    return used_N, LeftOut(**counts)


def leaking_ids(columns: Columns, name: str) -> NDArray[np.str_]:
    """Hosts or sources that stand in the training split as well as in the test split.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        ``split`` and the column ``name``; an empty id is no id.
    name : str
        ``host_id`` or ``source_id``.
    """
    ids_N, split_N = columns[name], columns["split"]
    shared = np.intersect1d(ids_N[split_N == "train"], ids_N[split_N == "test"])
    without_blank: NDArray[np.str_] = shared[shared != ""]
    return without_blank


def measure_labelled(
    columns: Columns,
    *,
    fprs: Sequence[float],
    prevalence: float,
    seed: int,
    seen_in_training_bit: int,
    adapted_bit: int,
    sky_fraction: Mapping[str, float] | None = None,
) -> tuple[Measured, Columns]:
    """Every number about labelled scores, from their test split alone.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        Those of :func:`select_test`, ``score``, ``kind``, ``host_id``; truth, stamp statistics and
        embeddings where known.
    fprs : sequence of float
        Rates asked for, each in (0, 1).
    prevalence : float
        Fraction of lenses among targets on the sky, in (0, 1).
    seed : int
        Of the bootstrap and the audits.
    seen_in_training_bit, adapted_bit : int
        Bits of ``flags`` that keep an object out.
    sky_fraction : mapping of kind to float, optional
        Share of each kind of negative on the sky.

    Returns
    -------
    measured : Measured
    used : mapping of str to arrays
        The rows of ``columns`` behind it.
    """
    used_N, left_out = select_test(columns, seen_in_training_bit, adapted_bit)
    used = {name: values[used_N] for name, values in columns.items()}
    logit_N = used["logit"].astype(np.float64)
    is_lens_N = used["label"] == 1
    lens_logit_P, negative_logit_M = logit_N[is_lens_N], logit_N[~is_lens_N]
    galaxies = (
        thresholds.galaxies_of(used["host_id"][~is_lens_N]),
        thresholds.galaxies_of(used["host_id"][is_lens_N]),
    )
    points = [
        thresholds.threshold_at_fpr(
            negative_logit_M, lens_logit_P, fpr, prevalence, galaxies=galaxies
        )
        for fpr in fprs
    ]
    operating = thresholds.strictest_supported(points)
    by_kind = measure_kinds(
        logit_N, is_lens_N, used["kind"], used["host_id"],
        threshold=None if operating is None else points[operating].logit,
        prevalence=prevalence, seed=seed,
    )  # fmt: skip
    curve = metrics.roc(logit_N, is_lens_N)
    draws = None
    if curve.reason is None:
        grid = np.geomspace(1.0 / len(negative_logit_M), 1.0, _BAND_POINTS)
        draws = roc_draws(
            logit_N, is_lens_N, seed=seed, host_id_N=used["host_id"], fpr_G=grid, n_bootstrap=_DRAWS
        )
    completeness_point = thresholds.threshold_at_fpr(
        negative_logit_M, lens_logit_P, completeness.FPR, prevalence, galaxies=galaxies
    )
    score_N = used["score"].astype(np.float64)
    measured = Measured(
        n_lenses=len(lens_logit_P),
        n_negatives=len(negative_logit_M),
        left_out=left_out,
        auroc=metrics.auroc(logit_N, is_lens_N, seed=seed, draws=draws),
        average_precision=metrics.average_precision(logit_N, is_lens_N),
        tpr0=metrics.tpr_before(logit_N, is_lens_N, 1, galaxies[1]),
        tpr10=metrics.tpr_before(logit_N, is_lens_N, 10, galaxies[1]),
        calibration_error=calibration.expected_calibration_error(score_N, is_lens_N),
        points=points,
        operating=operating,
        kinds=by_kind,
        weighted=weighted_rate(by_kind, sky_fraction or {}),
        roc=curve,
        band=draws,
        reliability=calibration.reliability(score_N, is_lens_N),
        completeness=completeness.measure(
            columns,
            completeness.select_lenses(columns, seen_in_training_bit, adapted_bit),
            completeness_point,
        ),
        shortcut=audits.probe(
            used, audits.trivial_names(used), is_lens_N, used["host_id"], seed=seed
        ),
    )
    return measured, used
