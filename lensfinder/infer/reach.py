"""How far the targets of each tile reach, which outlives the rows that are not kept. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reach = dict[str, dict[str, Any]]


def reach(columns: Mapping[str, NDArray[Any]]) -> Reach:
    """Tell how far targets reach in their tiles.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        ``tile``, ``x``, ``y`` (pixel), ``ra``, ``dec`` (deg). Without a tile or a position, an
        object reaches nowhere.

    Returns
    -------
    dict of tile to dict
        ``n`` targets; ``x`` and ``y``, the least and the greatest; ``first`` and ``last``, (x, y,
        ra, dec) of the targets with the least and the greatest x + y, which lie farthest apart.
    """
    tile_N = np.asarray(columns["tile"]).astype(str)
    placed = np.all([np.isfinite(columns[name]) for name in ("x", "y", "ra", "dec")], axis=0)
    rows_P = np.flatnonzero(placed & (tile_N != ""))
    tiles, tile_P = np.unique(tile_N[rows_P], return_inverse=True)
    order = np.argsort(tile_P, kind="stable")
    parts = np.split(rows_P[order], np.flatnonzero(np.diff(tile_P[order])) + 1)
    found: Reach = {}
    for tile, rows in zip(tiles.tolist(), parts, strict=False):
        x, y = columns["x"][rows], columns["y"][rows]
        ends = rows[[np.argmin(x + y), np.argmax(x + y)]]
        first, last = (
            [float(columns[name][row]) for name in ("x", "y", "ra", "dec")] for row in ends
        )
        found[tile] = {
            "n": len(rows),
            "x": [float(x.min()), float(x.max())],
            "y": [float(y.min()), float(y.max())],
            "first": first,
            "last": last,
        }
    return found


def add(reaches: Sequence[Mapping[str, Any]]) -> Reach:
    """Join what several units say of their tiles; a tile may be in several."""
    total: Reach = {}
    for one in reaches:
        for tile, own in one.items():
            if tile not in total:
                total[tile] = dict(own)
                continue
            known = total[tile]
            known["n"] += own["n"]
            for axis in ("x", "y"):
                known[axis] = [min(known[axis][0], own[axis][0]), max(known[axis][1], own[axis][1])]
            known["first"] = min(known["first"], own["first"], key=_along)
            known["last"] = max(known["last"], own["last"], key=_along)
    return total


def _along(place: Sequence[float]) -> float:
    return place[0] + place[1]
