"""The content of ``report.json``: every number that the page states, and the summary in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lensfinder.report.measure import Measured, SkyMeasured

# A page draws no finer ROC than this; the scores themselves stay in the score files.
_MOST_ROC_POINTS = 400


def build(
    *,
    measured: Measured,
    sky: SkyMeasured | None,
    candidates: Mapping[str, Any] | None,
    known: Mapping[str, Any] | None,
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
    candidates : mapping or None
        ``n_above`` and ``rows``, see :func:`lensfinder.report.candidates.rows`.
    known : mapping or None
        ``n``, ``n_targets``, ``n_above`` and ``rows``.
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
    rows = []
    for i, point in enumerate(measured.points):
        rows.append(
            {
                **asdict(point),
                "operating": i == measured.operating,
                "sky_above": sky and asdict(sky.above_points[i]),
                "sky_quantile": sky and asdict(sky.quantiles[i]),
            }
        )
    content = {
        "settings": dict(settings),
        "mocks": {
            "n_lenses": measured.n_lenses,
            "n_negatives": measured.n_negatives,
            "left_out": asdict(measured.left_out),
        },
        "metrics": {
            "auroc": asdict(measured.auroc),
            "tpr0": asdict(measured.tpr0),
            "tpr10": asdict(measured.tpr10),
            "calibration_error": asdict(measured.calibration_error),
        },
        "thresholds": rows,
        "operating": {
            "logit": operating and operating.logit,
            "fpr_asked": operating and operating.fpr_asked,
            "reason": None
            if operating
            else "the negatives support none of the false positive rates asked for",
        },
        "kinds": [asdict(kind) for kind in measured.kinds],
        "completeness": _completeness(measured),
        "roc": _roc(measured),
        "sky": sky
        and {
            "n_scored": sky.n_scored,
            "n_not_scored": sky.n_not_scored,
            "n_seen_in_training": sky.n_seen_in_training,
            "n_adapted": sky.n_adapted,
            "above_operating": asdict(sky.above_operating),
        },
        "known": known,
        "candidates": candidates,
        "provenance": dict(provenance),
    }
    clean: dict[str, Any] = json_ready(content)
    clean["summary"] = in_words(clean)
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


def _completeness(measured: Measured) -> dict[str, Any] | None:
    cells = measured.completeness
    if cells is None:
        return None
    # The open last edge has no JSON number: it is left out, and the cell has no upper end.
    return {
        "theta_e_from_arcsec": cells.theta_e_edges_arcsec[:-1],
        "source_snr_from": cells.source_snr_edges[:-1],
        "n_simulated": cells.n_simulated_ST,
        "n_recovered": cells.n_recovered_ST,
        "n_without_truth": cells.n_without_truth,
    }


def _roc(measured: Measured) -> dict[str, Any]:
    curve = measured.roc
    n = len(curve.fpr_M)
    kept = np.unique(np.linspace(0, n - 1, min(n, _MOST_ROC_POINTS)).round().astype(int))
    return {"fpr": curve.fpr_M[kept], "tpr": curve.tpr_M[kept], "reason": curve.reason}


# -- numbers as people read them --------------------------------------------------------------


def percent(value: float | None) -> str:
    """A fraction as per cent with two significant digits, never rounded to 0 or 100 %."""
    if value is None:
        return "–"
    per_cent = 100.0 * value
    if per_cent in (0.0, 100.0):
        return f"{per_cent:.0f}\u00a0%"
    if per_cent >= 10.0:
        # Near 100 % the digits that count are those of what is missing.
        missing = math.floor(math.log10(100.0 - per_cent))
        return f"{per_cent:.{0 if missing > 0 else max(1, -missing)}f}\u00a0%"
    return np.format_float_positional(per_cent, 2, fractional=False, trim="-") + "\u00a0%"


def power(value: float) -> str:
    """A rate above 0 in powers of ten: 10⁻⁴, 3.7 × 10⁻⁴."""
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    if mantissa == "1.0":
        return f"10{raised}"
    return f"{float(mantissa):g} × 10{raised}"


def area(value: float) -> str:
    """An AUROC with four digits, never rounded to 1."""
    return ">\u00a00.9999" if 0.99995 <= value < 1.0 else f"{value:.4f}"


def interval(estimate: Mapping[str, Any]) -> str:
    """Both ends as per cent: "0.4 % to 1.9 %"; empty where there is no interval."""
    if estimate["low"] is None or estimate["high"] is None:
        return ""
    return f"{percent(estimate['low'])} to {percent(estimate['high'])}"


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 lens", "2,000 lenses"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


# -- the summary ------------------------------------------------------------------------------


def in_words(content: Mapping[str, Any]) -> list[str]:
    """What was found, in sentences, from the numbers of the report alone.

    Parameters
    ----------
    content : mapping
        What :func:`build` made, apart from ``summary``.

    Returns
    -------
    list of str
        One paragraph each.
    """
    return [*_found(content), *_trust(content), *_refusals(content["thresholds"])]


def _found(content: Mapping[str, Any]) -> list[str]:
    listed, operating = content["candidates"], content["operating"]
    if listed is None:
        return ["No scores of the sky were given: this report is about the mocks alone."]
    scored = counted(content["sky"]["n_scored"], "sky object")
    if operating["logit"] is None:
        return [
            f"{scored} were ranked, but there is no threshold to call any of them a candidate: "
            f"{operating['reason']}. The {len(listed['rows'])} best-ranked are shown."
        ]
    rate = percent(operating["fpr_asked"])
    cut = f"logit above {operating['logit']:.3f}, set for a false positive rate of {rate} on mocks"
    if listed["n_above"] == 0:
        text = (
            f"None of {scored} is a candidate ({cut}). "
            f"The {len(listed['rows'])} best-ranked are shown, all below the threshold."
        )
    else:
        noun = "is a candidate" if listed["n_above"] == 1 else "are candidates"
        text = f"{listed['n_above']:,} of {scored} {noun} ({cut})."
    known = content["known"]
    if known is not None:
        text += (
            f" Of {counted(known['n'], 'known lens', 'known lenses')}, "
            f"{counted(known['n_targets'], 'was', 'were')} scored and "
            f"{counted(known['n_above'], 'stands', 'stand')} above the threshold."
        )
    return [text]


def _trust(content: Mapping[str, Any]) -> list[str]:
    mocks, prevalence = content["mocks"], content["settings"]["prevalence"]
    tested = (
        f"{counted(mocks['n_lenses'], 'mock lens', 'mock lenses')} and "
        f"{counted(mocks['n_negatives'], 'mock negative')} that the network was not trained on"
    )
    auroc = content["metrics"]["auroc"]
    point = next((row for row in content["thresholds"] if row["operating"]), None)
    if auroc["value"] is None:
        return [f"The network was tested on {tested}; {auroc['reason']}."]
    text = f"Tested on {tested}, the AUROC is {area(auroc['value'])}."
    if point is None:
        return [text]
    if point["tpr"]["value"] is not None:
        text += (
            " At the operating threshold the network recovers "
            f"{percent(point['tpr']['value'])} of the mock lenses "
            f"(95 % interval: {interval(point['tpr'])}), and the false positive rate on mocks is "
            f"between {percent(point['fpr']['low'])} and {percent(point['fpr']['high'])}."
        )
    if point["purity"]["value"] is not None:
        text += (
            f" If one target in {1 / prevalence:,.0f} is a lens, then "
            f"{percent(point['purity']['value'])} of such candidates are lenses "
            f"({interval(point['purity'])})."
        )
    texts = [text]
    if content["sky"] is not None and content["sky"]["above_operating"]["value"] is not None:
        above = content["sky"]["above_operating"]
        texts.append(
            "The mocks' false positive rate is that of their mix of negatives, not of the sky. "
            f"On the sky {percent(above['value'])} of the objects are above the threshold "
            f"({interval(above)}); since nearly all of them are no lenses, this bounds the rate "
            "there from above."
        )
    return texts


def _refusals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    refused = [row for row in rows if row["reason"] is not None]
    if not refused:
        return []
    parts = [
        f"{percent(row['fpr_asked'])} (takes {row['n_negatives_needed']:,})" for row in refused
    ]
    return [
        f"With {counted(refused[0]['n_negatives'], 'negative')} in the test split, no threshold "
        f"is quoted for a false positive rate of {', '.join(parts)}."
    ]
