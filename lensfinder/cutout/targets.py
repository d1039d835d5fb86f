"""Which tile owns a target. Pure: positions and footprints in, indices out.

Where tiles overlap, a target belongs to the tile whose centre is nearest; the others stand in
for it, in order of distance, if that tile fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder.footprints import Footprint, separation_deg

# Two detections this close on different tiles are one object seen twice.
SAME_OBJECT_ARCSEC = 1.0


@dataclass(frozen=True)
class Ownership:
    """Which tiles cover which of N targets: P pairs of both, since few tiles cover the same place.

    Attributes
    ----------
    count : int
        N.
    target_P, tile_P : (P,) int64
        By target; the pairs of one from the tile that owns it to the last that may stand in.
    x_P, y_P : (P,) float64
        Pixel position of that target in that tile.
    """

    count: int
    target_P: NDArray[np.int64]
    tile_P: NDArray[np.int64]
    x_P: NDArray[np.float64]
    y_P: NDArray[np.float64]

    @property
    def owner_N(self) -> NDArray[np.int64]:
        """Index of the owning tile, -1 where no tile covers the target."""
        owner = np.full(self.count, -1)
        first = np.diff(self.target_P, prepend=-1) != 0
        owner[self.target_P[first]] = self.tile_P[first]
        return owner

    def positions(
        self, tile: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return pixel positions x, y of targets in a tile that covers them."""
        pairs = np.flatnonzero(self.tile_P == tile)
        pairs = pairs[np.searchsorted(self.target_P[pairs], rows)]
        return self.x_P[pairs], self.y_P[pairs]

    def without(self, failed: Sequence[int]) -> Ownership:
        """Return the ownership with the tiles `failed` taken out."""
        return self._pairs(~np.isin(self.tile_P, list(failed)))

    def of(self, chosen_N: NDArray[np.bool_]) -> Ownership:
        """Return the ownership of some of the targets, counted anew."""
        number_N = np.cumsum(chosen_N) - 1
        kept = self._pairs(chosen_N[self.target_P])
        return replace(kept, count=int(chosen_N.sum()), target_P=number_N[kept.target_P])

    def led_by(self, keeper_N: NDArray[np.int64]) -> Ownership:
        """Put one tile of each target first, whatever the distances say."""
        return self._pairs(np.lexsort((self.tile_P != keeper_N[self.target_P], self.target_P)))

    def _pairs(self, some: NDArray[Any]) -> Ownership:
        return Ownership(
            self.count, self.target_P[some], self.tile_P[some], self.x_P[some], self.y_P[some]
        )


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
    from scipy.spatial import cKDTree

    nothing: NDArray[Any] = np.zeros(0)
    target, tile, x, y, away = ([nothing] for _ in range(5))
    tree = cKDTree(_on_unit_sphere(ra, dec))
    for t, footprint in enumerate(footprints):
        centre = _on_unit_sphere(footprint.centre_ra, footprint.centre_dec)
        near = np.array(tree.query_ball_point(centre, _chord(footprint.radius * 1.01)), np.int64)
        x_near, y_near, inside = footprint.pixel_of(ra[near], dec[near])
        rows = near[inside]
        target.append(rows)
        tile.append(np.full(len(rows), t))
        x.append(x_near[inside])
        y.append(y_near[inside])
        away.append(separation_deg(footprint.centre_ra, footprint.centre_dec, ra[rows], dec[rows]))
    joined = Ownership(
        len(ra),
        np.concatenate(target).astype(np.int64),
        np.concatenate(tile).astype(np.int64),
        np.concatenate(x),
        np.concatenate(y),
    )
    return joined._pairs(np.lexsort((joined.tile_P, np.concatenate(away), joined.target_P)))


def _on_unit_sphere(ra_deg: Any, dec_deg: Any) -> NDArray[np.float64]:
    """Return unit vectors, (..., 3)."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def _chord(angle_deg: float) -> float:
    """Return how far apart unit vectors are, at most, that enclose an angle."""
    return 2 * float(np.sin(np.radians(min(angle_deg, 180)) / 2))


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
    radius = _chord(SAME_OBJECT_ARCSEC / 3600)
    unit = _on_unit_sphere(ra, dec)
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
