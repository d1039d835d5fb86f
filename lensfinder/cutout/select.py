"""Which listed objects become targets: ranges, and colour cuts by name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder.errors import RequestError

Columns = Mapping[str, NDArray[Any]]


def lrg_petrillo2017(columns: Columns) -> NDArray[np.bool_]:
    """Luminous red galaxies as in the KiDS lens searches (Petrillo et al. 2017, section 2).

    ``r < 20``, ``|c_perp| < 0.2`` and ``r < 14 + c_par / 0.3`` with
    ``c_par = 0.7 (g - r) + 1.2 ((r - i) - 0.18)`` and
    ``c_perp = (r - i) - (g - r) / 4 - 0.18``; the numbers are quoted from memory.
    """
    g, r, i = (_column(columns, f"mag_{band}").astype(np.float64) for band in "gri")
    c_par = 0.7 * (g - r) + 1.2 * ((r - i) - 0.18)
    c_perp = (r - i) - (g - r) / 4 - 0.18
    # A magnitude that is not known is no reason to be chosen.
    chosen: NDArray[np.bool_] = (r < 20) & (abs(c_perp) < 0.2) & (r < 14 + c_par / 0.3)
    return chosen


NAMED: Mapping[str, Callable[[Columns], NDArray[np.bool_]]] = {
    "all": lambda columns: np.ones(len(columns["ra"]), dtype=bool),
    "lrg-petrillo2017": lrg_petrillo2017,
}


def within(columns: Columns, ranges: Mapping[str, tuple[float, float]]) -> NDArray[np.bool_]:
    """Tell objects whose values lie in every range, bounds included.

    Parameters
    ----------
    columns : mapping of name to (N,) array
    ranges : mapping
        ``{"mag_r": (17, 21), "mag_g-mag_r": (0.5, 2)}``: a column, or the difference of two.

    Raises
    ------
    RequestError
        If a column is not there.
    """
    chosen = np.ones(len(columns["ra"]), dtype=bool)
    for name, (low, high) in ranges.items():
        first, minus, second = name.partition("-")
        values = _column(columns, first.strip())
        if minus:
            values = values - _column(columns, second.strip())
        chosen &= (values >= low) & (values <= high)
    return chosen


def _column(columns: Columns, name: str) -> NDArray[Any]:
    if name not in columns:
        raise RequestError(
            f"the selection needs {name}, which the targets lack",
            f"one of {sorted(set(columns) - {'id', 'x', 'y'})}",
            f"Name it in the configuration: columns = {{ {name} = '…' }}.",
        )
    return columns[name]


def respelled(columns: Columns, bands: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Name magnitudes and extinctions by the survey's bands, whatever their case.

    A column already spelled like the band wins over one that is not.
    """
    spelled = {band.lower(): band for band in bands}

    def spell(name: str) -> str:
        stem, _, band = name.rpartition("_")
        return f"{stem}_{spelled.get(band.lower(), band)}" if stem in _PER_BAND else name

    exact = {name: values for name, values in columns.items() if spell(name) == name}
    return {spell(name): values for name, values in columns.items()} | exact


def dereddened(
    columns: Columns, bands: Sequence[str], coefficients: Mapping[str, float]
) -> tuple[dict[str, NDArray[Any]], list[str], int]:
    """Correct magnitudes for the dust of the Milky Way.

    Parameters
    ----------
    columns : mapping of name to (N,) array
        ``extinction_<band>`` in mag is taken off ``mag_<band>``; where it is not known, what
        ``ebv`` in mag says; where nothing is known, nothing.
    bands : sequence of str
    coefficients : mapping of band to float
        Extinction for E(B-V) = 1.

    Returns
    -------
    columns : dict
        Without the extinctions.
    corrected : list of str
        Bands that were.
    unknown : int
        Objects with a magnitude in such a band, and nothing known of the dust before them.
    """
    named = dict(columns)
    corrected = []
    unknown_N = np.zeros(len(next(iter(columns.values()), ())), dtype=bool)
    for band in bands:
        said = [named[f"extinction_{band}"]] if f"extinction_{band}" in named else []
        if band in coefficients and "ebv" in named:
            said.append(coefficients[band] * named["ebv"])
        if not said or f"mag_{band}" not in named:
            continue
        extinction = said[0] if len(said) == 1 else np.where(np.isfinite(said[0]), *said)
        unknown_N |= ~np.isfinite(extinction) & np.isfinite(named[f"mag_{band}"])
        taken_off = np.nan_to_num(extinction, nan=0.0)
        named[f"mag_{band}"] = (named[f"mag_{band}"] - taken_off).astype(np.float32)
        corrected.append(band)
    kept = {name: v for name, v in named.items() if not name.startswith("extinction_")}
    return kept, corrected, int(unknown_N.sum())


_PER_BAND = ("mag", "extinction")
