"""Candidates that are one object, or so near to each other that people look at them once. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WITHIN_ARCSEC = 3.0


def group(
    ra_N: NDArray[np.float64],
    dec_N: NDArray[np.float64],
    within_arcsec: float = WITHIN_ARCSEC,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Group objects around the best-ranked one among them.

    Going down the ranking, an object joins the best group whose leader lies within the radius, or
    leads one of its own: so no group is wider than twice the radius, however crowded the sky.

    Parameters
    ----------
    ra_N, dec_N : (N,) float64
        ICRS, deg, best-ranked first; NaN without a position, which makes a group of one.
    within_arcsec : float

    Returns
    -------
    leader_N : (N,) int64
        Index of the group's leader.
    rank_N : (N,) int32
        Place within the group, from 1.
    """
    from scipy.spatial import cKDTree

    n = len(ra_N)
    leader_N, rank_N = np.arange(n, dtype=np.int64), np.ones(n, np.int32)
    placed = np.flatnonzero(np.isfinite(ra_N) & np.isfinite(dec_N))
    if len(placed) < 2:
        return leader_N, rank_N
    ra, dec = np.radians(ra_N[placed]), np.radians(dec_N[placed])
    # On the unit sphere RA 0 and 360 are neighbours, and so are all RAs at a pole.
    xyz_N3 = np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    chord = 2 * np.sin(np.radians(within_arcsec / 3600) / 2)
    pairs_P2 = np.sort(cKDTree(xyz_N3).query_pairs(chord, output_type="ndarray"), axis=1)
    members: dict[int, int] = {}
    for better, worse in placed[pairs_P2[np.lexsort((pairs_P2[:, 1], pairs_P2[:, 0]))]].tolist():
        # Pairs come in the order of their better one, all of whose own pairs have been seen.
        if leader_N[better] == better and leader_N[worse] == worse:
            members[better] = members.get(better, 1) + 1
            leader_N[worse], rank_N[worse] = better, members[better]
    return leader_N, rank_N
