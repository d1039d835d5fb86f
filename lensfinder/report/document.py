"""The content of ``report.json``: every number that the page states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder.report import audits, metrics, words
from lensfinder.report.completeness import CompletenessMap
from lensfinder.report.kinds import KIND_FPR
from lensfinder.report.measure import Measured
from lensfinder.report.sky import DIFFERS_BY, SkyMeasured

# A page draws no finer curve than this; the scores themselves stay in the score files.
_MOST_CURVE_POINTS = 400
_MOST_KIND_POINTS = 120


def build(
    *,
    measured: Measured,
    sky: SkyMeasured | None,
    leakage: Mapping[str, Any],
    histograms: Mapping[str, Any],
    candidates: Mapping[str, Any] | None,
    known: Mapping[str, Any] | None,
    simulated: bool,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Put everything that was measured in one JSON-ready mapping.

    Parameters
    ----------
    measured : Measured
        About the labelled mocks.
    sky : SkyMeasured or None
        About the unlabelled sky.
    leakage : mapping
        What was compared between the splits.
    histograms : mapping
        Of the logits, see :func:`lensfinder.report.metrics.histograms`.
    candidates : mapping or None
        ``n_above`` and ``rows``, see :func:`lensfinder.report.candidates.rows`.
    known : mapping or None
        See :func:`lensfinder.report.known.cross_match`.
    simulated : bool
        Whether the labelled objects are mocks, rather than stamps that people have graded.
    settings : mapping
        ``model_id``, ``prevalence`` and what else the page repeats.
    provenance : mapping
        Command, versions, inputs.

    Returns
    -------
    dict
        Of numbers, text, lists and dicts; what is not finite is None.
    """
    operating = None if measured.operating is None else measured.points[measured.operating]
    content = {
        "settings": dict(settings),
        "mocks": {
            "n_lenses": measured.n_lenses,
            "n_negatives": measured.n_negatives,
            "simulated": simulated,
            "left_out": asdict(measured.left_out),
        },
        "metrics": {
            name: asdict(getattr(measured, name))
            for name in ("auroc", "average_precision", "tpr0", "tpr10", "calibration_error")
        },
        "thresholds": _thresholds(measured, sky),
        "operating": {
            "logit": operating and operating.logit,
            "fpr_asked": operating and operating.fpr_asked,
            "reason": None
            if operating
            else "the negatives support none of the false positive rates asked for",
        },
        "leads_with_sky": sky is not None and sky.comparison.differs,
        "kind_fpr": KIND_FPR,
        "kinds": [_without(kind, "roc") for kind in measured.kinds],
        "weighted": asdict(measured.weighted),
        "completeness": {
            "point": asdict(measured.completeness.point),
            "selected": asdict(measured.completeness.selected),
            "total": asdict(measured.completeness.total),
            "maps": [_cells(cells) for cells in measured.completeness.maps],
        },
        "roc": _roc(measured),
        "precision_recall": _precision(measured, settings["prevalence"]),
        "reliability": asdict(measured.reliability),
        "histograms": histograms,
        "audits": _audits(measured, sky, leakage),
        "sky": sky and _sky(sky),
        "known": known,
        "candidates": candidates,
        "provenance": dict(provenance),
    }
    clean: dict[str, Any] = json_ready(content)
    clean["summary"] = words.in_words(clean)
    return clean


def json_ready(value: Any) -> Any:
    """Copy with numpy types as Python's, and None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return json_ready(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _without(item: Any, name: str) -> dict[str, Any]:
    return {key: value for key, value in asdict(item).items() if key != name}


def _thresholds(measured: Measured, sky: SkyMeasured | None) -> list[dict[str, Any]]:
    return [
        {
            **asdict(point),
            "operating": i == measured.operating,
            "sky_above": sky and asdict(sky.above_points[i]),
            "sky_purity": sky and asdict(sky.purities[i]),
            "sky_quantile": sky and asdict(sky.quantiles[i]),
            "workload": sky and asdict(sky.workloads[i]),
        }
        for i, point in enumerate(measured.points)
    ]


def _sky(sky: SkyMeasured) -> dict[str, Any]:
    return {
        "n_scored": sky.n_scored,
        "n_not_scored": sky.n_not_scored,
        "n_seen_in_training": sky.n_seen_in_training,
        "n_adapted": sky.n_adapted,
        "above_operating": asdict(sky.above_operating),
        "comparison": {**asdict(sky.comparison), "differs_by": DIFFERS_BY},
        "area": asdict(sky.area),
        "budget": sky.budget and asdict(sky.budget),
        "not_kept": sky.not_kept
        and {
            "keep_above": sky.not_kept.keep_above,
            "n": int(sky.not_kept.scored.count_B.sum()),
            "n_above_operating": sky.n_unlisted,
        },
    }


def _audits(
    measured: Measured, sky: SkyMeasured | None, leakage: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "leakage": dict(leakage),
        "limit": audits.SHORTCUT_AUROC,
        "shortcut": {
            **asdict(measured.shortcut),
            "flagged": audits.is_shortcut(measured.shortcut),
        },
        "separability": sky
        and {
            **asdict(sky.separability),
            "by": sky.separability_by,
            "flagged": audits.is_shortcut(sky.separability),
        },
        "drift_distance": audits.DRIFT_DISTANCE,
        "drifts": None
        if sky is None or sky.drifts is None
        else [asdict(drift) for drift in sky.drifts],
    }


def _cells(cells: CompletenessMap) -> dict[str, Any]:
    # Open ends have no JSON number: the last edge is left out, and a first one of -inf is None.
    return {
        "against": cells.against,
        "theta_e_from_arcsec": cells.theta_e_edges_arcsec[:-1],
        "from": cells.edges[:-1],
        "n_simulated": cells.n_simulated_ST,
        "n_selected": cells.n_selected_ST,
        "n_recovered": cells.n_recovered_ST,
        "n_without_truth": cells.n_without_truth,
    }


def _spread(n: int, most: int) -> NDArray[np.intp]:
    """Indices of no more than ``most`` of n points, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.intp))


def _roc(measured: Measured) -> dict[str, Any]:
    curve = measured.roc
    kept = _spread(len(curve.fpr_M), _MOST_CURVE_POINTS)
    band = None
    if measured.band is not None:
        low_G, high_G = measured.band.band(0.95)
        band = {"fpr": measured.band.fpr_G, "low": low_G, "high": high_G,
                "draws": len(measured.band.auroc_D)}  # fmt: skip
    kinds = {}
    for kind in measured.kinds:
        chosen = _spread(len(kind.roc.fpr_M), _MOST_KIND_POINTS)
        kinds[kind.kind] = {"fpr": kind.roc.fpr_M[chosen], "tpr": kind.roc.tpr_M[chosen]}
    return {
        "fpr": curve.fpr_M[kept],
        "tpr": curve.tpr_M[kept],
        "reason": curve.reason,
        "band": band,
        "kinds": kinds,
    }


def _precision(measured: Measured, prevalence: float) -> dict[str, Any]:
    curve = measured.roc
    if curve.reason is not None:
        return {"reason": curve.reason, "recall": [], "tested": [], "at_prevalence": []}
    mix = measured.n_lenses / (measured.n_lenses + measured.n_negatives)
    recall_M, tested_M = metrics.precision(curve, mix)
    _, at_prevalence_M = metrics.precision(curve, prevalence)
    kept = _spread(len(recall_M), _MOST_CURVE_POINTS)
    return {
        "reason": None,
        "lenses_per_object": mix,
        "recall": recall_M[kept],
        "tested": tested_M[kept],
        "at_prevalence": at_prevalence_M[kept],
    }
