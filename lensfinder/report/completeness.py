"""Completeness over Einstein radius and source S/N (after Lanusse et al. 2018, fig. 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THETA_E_EDGES_ARCSEC = np.array([0.0, 0.6, 1.0, 1.4, 1.8, 2.4, 3.2, np.inf])
SOURCE_SNR_EDGES = np.array([0.0, 10.0, 20.0, 40.0, 80.0, 160.0, np.inf])


@dataclass(frozen=True, slots=True)
class CompletenessMap:
    """Simulated and recovered lenses in cells of Einstein radius and source S/N.

    Attributes
    ----------
    theta_e_edges_arcsec : float array, shape (T + 1,)
        Edges in arcsec; the last may be +inf.
    source_snr_edges : float array, shape (S + 1,)
        Edges of the lensed source's S/N.
    n_simulated_ST, n_recovered_ST : int arrays, shape (S, T)
        Lenses in each cell, and those of them above the threshold.
    n_without_truth : int
        Lenses left out for lack of a finite Einstein radius or S/N.
    """

    theta_e_edges_arcsec: NDArray[np.float64]
    source_snr_edges: NDArray[np.float64]
    n_simulated_ST: NDArray[np.int64]
    n_recovered_ST: NDArray[np.int64]
    n_without_truth: int


def completeness_map(
    theta_e_arcsec_N: NDArray[np.floating],
    source_snr_N: NDArray[np.floating],
    is_recovered_N: NDArray[np.bool_],
    theta_e_edges_arcsec: NDArray[np.float64] = THETA_E_EDGES_ARCSEC,
    source_snr_edges: NDArray[np.float64] = SOURCE_SNR_EDGES,
) -> CompletenessMap:
    """Count simulated and recovered lenses in each cell; every lens with a truth falls in one.

    Parameters
    ----------
    theta_e_arcsec_N, source_snr_N : float arrays, shape (N,)
        Truth of each lens, >= 0; NaN where it is not known.
    is_recovered_N : bool array, shape (N,)
        True where the lens is above the threshold.
    theta_e_edges_arcsec, source_snr_edges : float arrays
        Rising edges; a value on an edge belongs to the cell above it.

    Returns
    -------
    CompletenessMap
    """
    known_N = np.isfinite(theta_e_arcsec_N) & np.isfinite(source_snr_N)
    n_theta, n_snr = len(theta_e_edges_arcsec) - 1, len(source_snr_edges) - 1
    column_K = np.searchsorted(theta_e_edges_arcsec, theta_e_arcsec_N[known_N], side="right") - 1
    row_K = np.searchsorted(source_snr_edges, source_snr_N[known_N], side="right") - 1
    cell_K = row_K * n_theta + column_K
    recovered_K = is_recovered_N[known_N]
    n_cells = n_snr * n_theta
    return CompletenessMap(
        theta_e_edges_arcsec,
        source_snr_edges,
        np.bincount(cell_K, minlength=n_cells).reshape(n_snr, n_theta),
        np.bincount(cell_K[recovered_K], minlength=n_cells).reshape(n_snr, n_theta),
        int(np.sum(~known_N)),
    )
