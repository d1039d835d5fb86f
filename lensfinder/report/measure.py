"""Scores to numbers: which objects count, and every number that the report states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder.report import completeness, metrics, thresholds
from lensfinder.report.estimates import Estimate, fraction

Columns = Mapping[str, NDArray[Any]]


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
    auroc, tpr0, tpr10, calibration_error : Estimate
        Figures of merit.
    points : list of ThresholdPoint
        One for each asked FPR.
    operating : int or None
        Index of the operating point: the strictest FPR that the negatives support.
    kinds : list of KindRate
        Each kind of negative above the operating threshold.
    roc : RocCurve
        For the figure.
    completeness : CompletenessMap or None
        At the operating threshold; None where there is none, or no truth.
    """

    n_lenses: int
    n_negatives: int
    left_out: LeftOut
    auroc: Estimate
    tpr0: Estimate
    tpr10: Estimate
    calibration_error: Estimate
    points: list[thresholds.ThresholdPoint]
    operating: int | None
    kinds: list[thresholds.KindRate]
    roc: metrics.RocCurve
    completeness: completeness.CompletenessMap | None

    @property
    def operating_logit(self) -> float | None:
        """The operating threshold, or None."""
        return None if self.operating is None else self.points[self.operating].logit


@dataclass(frozen=True, slots=True)
class SkyMeasured:
    """What the unlabelled sky says about the thresholds.

    Attributes
    ----------
    n_scored, n_not_scored : int
        Sky objects with and without a logit.
    n_seen_in_training, n_adapted : int
        Scored ones that are kept out of the bounds below, though not out of the candidates.
    above_operating : Estimate
        Fraction above the operating threshold: an upper bound of the FPR there.
    above_points : list of Estimate
        The same for every asked FPR.
    quantiles : list of Estimate
        Logit that a fraction of the sky equal to each asked FPR exceeds.
    """

    n_scored: int
    n_not_scored: int
    n_seen_in_training: int
    n_adapted: int
    above_operating: Estimate
    above_points: list[Estimate]
    quantiles: list[Estimate]


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
) -> tuple[Measured, Columns]:
    """Every number about labelled scores, from their test split alone.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        Those of :func:`select_test`, ``score``, ``kind``, ``host_id``; ``theta_e_arcsec`` and
        ``source_snr`` where known.
    fprs : sequence of float
        Rates asked for, each in (0, 1).
    prevalence : float
        Fraction of lenses among targets on the sky, in (0, 1).
    seed : int
        Of the bootstrap.
    seen_in_training_bit, adapted_bit : int
        Bits of ``flags`` that keep an object out.

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
    points = [
        thresholds.threshold_at_fpr(negative_logit_M, lens_logit_P, fpr, prevalence) for fpr in fprs
    ]
    operating = thresholds.strictest_supported(points)
    cut = None if operating is None else points[operating].logit
    cells = None
    if cut is not None and {"theta_e_arcsec", "source_snr"} <= used.keys() and is_lens_N.any():
        cells = completeness.completeness_map(
            used["theta_e_arcsec"][is_lens_N], used["source_snr"][is_lens_N], lens_logit_P > cut
        )
    measured = Measured(
        n_lenses=len(lens_logit_P),
        n_negatives=len(negative_logit_M),
        left_out=left_out,
        auroc=metrics.auroc(logit_N, is_lens_N, seed=seed, host_id_N=used["host_id"]),
        tpr0=metrics.tpr_before(logit_N, is_lens_N, 1),
        tpr10=metrics.tpr_before(logit_N, is_lens_N, 10),
        calibration_error=metrics.expected_calibration_error(
            used["score"].astype(np.float64), is_lens_N
        ),
        points=points,
        operating=operating,
        kinds=[]
        if cut is None
        else thresholds.rates_by_kind(used["kind"][~is_lens_N], negative_logit_M, cut),
        roc=metrics.roc(logit_N, is_lens_N),
        completeness=cells,
    )
    return measured, used


def measure_sky(
    columns: Columns,
    measured: Measured,
    *,
    seen_in_training_bit: int,
    adapted_bit: int,
) -> SkyMeasured:
    """What the unlabelled sky says about thresholds that the mocks set.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        ``logit`` (NaN where not scored) and ``flags``.
    measured : Measured
        The mocks' thresholds.
    seen_in_training_bit, adapted_bit : int
        Bits of ``flags`` that keep an object out.
    """
    scored_N = np.isfinite(columns["logit"])
    flags_S = columns["flags"][scored_N]
    seen_S = (flags_S & seen_in_training_bit) != 0
    adapted_S = ((flags_S & adapted_bit) != 0) & ~seen_S
    logit_K = columns["logit"][scored_N][~seen_S & ~adapted_S].astype(np.float64)

    def above(cut: float | None) -> Estimate:
        if cut is None:
            return Estimate(None, n=len(logit_K), reason="there is no threshold")
        return fraction(int(np.sum(logit_K > cut)), len(logit_K), "sky objects")

    return SkyMeasured(
        n_scored=int(scored_N.sum()),
        n_not_scored=int(np.sum(~scored_N)),
        n_seen_in_training=int(seen_S.sum()),
        n_adapted=int(adapted_S.sum()),
        above_operating=above(measured.operating_logit),
        above_points=[above(point.logit) for point in measured.points],
        quantiles=[thresholds.sky_quantile(logit_K, point.fpr_asked) for point in measured.points],
    )
