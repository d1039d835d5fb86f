"""Numbers as people read them, and the summary of a report in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


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


def number(value: float) -> str:
    """A number with three significant digits and no power of ten: 0.0606, 12.3, 1,060."""
    digits = np.format_float_positional(value, 3, fractional=False, trim="-")
    return f"{float(digits):,.0f}" if value >= 1000 else digits


def hours(value: float) -> str:
    """A time of work: "20 minutes", "1.5 hours", "3,000 hours"."""
    if value < 1.0:
        return counted(max(1, round(60.0 * value)) if value else 0, "minute")
    shown = f"{value:,.1f}" if value < 10.0 else f"{value:,.0f}"
    shown = shown.removesuffix(".0")
    return f"{shown} hour{'' if shown == '1' else 's'}"


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
    found, sky = _found(content), _on_the_sky(content)
    trust = [
        *_not_simulated(content),
        *_trust(content),
        *_shared_galaxies(content["thresholds"]),
        *_refusals(content["thresholds"]),
        *_suspicions(content["audits"]),
    ]
    # Where the mocks' rate is not the sky's, the sky comes first.
    return [*sky, *found, *trust] if content["leads_with_sky"] else [*found, *sky, *trust]


def _not_simulated(content: Mapping[str, Any]) -> list[str]:
    if content["mocks"]["simulated"]:
        return []
    return ["None of the labelled stamps was simulated: they are meant where this page says mocks."]


def _shared_galaxies(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say where mocks share galaxies, so that they are fewer than they seem."""
    if not points or points[0]["n_galaxies"] >= points[0]["n_negatives"]:
        return []
    return [
        f"The {points[0]['n_negatives']:,} negatives stand on {points[0]['n_galaxies']:,} "
        "galaxies, and mocks of one galaxy pass together: intervals, and the rates that can be "
        "supported, are those of as many negatives as there are galaxies."
    ]


def _found(content: Mapping[str, Any]) -> list[str]:
    listed, operating = content["candidates"], content["operating"]
    if listed is None:
        about = "the mocks" if content["mocks"]["simulated"] else "the labelled stamps"
        return [f"No scores of the sky were given: this report is about {about} alone."]
    scored = counted(content["sky"]["n_scored"], "sky object")
    if _none_as_trained(content):
        return [
            f"All of {scored} were adapted to the model's pixels or PSF (--adapt): no threshold "
            "holds for them, and their scores are a ranking. "
            f"The {len(listed['rows'])} best-ranked are shown."
        ]
    if operating["logit"] is None:
        return [
            f"{scored} were ranked, but there is no threshold to call any of them a candidate: "
            f"{operating['reason']}. The {len(listed['rows'])} best-ranked are shown."
        ]
    rate = percent(operating["fpr_asked"])
    cut = f"logit above {operating['logit']:.3f}, set for a false positive rate of {rate} on mocks"
    left = content["sky"]["not_kept"]
    unlisted = left["n_above_operating"] if left else 0
    if listed["n_above"] == 0 and not unlisted:
        text = (
            f"None of {scored} is a candidate ({cut}). "
            f"The {len(listed['rows'])} best-ranked are shown, all below the threshold."
        )
    else:
        noun = "is a candidate" if listed["n_above"] == 1 else "are candidates"
        text = f"{listed['n_above']:,} of {scored} {noun} ({cut})."
    if content["sky"]["n_adapted"]:
        text += (
            f" {counted(content['sky']['n_adapted'], 'of them was', 'of them were')} adapted to "
            "the model's pixels or PSF (--adapt), for which no threshold holds."
        )
    known = content["known"]
    if known is not None:
        if left:
            # Where most scores were not kept, neither is what lay in the area.
            text += (
                f" Of {counted(known['n'], 'known lens', 'known lenses')} in the list, in the area "
                f"or not, {counted(known['n_above'], 'stands', 'stand')} above the threshold; how "
                "many were scored can't be told."
            )
        else:
            text += (
                f" Of {counted(known['n_covered'], 'known lens', 'known lenses')} in the area, "
                f"{counted(known['n_targets'], 'was', 'were')} scored and "
                f"{counted(known['n_above'], 'stands', 'stand')} above the threshold."
            )
        if known["n_seen"]:
            text += (
                f" {counted(known['n_seen'], 'of them was', 'of them were')} seen in training and "
                "don't count for recall."
            )
    return [text, *_counted_only(left)]


