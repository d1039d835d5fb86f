"""Which figures a report has, with their captions and the text for who does not see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from lensfinder.report import figures, metrics
from lensfinder.report.measure import Measured
from lensfinder.report.page import Illustration
from lensfinder.report.words import area, percent

# Before the kind's name among the histograms.
KIND = "kind: "
# Lines of more kinds than this could not be told apart.
_MOST_KINDS = 8


def illustrations(
    measured: Measured, content: Mapping[str, Any], histograms: Mapping[str, Any]
) -> list[Illustration]:
    """Draw what there is something to draw of.

    Parameters
    ----------
    measured : Measured
        About the mocks.
    content : mapping
        Of ``report.json``, for the numbers in captions.
    histograms : mapping
        Of :func:`lensfinder.report.metrics.histograms`; may be empty.

    Returns
    -------
    list of Illustration
        ROC, precision, reliability, histogram and completeness, as far as there are objects.
    """
    drawn: list[Illustration] = []
    if measured.roc.reason is None:
        drawn += _rankings(measured, content["settings"]["prevalence"])
    if len(measured.reliability.n_B) and measured.calibration_error.value is not None:
        error = percent(measured.calibration_error.value)
        drawn.append(
            _both(
                "reliability",
                "Are scores probabilities?",
                f"Share of lenses among mocks of like score; the mean distance from the diagonal "
                f"(ECE) is {error}. Scores are calibrated at the training set’s share of lenses; "
                "the candidates’ probabilities are for the sky’s.",
                f"Reliability diagram of {len(measured.reliability.n_B)} bins; calibration error "
                f"{error}",
                lambda palette: figures.reliability_figure(measured.reliability, palette),
            )
        )
    if histograms:
        drawn.append(_scores(measured, histograms))
        drawn += _kinds(measured, histograms)
    drawn += _completeness(measured)
    return drawn


def _rankings(measured: Measured, prevalence: float) -> Iterator[Illustration]:
    point = None if measured.operating is None else measured.points[measured.operating]
    at = None
    if point is not None and point.fpr.value is not None and point.tpr.value is not None:
        at = (point.fpr.value, point.tpr.value)
    hardest = sorted(measured.kinds, key=lambda kind: kind.auroc.value or 0.0)[:_MOST_KINDS]
    kinds = {kind.kind: kind.roc for kind in hardest}
    if len(kinds) < 2:
        kinds = {}
    left_out = len(measured.kinds) - len(kinds)
    some = f" (the {len(kinds)} hardest of {len(measured.kinds)})" if kinds and left_out else ""
    yield _both(
        "roc",
        "Completeness against false positives",
        "ROC of the mocks’ test split, with a bootstrap band that redraws whole hosts, and of all "
        f"lenses against each kind of negative{some}. In the shaded region fewer than three "
        "negatives would pass: nothing there is bounded.",
        f"ROC curve with a logarithmic false positive axis; AUROC {area(measured.auroc.value or 0)}"
        + (
            ""
            if at is None
            else f"; operating point: {percent(at[1])} of lenses at a false positive rate of "
            f"{percent(at[0])}"
        ),
        lambda palette: figures.roc_figure(
            measured.roc, measured.n_negatives, at, palette, measured.band, kinds
        ),
    )
    mix = measured.n_lenses / (measured.n_lenses + measured.n_negatives)
    recall_M, tested_M = metrics.precision(measured.roc, mix)
    _, rare_M = metrics.precision(measured.roc, prevalence)
    by_kind = {kind: metrics.precision(curve, prevalence) for kind, curve in kinds.items()}
    best = area(measured.average_precision.value or 0.0)
    yield _both(
        "precision",
        "Precision against recall",
        f"Average precision at the test split’s mix of classes: {best}. At the sky’s prevalence "
        "the same ranking is far less pure; thin lines are for each kind as the only negatives"
        f"{some}.",
        f"Precision over recall at two prevalences; average precision {best} in the test split",
        lambda palette: figures.precision_figure(
            recall_M, tested_M, rare_M, prevalence, palette, by_kind
        ),
    )


def _scores(measured: Measured, histograms: Mapping[str, Any]) -> Illustration:
    edges, counts = histograms["edges"], histograms["counts"]
    wide = {name: counts[name] for name in ("lenses", "negatives", "sky") if name in counts}
    peaks = ", ".join(
        f"{name} near {edges[int(np.argmax(values))]:.1f}" for name, values in wide.items()
    )
    return _both(
        "scores",
        "Scores of lenses, negatives and sky",
        "Each distribution has unit area. Where the sky reaches further to the right than "
        "the mock negatives, the sky holds lenses or impostors that the mocks lack.",
        f"Histograms of the logit; most frequent: {peaks}",
        lambda palette: figures.histogram_figure(edges, wide, measured.operating_logit, palette),
    )


def _kinds(measured: Measured, histograms: Mapping[str, Any]) -> Iterator[Illustration]:
    counts = {
        name.removeprefix(KIND): values
        for name, values in histograms["counts"].items()
        if name.startswith(KIND)
    }
    if not counts:
        return
    strips = {"lens": histograms["counts"]["lenses"]} if "lenses" in histograms["counts"] else {}
    strips |= counts
    yield _both(
        "kinds",
        "Which negatives look like lenses",
        "Where the scores of each kind of negative lie, and those of the lenses at the bottom. A "
        "kind that reaches beyond the threshold is what candidates will be mistaken for.",
        "Strips of the logit by kind; beyond the threshold: "
        + ", ".join(f"{kind.kind} {percent(kind.rate.value)}" for kind in measured.kinds),
        lambda palette: figures.kinds_figure(
            histograms["edges"], strips, measured.operating_logit, palette
        ),
    )


def _completeness(measured: Measured) -> Iterator[Illustration]:
    for cells in measured.completeness.maps:
        n, k = int(cells.n_simulated_ST.sum()), int(cells.n_recovered_ST.sum())
        if n == 0:
            continue
        by_snr = cells.against == "source_snr"
        what = "source S/N" if by_snr else "source magnitude"
        yield _both(
            "completeness" if by_snr else "completeness-magnitude",
            f"Which lenses are recovered, by {what}",
            "Mock lenses above the threshold for a false positive rate of 1 %, of all that were "
            "simulated in each cell, after Lanusse et al. (2018), figure 7. Targets make up "
            f"{percent(measured.completeness.selected.value)} of the simulated lenses.",
            f"Grid of Einstein radius and {what} with counts; {k} of {n} lenses recovered",
            partial(figures.completeness_figure, cells),
        )


def _both(
    name: str, title: str, caption: str, alt: str, draw: Callable[[figures.Palette], bytes]
) -> Illustration:
    return Illustration(name, title, caption, alt, draw(figures.LIGHT), draw(figures.DARK))
