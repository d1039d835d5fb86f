"""Completeness over Einstein radius and source S/N or magnitude (Lanusse et al. 2018, fig. 7).

A lens is found if it is a target and if it is then recovered: the two factors are kept apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder.report.estimates import Estimate, fraction
from lensfinder.report.thresholds import ThresholdPoint, galaxies_of

# The rate at which DeepLens's figure 7 shows what is recovered.
FPR = 1e-2
THETA_E_EDGES_ARCSEC = np.array([0.0, 0.6, 1.0, 1.4, 1.8, 2.4, 3.2, np.inf])
SOURCE_SNR_EDGES = np.array([0.0, 10.0, 20.0, 40.0, 80.0, 160.0, np.inf])
SOURCE_MAG_EDGES = np.array([-np.inf, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0, np.inf])
_SOURCE_MAGNITUDE = re.compile(r"(?:mag_source|source_mag)_[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class CompletenessMap:
    """Simulated, selected and recovered lenses in cells of Einstein radius and another truth.

    Attributes
    ----------
    against : str
        Column of that truth: ``source_snr``, or ``mag_source_<band>``.
    theta_e_edges_arcsec : float array, shape (T + 1,)
        Edges in arcsec; the last may be +inf.
    edges : float array, shape (S + 1,)
        Edges of the other truth.
    n_simulated_ST, n_selected_ST, n_recovered_ST : int arrays, shape (S, T)
        Lenses in each cell, those of them that were targets, and those of these that are above
        the threshold.
    n_without_truth : int
        Lenses left out for lack of a finite truth.
    """

    against: str
    theta_e_edges_arcsec: NDArray[np.float64]
    edges: NDArray[np.float64]
    n_simulated_ST: NDArray[np.int64]
    n_selected_ST: NDArray[np.int64]
    n_recovered_ST: NDArray[np.int64]
    n_without_truth: int


def completeness_map(
    theta_e_arcsec_N: NDArray[np.floating],
    truth_N: NDArray[np.floating],
    is_selected_N: NDArray[np.bool_],
    is_recovered_N: NDArray[np.bool_],
    against: str = "source_snr",
    edges: NDArray[np.float64] = SOURCE_SNR_EDGES,
    theta_e_edges_arcsec: NDArray[np.float64] = THETA_E_EDGES_ARCSEC,
) -> CompletenessMap:
    """Count lenses in each cell; every lens with a truth falls in one.

    Parameters
    ----------
    theta_e_arcsec_N, truth_N : float arrays, shape (N,)
        Truth of each lens; NaN where it is not known.
    is_selected_N : bool array, shape (N,)
        True where the lens became a target.
    is_recovered_N : bool array, shape (N,)
        True where a target is above the threshold.
    against : str
        Column that ``truth_N`` comes from.
    edges, theta_e_edges_arcsec : float arrays
        Rising edges that hold every finite truth; a value on an edge belongs to the cell above it.

    Returns
    -------
    CompletenessMap
    """
    known_N = np.isfinite(theta_e_arcsec_N) & np.isfinite(truth_N)
    n_theta, n_rows = len(theta_e_edges_arcsec) - 1, len(edges) - 1
    column_K = np.searchsorted(theta_e_edges_arcsec, theta_e_arcsec_N[known_N], side="right") - 1
    row_K = np.searchsorted(edges, truth_N[known_N], side="right") - 1
    cell_K = row_K * n_theta + column_K

    def count(chosen_K: NDArray[np.bool_]) -> NDArray[np.int64]:
        n_cells = n_rows * n_theta
        return np.bincount(cell_K[chosen_K], minlength=n_cells).reshape(n_rows, n_theta)

    selected_K = is_selected_N[known_N]
    return CompletenessMap(
        against,
        theta_e_edges_arcsec,
        edges,
        count(np.ones(len(cell_K), dtype=bool)),
        count(selected_K),
        count(selected_K & is_recovered_N[known_N]),
        int(np.sum(~known_N)),
    )


@dataclass(frozen=True, slots=True)
class Selected:
    """Mock lenses of the test split and how many of them became targets.

    Attributes
    ----------
    is_lens_N : bool array, shape (N,)
        All of them, scored or not.
    is_selected_N : bool array, shape (N,)
        Those that were scored, and kept by the target selection where a column ``selected`` says.
    fraction : Estimate
        Share of the first that are of the second.
    """

    is_lens_N: NDArray[np.bool_]
    is_selected_N: NDArray[np.bool_]
    fraction: Estimate


@dataclass(frozen=True, slots=True)
class Completeness:
    """Which mock lenses pass the threshold at `FPR`.

    Attributes
    ----------
    point : ThresholdPoint
        That threshold; refused where the negatives do not support it.
    selected : Estimate
        Share of the mock lenses that were targets: a factor of its own.
    total : Estimate
        Share of all mock lenses that were targets and pass.
    maps : list of CompletenessMap
        Against source S/N and source magnitude, as far as the truth is known.
    """

    point: ThresholdPoint
    selected: Estimate
    total: Estimate
    maps: list[CompletenessMap]


def select_lenses(
    columns: Mapping[str, NDArray[Any]], seen_in_training_bit: int, adapted_bit: int
) -> Selected:
    """Mark all mock lenses of the test split, and those that became targets.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        ``logit`` (NaN where not scored), ``label``, ``split``, ``flags``; ``selected`` (bool) where
        the mocks were put through the cuts of the targets.
    seen_in_training_bit, adapted_bit : int
        Bits of ``flags`` that keep an object out.
    """
    is_lens_N = (columns["split"] == "test") & (columns["label"] == 1)
    is_lens_N &= (columns["flags"] & (seen_in_training_bit | adapted_bit)) == 0
    is_selected_N = is_lens_N & np.isfinite(columns["logit"])
    if "selected" in columns:
        is_selected_N &= columns["selected"].astype(bool)
    share = fraction(int(is_selected_N.sum()), int(is_lens_N.sum()), "lenses in the test split")
    return Selected(is_lens_N, is_selected_N, share)


def measure(
    columns: Mapping[str, NDArray[Any]], selected: Selected, point: ThresholdPoint
) -> Completeness:
    """Count simulated, selected and recovered lenses over their truth.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        ``logit``; ``host_id``, ``theta_e_arcsec``, ``source_snr`` and a source magnitude where
        known.
    selected : Selected
        Rows that are lenses, and targets.
    point : ThresholdPoint
        Threshold that recovers a lens.
    """
    rows = selected.is_lens_N
    if point.logit is None or not rows.any() or "theta_e_arcsec" not in columns:
        reason = point.reason or "the mocks have no lenses with an Einstein radius"
        return Completeness(point, selected.fraction, Estimate(None, reason=reason), [])
    is_selected_L = selected.is_selected_N[rows]
    with np.errstate(invalid="ignore"):
        is_recovered_L = columns["logit"][rows] > point.logit
    axes = {"source_snr": SOURCE_SNR_EDGES}
    magnitude = next((name for name in columns if _SOURCE_MAGNITUDE.fullmatch(name)), None)
    if magnitude is not None:
        axes[magnitude] = SOURCE_MAG_EDGES
    maps = [
        completeness_map(
            columns["theta_e_arcsec"][rows], columns[name][rows], is_selected_L, is_recovered_L,
            name, edges,
        )
        for name, edges in axes.items()
        if name in columns
    ]  # fmt: skip
    n_found = int(np.sum(is_selected_L & is_recovered_L))
    galaxies = galaxies_of(columns["host_id"][rows]) if "host_id" in columns else None
    total = fraction(n_found, len(is_selected_L), "lenses in the test split", independent=galaxies)
    return Completeness(point, selected.fraction, total, maps)
