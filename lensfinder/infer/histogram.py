"""Counts of logits in narrow bins, which a run of any length can afford to keep. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BIN_WIDTH = 0.05
# Logits beyond are counted in the last bin of their side.
LIMIT = 60.0


def histogram(logit_N: NDArray[np.floating], clean_N: NDArray[np.bool_]) -> dict[str, Any]:
    """Count logits in bins of `BIN_WIDTH`.

    Parameters
    ----------
    logit_N : (N,) float
        NaN where there is no score; not counted.
    clean_N : (N,) bool
        Objects that may bound a rate: neither seen in training nor adapted.

    Returns
    -------
    dict
        ``width``; ``first``, the number of the first bin (bin k holds k·width up to (k+1)·width);
        ``scored`` and ``clean``, counts from there on.
    """
    scored_N = np.isfinite(logit_N)
    logit = np.clip(logit_N[scored_N].astype(np.float64), -LIMIT, LIMIT - BIN_WIDTH / 2)
    bin_N = np.floor(logit / BIN_WIDTH).astype(np.int64)
    first = int(bin_N.min(initial=0))
    counts = [np.bincount(bins - first) for bins in (bin_N, bin_N[clean_N[scored_N]])]
    length = max(len(count) for count in counts)
    scored, clean = (np.pad(count, (0, length - len(count))).tolist() for count in counts)
    return {"width": BIN_WIDTH, "first": first, "scored": scored, "clean": clean}


def add(histograms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add histograms up."""
    first = min((h["first"] for h in histograms), default=0)
    end = max((h["first"] + len(h["scored"]) for h in histograms), default=0)
    total = {name: np.zeros(end - first, np.int64) for name in ("scored", "clean")}
    for one in histograms:
        start = one["first"] - first
        for name, counts in total.items():
            counts[start : start + len(one[name])] += np.asarray(one[name], np.int64)
    return {
        "width": BIN_WIDTH,
        "first": first,
        **{name: counts.tolist() for name, counts in total.items()},
    }
