"""Which figures a report has, with their captions and the text for who does not see them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lensfinder.report import figures
from lensfinder.report.document import area, percent
from lensfinder.report.measure import Columns, Measured
from lensfinder.report.page import Illustration


def illustrations(
    measured: Measured, used: Columns, sky_logit_N: NDArray[np.floating] | None
) -> list[Illustration]:
    """Draw what there is something to draw of.

    Parameters
    ----------
    measured : Measured
        About the mocks.
    used : mapping of str to arrays
        The test objects behind it, with ``logit`` and ``label``.
    sky_logit_N : float array, shape (N,), or None
        Logits of the sky; what is not finite is left out.

    Returns
    -------
    list of Illustration
        ROC, histogram and completeness, as far as there are objects for each.
    """
    cut = measured.operating_logit
    point = None if measured.operating is None else measured.points[measured.operating]
    drawn = []
    if measured.roc.reason is None:
        at = None
        if point is not None and point.fpr.value is not None and point.tpr.value is not None:
            at = (point.fpr.value, point.tpr.value)
        drawn.append(
            _both(
                "roc",
                "Completeness against false positives",
                "ROC of the mocks’ test split. In the shaded region fewer than three negatives "
                "would pass: nothing there is bounded.",
                "ROC curve with a logarithmic false positive axis; "
                f"AUROC {area(measured.auroc.value or 0.0)}"
                + ("" if at is None else f"; operating point: {percent(at[1])} of lenses at a "
                   f"false positive rate of {percent(at[0])}"),
                lambda palette: figures.roc_figure(measured.roc, measured.n_negatives, at, palette),
            )
        )  # fmt: skip
    sky = np.empty(0) if sky_logit_N is None else sky_logit_N[np.isfinite(sky_logit_N)]
    logits = {
        "lenses": used["logit"][used["label"] == 1],
        "negatives": used["logit"][used["label"] == 0],
        "sky": sky,
    }
    if any(len(values) for values in logits.values()):
        medians = ", ".join(
            f"{name} {np.median(values):.1f}" for name, values in logits.items() if len(values)
        )
        drawn.append(
            _both(
                "scores",
                "Scores of lenses, negatives and sky",
                "Each distribution has unit area. Where the sky reaches further to the right than "
                "the mock negatives, the sky holds lenses or impostors that the mocks lack.",
                f"Histograms of the logit; medians: {medians}",
                lambda palette: figures.histogram_figure(logits, cut, palette),
            )
        )
    cells = measured.completeness
    if cells is not None and cells.n_simulated_ST.sum():
        n, k = int(cells.n_simulated_ST.sum()), int(cells.n_recovered_ST.sum())
        drawn.append(
            _both(
                "completeness",
                "Which lenses are recovered",
                "Mock lenses above the operating threshold, of all in each cell, after Lanusse et "
                "al. (2018), figure 7.",
                f"Grid of Einstein radius and source S/N with counts; {k} of {n} lenses recovered",
                lambda palette: figures.completeness_figure(cells, palette),
            )
        )
    return drawn


def _both(
    name: str, title: str, caption: str, alt: str, draw: Callable[[figures.Palette], bytes]
) -> Illustration:
    return Illustration(name, title, caption, alt, draw(figures.LIGHT), draw(figures.DARK))
