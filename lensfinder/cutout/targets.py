"""Which tile owns a target. Pure: positions and footprints in, indices out.

Where tiles overlap, a target belongs to the tile whose centre is nearest; the others stand in
for it, in order of distance, if that tile fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder.footprints import Footprint, separation_deg

# Two detections this close on different tiles are one object seen twice.
SAME_OBJECT_ARCSEC = 1.0


@dataclass(frozen=True)
class Ownership:
    """Who covers which target.

    Attributes
    ----------
    order_NT : (N, T) int64
        Tiles by distance of their centre, nearest first; -1 where no further tile covers it.
    x_NT, y_NT : (N, T) float64
        Pixel position in each tile (not in that order), NaN where not covered.
    """

    order_NT: NDArray[np.int64]
    x_NT: NDArray[np.float64]
    y_NT: NDArray[np.float64]

    @property
    def owner_N(self) -> NDArray[np.int64]:
        """Index of the owning tile, -1 where no tile covers the target."""
        return self.order_NT[:, 0]

    def without(self, failed: Sequence[int]) -> Ownership:
        """Return the ownership with the tiles `failed` taken out."""
        order = self.order_NT.copy()
        order[np.isin(order, list(failed))] = -1
        # A stable sort by "is there a tile" closes the gaps and keeps the order of distance.
        rank = np.argsort(order < 0, axis=1, kind="stable")
        return Ownership(np.take_along_axis(order, rank, axis=1), self.x_NT, self.y_NT)


def assign(
    ra: NDArray[np.float64], dec: NDArray[np.float64], footprints: Sequence[Footprint]
) -> Ownership:
    """Decide which tiles cover each target, and who owns it.

    Parameters
    ----------
    ra, dec : (N,) float64
        ICRS, deg.
    footprints : sequence of Footprint
        In a fixed order, which breaks ties.
    """
    n, tiles = len(ra), len(footprints)
    x_NT, y_NT = np.full((n, tiles), np.nan), np.full((n, tiles), np.nan)
    distance_NT = np.full((n, tiles), np.inf)
    for t, footprint in enumerate(footprints):
        x_NT[:, t], y_NT[:, t], inside = footprint.pixel_of(ra, dec)
        away = separation_deg(footprint.centre_ra, footprint.centre_dec, ra, dec)
        distance_NT[inside, t] = away[inside]
    order = np.argsort(distance_NT, axis=1, kind="stable").astype(np.int64)
    covered = np.isfinite(np.take_along_axis(distance_NT, order, axis=1))
    order = np.where(covered, order, -1)
    # Without any tile there is an owner to ask for all the same: none.
    return Ownership(order if tiles else np.full((n, 1), -1), x_NT, y_NT)


def keep_once(
    detections: Sequence[dict[str, NDArray[Any]]], footprints: Sequence[Footprint]
) -> list[NDArray[np.bool_]]:
    """Choose which tile's detection of an object is kept, where tiles overlap.

    A detection stays on its tile if that tile's centre is nearest to it. Centroids differ
    between tiles, so an object on the dividing line may be kept twice or nowhere; pairs within
    an arcsecond settle that. What a tile's edge cuts off has its centroid elsewhere, and gives
    way to the whole object on another tile.

    Parameters
    ----------
    detections : sequence of {"ra", "dec", "cut_off_arcsec"}
        What was found on each tile, deg; and how far away the middle of an object may be that is
        cut off, 0 for all others (which is taken for granted where nothing is said).
    footprints : sequence of Footprint
        Of the same tiles.

    Returns
    -------
    list of (n,) bool
        Which of each tile's detections to keep.
    """
    from scipy.spatial import cKDTree

    if not sum(len(d["ra"]) for d in detections):
        return [np.zeros(0, bool) for _ in detections]
    tile = np.concatenate([np.full(len(d["ra"]), t) for t, d in enumerate(detections)])
    ra = np.concatenate([d["ra"] for d in detections])
    dec = np.concatenate([d["dec"] for d in detections])
    owner = assign(ra, dec, footprints).owner_N
    keep = owner == tile
    from_centre = np.array(
        [
            float(separation_deg(footprints[t].centre_ra, footprints[t].centre_dec, r, d))
            for t, r, d in zip(tile.astype(int), ra, dec, strict=True)
        ]
    )
    # Chord length on the unit sphere; exact enough at an arcsecond.
    radius = 2 * np.sin(np.radians(SAME_OBJECT_ARCSEC / 3600) / 2)
    unit = np.column_stack(
        [
            np.cos(np.radians(dec)) * np.cos(np.radians(ra)),
            np.cos(np.radians(dec)) * np.sin(np.radians(ra)),
            np.sin(np.radians(dec)),
        ]
    )
    tree = cKDTree(unit)
    neighbours = tree.query_ball_point(unit, radius)
    cut_off = np.concatenate([d.get("cut_off_arcsec", np.zeros(len(d["ra"]))) for d in detections])
    gone = np.zeros(len(tile), bool)
    for i in np.flatnonzero(cut_off):
        # Whole objects nearby that this tile does not show whole, too, are what is cut off here.
        near = tree.query_ball_point(unit[i], np.radians(cut_off[i] / 3600) + radius)
        gone[i] = any(
            tile[j] != tile[i]
            and not cut_off[j]
            and not any(tile[k] == tile[i] and not cut_off[k] for k in neighbours[j])
            for j in near
        )
    keep &= ~gone
    # Settle the detections nearest to their tile's centre first: they have the best claim.
    for i in np.lexsort((tile, from_centre)):
        if gone[i]:
            continue
        others = [j for j in neighbours[i] if tile[j] != tile[i]]
        if keep[i]:
            for j in others:
                keep[j] = False
        elif not any(keep[j] for j in others):
            keep[i] = True
    return [keep[tile == t] for t in range(len(detections))]
