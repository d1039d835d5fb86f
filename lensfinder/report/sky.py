"""What the unlabelled sky says about thresholds that the mocks set, and what it asks of people."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lensfinder.report import audits, thresholds
from lensfinder.report.estimates import CONFIDENCE, Estimate, fraction
from lensfinder.report.inspection import (
    Area,
    Budget,
    Workload,
    area_of_targets,
    within_budget,
    workload,
)
from lensfinder.report.logits import COUNTED_IN_BINS, NOTHING, Counted, Logits
from lensfinder.report.measure import Columns, Measured

# From this factor on the mocks' rate is not the sky's.
DIFFERS_BY = 2.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """The operating threshold's rate on mocks beside the fraction of the sky above it.

    Attributes
    ----------
    mocks, sky : Estimate
        FPR on mocks (in the sky's proportions of kinds where ``is_weighted``), and the fraction of
        the sky above the threshold.
    is_weighted : bool
        Whether a ``sky_fraction`` was known.
    ratio : float or None
        Sky over mocks; None where either has no value or the mocks' is 0.
    differs : bool
        Whether the two differ by more than `DIFFERS_BY`, and their intervals do not meet.
    """

    mocks: Estimate
    sky: Estimate
    is_weighted: bool
    ratio: float | None
    differs: bool


@dataclass(frozen=True, slots=True)
class NotKept:
    """Objects that ``infer --keep-above`` counted without keeping them.

    Attributes
    ----------
    keep_above : float
        Only objects with a higher logit were kept.
    scored, clean : Counted
        All others with a score; and those of them that may bound a rate.
    n_seen_in_training, n_adapted : int
        Those that may not, each under one cause.
    area : Area
        In which all targets lie, kept or not.
    """

    keep_above: float
    scored: Counted
    clean: Counted
    n_seen_in_training: int
    n_adapted: int
    area: Area


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
    purities : list of Estimate
        Share of lenses among the sky objects above each threshold, at the stated prevalence.
    workloads : list of Workload
        What each threshold asks of people.
    quantiles : list of Estimate
        Logit that a fraction of the sky equal to each asked FPR exceeds.
    comparison : Comparison
        Of mocks and sky at the operating threshold.
    area : Area
        That was searched.
    budget : Budget or None
        For the hours that were given.
    separability : Probe
        How well mock negatives are told from the sky.
    separability_by : str
        By what.
    drifts : list of Drift or None
        Statistics of the inputs; None where only some of the objects were kept.
    not_kept : NotKept or None
        Objects that are known by their number alone.
    n_unlisted : int or None
        How many of those pass the operating threshold, at most; None without one.
    """

    n_scored: int
    n_not_scored: int
    n_seen_in_training: int
    n_adapted: int
    above_operating: Estimate
    above_points: list[Estimate]
    purities: list[Estimate]
    workloads: list[Workload]
    quantiles: list[Estimate]
    comparison: Comparison
    area: Area
    budget: Budget | None
    separability: audits.Probe
    separability_by: str
    drifts: list[audits.Drift] | None
    not_kept: NotKept | None
    n_unlisted: int | None


def measure_sky(
    columns: Columns,
    measured: Measured,
    used: Columns,
    *,
    prevalence: float,
    per_hour: float,
    hours: float | None,
    area_deg2: float | None,
    seed: int,
    seen_in_training_bit: int,
    adapted_bit: int,
    not_kept: NotKept | None = None,
) -> SkyMeasured:
    """Measure the sky against the mocks.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        ``logit`` (NaN where not scored), ``flags``, ``tile``, ``x``, ``y``, ``ra``, ``dec``; stamp
        statistics and embeddings where known.
    measured : Measured
        What the mocks say.
    used : mapping of str to arrays
        The mocks behind it.
    prevalence : float
        Fraction of lenses among targets on the sky, in (0, 1).
    per_hour : float
        Candidates that a person grades in an hour.
    hours : float or None
        Budget of inspection.
    area_deg2 : float or None
        Solid angle; None: from how far the targets reach.
    seed : int
        Of the audits.
    seen_in_training_bit, adapted_bit : int
        Bits of ``flags`` that keep an object out of what bounds the rates.
    not_kept : NotKept, optional
        What is known of objects that have no row in ``columns``.
    """
    scored_N = np.isfinite(columns["logit"])
    flags_S = columns["flags"][scored_N]
    seen_S = (flags_S & seen_in_training_bit) != 0
    adapted_S = ((flags_S & adapted_bit) != 0) & ~seen_S
    kept = np.flatnonzero(scored_N)[~seen_S & ~adapted_S]
    scored = Logits.of(columns["logit"][scored_N], not_kept.scored if not_kept else NOTHING)
    clean = Logits.of(columns["logit"][kept], not_kept.clean if not_kept else NOTHING)
    if area_deg2 is not None:
        area = Area(area_deg2, "as given")
    else:
        area = area_of_targets(columns) if not_kept is None else not_kept.area
    lens_logit_P, negative_logit_M = (
        used["logit"][used["label"] == label].astype(np.float64) for label in (1, 0)
    )
    host_id_N, is_lens_N = used["host_id"], used["label"] == 1
    galaxies = (
        thresholds.galaxies_of(host_id_N[is_lens_N]), thresholds.galaxies_of(host_id_N[~is_lens_N]),
    )  # fmt: skip
    above_operating = _above(clean, measured.operating_logit)
    negatives = {name: values[used["label"] == 0] for name, values in used.items()}
    audited = {name: values[kept] for name, values in columns.items() if name in used}
    drifts = None
    if not_kept is None:
        separability, by = audits.mocks_against_sky(negatives, audited, seed=seed)
        drifts = audits.drifts(negatives, audited)
    else:
        # The best-ranked are no sample of the sky.
        reason = f"of the sky, only objects with a logit above {not_kept.keep_above:g} were kept"
        separability, by = audits.Probe(Estimate(None, reason=reason), 0, 0, []), "nothing"
    operating = measured.operating_logit
    cuts = [point.logit for point in measured.points]
    return SkyMeasured(
        n_scored=len(scored),
        n_not_scored=int(np.sum(~scored_N)),
        n_seen_in_training=int(seen_S.sum()) + (not_kept.n_seen_in_training if not_kept else 0),
        n_adapted=int(adapted_S.sum()) + (not_kept.n_adapted if not_kept else 0),
        above_operating=above_operating,
        above_points=[_above(clean, cut) for cut in cuts],
        purities=[
            _purity(clean, lens_logit_P, point.logit, prevalence, galaxies[0])
            for point in measured.points
        ],
        workloads=[
            workload(None if cut is None else scored.above(cut)[1], area, per_hour)
            for cut in cuts
        ],
        quantiles=[thresholds.sky_quantile(clean, point.fpr_asked) for point in measured.points],
        comparison=compare(
            measured.operating_fpr, above_operating, measured.weighted.rate.value is not None
        ),
        area=area,
        budget=None
        if hours is None
        else within_budget(
            scored, lens_logit_P, negative_logit_M,
            hours=hours, per_hour=per_hour, prevalence=prevalence, galaxies=galaxies,
        ),
        separability=separability,
        separability_by=by,
        drifts=drifts,
        not_kept=not_kept,
        n_unlisted=None
        if operating is None
        else scored.above(operating)[1] - int(np.sum(scored.kept_K > operating)),
    )  # fmt: skip


def compare(mocks: Estimate, sky: Estimate, is_weighted: bool) -> Comparison:
    """Say whether the mocks' false positive rate can be the sky's.

    Parameters
    ----------
    mocks, sky : Estimate
        FPR on mocks, and fraction of the sky above the same threshold.
    is_weighted : bool
        Whether the mocks' kinds stand in the sky's proportions.
    """
    if mocks.value is None or sky.value is None:
        return Comparison(mocks, sky, is_weighted, None, False)
    # Few objects scatter by more than a factor: the counts must exclude a common rate, too.
    ends = (mocks.low, mocks.high, sky.low, sky.high)
    apart = None not in ends and (sky.low > mocks.high or mocks.low > sky.high)  # type: ignore[operator]
    if mocks.value == 0.0:
        return Comparison(mocks, sky, is_weighted, None, apart)
    ratio = sky.value / mocks.value
    differs = apart and not 1 / DIFFERS_BY <= ratio <= DIFFERS_BY
    return Comparison(mocks, sky, is_weighted, ratio, differs)


def _above(sky: Logits, cut: float | None, confidence: float = CONFIDENCE) -> Estimate:
    if cut is None:
        return Estimate(None, n=len(sky), reason="there is no threshold")
    fewest, most = sky.above(cut)
    at_most = fraction(most, len(sky), "sky objects", confidence)
    if fewest == most:
        return at_most
    # An upper bound of the rate is what is asked for.
    at_least = fraction(fewest, len(sky), "sky objects", confidence)
    return replace(at_most, low=at_least.low, reason=COUNTED_IN_BINS)


def _purity(
    sky: Logits,
    lens_logit_P: NDArray[np.float64],
    cut: float | None,
    prevalence: float,
    lens_galaxies: int,
) -> Estimate:
    """Share of lenses among the sky objects above: prevalence x TPR / fraction above, at most 1.

    The sky's own fraction stands for what the mocks' false positive rate only guesses.
    """
    if cut is None:
        return Estimate(None, reason="there is no threshold")
    each = math.sqrt(CONFIDENCE)
    n_found = int(np.sum(lens_logit_P > cut))
    tpr = fraction(
        n_found, len(lens_logit_P), "lenses in the test split", each, independent=lens_galaxies
    )
    above = _above(sky, cut, each)
    return _ratio(tpr, above, prevalence)


def _ratio(tpr: Estimate, above: Estimate, prevalence: float) -> Estimate:
    ends = (tpr.value, tpr.low, tpr.high, above.value, above.low, above.high)
    if None in ends or above.value == 0.0:
        return Estimate(None, reason=tpr.reason or above.reason or "no sky object is above it")
    value, low, high, share, fewest, most = (float(end or 0.0) for end in ends)
    return Estimate(
        min(1.0, prevalence * value / share),
        min(1.0, prevalence * low / most),
        min(1.0, prevalence * high / fewest) if fewest > 0.0 else 1.0,
    )
