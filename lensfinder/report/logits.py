"""Logits of the sky: each one, or only the highest with the others counted in bins. Pure.

A very large run keeps the objects above a cut alone (``infer --keep-above``) and a histogram of
all. Whatever lies above the cut is then as exact as ever; below it, a number is known to a bin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNTED_IN_BINS = "known to a bin of the histogram: it lies below what was kept"


@dataclass(frozen=True)
class Counted:
    """Objects that were not kept, counted in bins of their logit.

    Attributes
    ----------
    low_B, high_B : (B,) float64
        Ends of the bins, the highest bin first.
    count_B : (B,) int64
    """

    low_B: NDArray[np.float64]
    high_B: NDArray[np.float64]
    count_B: NDArray[np.int64]

    @classmethod
    def of(cls, histogram: Mapping[str, Any], counts: NDArray[np.int64], cut: float) -> Counted:
        """Take counts in the bins of a histogram of ``infer``, none above `cut`."""
        bins = np.flatnonzero(counts)[::-1]
        low_B = (histogram["first"] + bins) * histogram["width"]
        high_B = np.minimum((histogram["first"] + bins + 1) * histogram["width"], cut)
        return cls(low_B, high_B, counts[bins])


NOTHING = Counted(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Logits:
    """Logits, the highest first.

    Attributes
    ----------
    kept_K : (K,) float64
        Those that are known one by one.
    counted : Counted
        All others, which are lower.
    """

    kept_K: NDArray[np.float64]
    counted: Counted = NOTHING

    @classmethod
    def of(cls, logit_K: NDArray[np.floating], counted: Counted = NOTHING) -> Logits:
        """Sort finite logits of shape (K,)."""
        return cls(np.sort(logit_K.astype(np.float64))[::-1], counted)

    def __len__(self) -> int:
        return len(self.kept_K) + int(self.counted.count_B.sum())

    def above(self, cut: float) -> tuple[int, int]:
        """Fewest and most objects that can lie strictly above `cut`; equal where that is known."""
        kept = len(self.kept_K) - int(np.searchsorted(self.kept_K[::-1], cut, side="right"))
        counted = self.counted
        # A logit on the very end between two bins counts as above it.
        fewest = kept + int(counted.count_B[counted.low_B >= cut].sum())
        most = kept + int(counted.count_B[counted.high_B > cut].sum())
        return fewest, most

    def highest(self, k: int) -> tuple[float, float]:
        """Ends between which the (k+1)-th highest logit lies; equal where it is known."""
        if k < len(self.kept_K):
            return float(self.kept_K[k]), float(self.kept_K[k])
        passed = len(self.kept_K) + np.cumsum(self.counted.count_B)
        b = int(np.searchsorted(passed, k, side="right"))
        return float(self.counted.low_B[b]), float(self.counted.high_B[b])
