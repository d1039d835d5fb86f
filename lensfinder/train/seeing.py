"""How wide the PSFs were on which a network was trained; `infer --adapt` widens narrower ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def median_fwhm_arcsec(
    catalogs: Iterable[Mapping[str, npt.NDArray[Any]]], bands: Sequence[str]
) -> dict[str, float]:
    """Median FWHM of the PSF of some stamps, by band.

    Parameters
    ----------
    catalogs : iterable of columns
        ``psf_fwhm_<band>_arcsec`` where known, of all stamps.
    bands : sequence of str

    Returns
    -------
    dict of band to float
        Arcsec, as observed; without the bands of which no stamp tells it.
    """
    found: dict[str, list[npt.NDArray[np.floating]]] = {band: [] for band in bands}
    for columns in catalogs:
        for band, widths in found.items():
            told_N = columns.get(f"psf_fwhm_{band}_arcsec")
            if told_N is not None:
                widths.append(told_N[np.isfinite(told_N)])
    told = {band: np.concatenate(widths) for band, widths in found.items() if widths}
    return {band: float(np.median(widths)) for band, widths in told.items() if len(widths)}