def _counted_only(left: Mapping[str, Any] | None) -> list[str]:
    """Say what it means that not all scores were kept."""
    if left is None:
        return []
    text = (
        f"Only objects with a logit above {left['keep_above']:g} were kept (--keep-above); "
        f"{counted(left['n'], 'other is', 'others are')} counted in a histogram. "
        "What concerns thresholds above that is exact"
    )
    if left["n_above_operating"]:
        text += (
            f"; the operating threshold lies below, so that up to "
            f"{counted(left['n_above_operating'], 'more object')} passed that no table lists. "
            "Score again with a lower --keep-above to list them"
        )
    return [
        f"{text}. Below it, numbers are good to a bin. Drifts and how far the mocks look like the "
        "sky can't be told."
    ]


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
    # What the mocks say of candidates on the sky holds no more where the sky's own rate differs.
    own = point["sky_purity"] if content["leads_with_sky"] else None
    purity = own if own and own["value"] is not None else point["purity"]
    if purity["value"] is not None and not _none_as_trained(content):
        text += (
            f" If {_one_in(prevalence)} is a lens, then {percent(purity['value'])} of such "
            f"candidates are lenses ({interval(purity)})"
            f"{', by the share of the sky above the threshold' if purity is own else ''}."
        )
    return [text]


def _one_in(prevalence: float) -> str:
    """A prevalence as people say it: "one target in 1,000", above a tenth "20 % of the targets"."""
    if prevalence <= 0.1:
        return f"one target in {1 / prevalence:,.0f}"
    return f"a share of {percent(prevalence)} of the targets"


def _none_as_trained(content: Mapping[str, Any]) -> bool:
    """Whether all objects of the sky were adapted to the model."""
    sky = content["sky"]
    return sky is not None and 0 < sky["n_scored"] <= sky["n_adapted"]


def _on_the_sky(content: Mapping[str, Any]) -> list[str]:
    if content["sky"] is None or content["sky"]["above_operating"]["value"] is None:
        return []
    compared = content["sky"]["comparison"]
    above, mocks = compared["sky"], compared["mocks"]
    point = next(row for row in content["thresholds"] if row["operating"])
    weighted = " in the sky's proportions of kinds" if compared["is_weighted"] else ""
    shares = f"{percent(above['value'])} of the objects pass ({interval(above)})"
    if not content["leads_with_sky"]:
        text = (
            "The mocks' false positive rate is that of their mix of negatives, not of the sky. "
            f"On the sky {shares}; since nearly all objects there are no lenses, this bounds the "
            "rate there from above."
        )
    else:
        times = "" if not compared["ratio"] else f", {compared['ratio']:.2g} times as many"
        text = (
            "The mocks do not tell the sky's false positive rate: at the operating threshold "
            f"{shares} on the sky, but {percent(mocks['value'])} of the mock negatives"
            f"{weighted}{times}. "
        )
        own = point["sky_quantile"]
        if own["value"] is not None:
            text += (
                f"To let no more than {percent(point['fpr_asked'])} of the sky pass takes a logit "
                f"above {own['value']:.3f} ({_ends(own)}); lenses included, that bounds the "
                "sky's rate from above."
            )
        else:
            text += f"The sky is too small for a threshold of its own: {own['reason']}."
    return [text + _work(point, content["sky"])]


def _ends(logit: Mapping[str, Any]) -> str:
    """Both ends of an interval of logits, or the lower one where few objects bound no other."""
    if logit["high"] is None:
        return f"at least {logit['low']:.3f}"
    return f"{logit['low']:.3f} to {logit['high']:.3f}"


def _work(point: Mapping[str, Any], sky: Mapping[str, Any]) -> str:
    """What the operating threshold, and the budget if there is one, ask of people."""
    work = point["workload"]
    text = ""
    if work["n_candidates"]:
        text = f" To look at all of them takes {hours(work['hours'])}"
        if work["per_deg2"]["value"] is not None:
            value, low, high = (number(work["per_deg2"][end]) for end in ("value", "low", "high"))
            text += f"; expect {value} a square degree ({low} to {high})"
        text += "."
    budget = sky["budget"]
    if budget is not None:
        what = (
            "all of the sky's objects"
            if budget["logit"] is None
            else f"{counted(budget['n_candidates'], 'object')} with a logit above "
            f"{budget['logit']:.3f}"
        )
        text += f" A budget of {hours(budget['hours'])} pays for {what}"
        if budget["tpr"]["value"] is not None:
            text += (
                f", where {percent(budget['tpr']['value'])} of the mock lenses are recovered "
                f"({interval(budget['tpr'])})"
            )
        text += "."
    return text


def _suspicions(audits: Mapping[str, Any]) -> list[str]:
    texts = []
    if audits["shortcut"]["flagged"]:
        best = audits["shortcut"]["features"][0]
        texts.append(
            "Beware of a shortcut: without looking at any arc, a linear probe on trivial numbers "
            f"of the stamps tells mock lenses from negatives with an AUROC of "
            f"{area(audits['shortcut']['auroc']['value'])}; the most telling is {best[0]}."
        )
    if audits["separability"] and audits["separability"]["flagged"]:
        texts.append(
            "The mocks do not look like the sky: a linear probe on "
            f"{audits['separability']['by']} tells them apart with an AUROC of "
            f"{area(audits['separability']['auroc']['value'])}."
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
