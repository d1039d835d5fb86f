"""How wide the PSFs were on which a network was trained; `infer --adapt` widens narrower ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensfinder import shards
from lensfinder.train.data import StampSet
from lensfinder.train.order import Index


def median_fwhm_arcsec(stamps: StampSet, index_N: Index) -> dict[str, float]:
    """Median FWHM of the PSF of some stamps, by band.

    Parameters
    ----------
    stamps : StampSet
    index_N : (N,) int
        Which of them.

    Returns
    -------
    dict of band to float
        Arcsec, as observed; without the bands of which no shard tells it.
    """
    found: dict[str, list[npt.NDArray[np.floating]]] = {band: [] for band in stamps.bands}
    for number, path in enumerate(stamps.paths):
        first, end = stamps.start_S[number], stamps.start_S[number + 1]
        own_N = index_N[(index_N >= first) & (index_N < end)] - first
        with shards.read(path) as shard:
            for band, widths in found.items():
                told_N = shard.catalog.get(f"psf_fwhm_{band}_arcsec")
                if told_N is not None:
                    widths.append(told_N[own_N][np.isfinite(told_N[own_N])])
    told = {band: np.concatenate(widths) for band, widths in found.items() if widths}
    return {band: float(np.median(widths)) for band, widths in told.items() if len(widths)}
