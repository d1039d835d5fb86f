"""Known lenses among the scored objects: which were targets, and where they rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema
from lensfinder.infer.groups import group
from lensfinder.report.candidates import nearest_within
from lensfinder.report.estimates import Estimate, fraction

MATCH_RADIUS_ARCSEC = 2.0
# A known lens with no scored object as near as this lies outside of what was searched.
COVERED_RADIUS_ARCMIN = 10.0


def cross_match(
    lenses: Mapping[str, NDArray[Any]],
    sky: Mapping[str, NDArray[Any]],
    ranked_R: NDArray[np.intp],
    cut: float | None,
    keep_above: float | None = None,
) -> dict[str, Any]:
    """Recall and rank of known lenses.

    Parameters
    ----------
    lenses : mapping of str to arrays of shape (K,)
        ``id``, ``ra``, ``dec`` (deg), and ``grade`` and ``type`` where the catalogue has them.
    sky : mapping of str to arrays of shape (N,)
        ``id``, ``ra``, ``dec``, ``logit``, ``flags``.
    ranked_R : int array, shape (R,)
        Rows of the scored sky objects, best first.
    cut : float or None
        Operating threshold in logit.
    keep_above : float, optional
        Where objects with a lower logit have no row: which lenses were targets is not known then.

    Returns
    -------
    dict
        ``n`` lenses, ``n_covered`` near any scored object, ``n_targets`` matched to one,
        ``n_above``, ``n_seen`` in training; ``selected`` and ``recall`` among the covered, the
        latter without those seen in training; ``grades`` with the same counts; ``rows``, one for
        each covered lens, by rank.
    """
    placed = np.isfinite(sky["ra"][ranked_R]) & np.isfinite(sky["dec"][ranked_R])
    # In the order of rank, so that an index is a rank.
    rank_P = np.flatnonzero(placed) + 1
    objects_P = ranked_R[placed]
    ra_P, dec_P = sky["ra"][objects_P], sky["dec"][objects_P]
    index_K, separation_arcsec_K = nearest_within(
        lenses["ra"], lenses["dec"], ra_P, dec_P, MATCH_RADIUS_ARCSEC
    )
    covered_K = _has_neighbour(lenses["ra"], lenses["dec"], ra_P, dec_P, COVERED_RADIUS_ARCMIN)
    rows: list[dict[str, Any]] = []
    for k in np.flatnonzero(covered_K):
        found = index_K[k] >= 0
        row = objects_P[index_K[k]] if found else -1
        logit = float(sky["logit"][row]) if found else None
        rows.append(
            {
                "id": str(lenses["id"][k]),
                "grade": str(lenses["grade"][k]) if "grade" in lenses else "",
                "type": str(lenses["type"][k]) if "type" in lenses else "",
                "ra": float(lenses["ra"][k]),
                "dec": float(lenses["dec"][k]),
                "object_id": str(sky["id"][row]) if found else None,
                "separation_arcsec": float(separation_arcsec_K[k]) if found else None,
                "rank": int(rank_P[index_K[k]]) if found else None,
                "logit": logit,
                "above": logit is not None and cut is not None and logit > cut,
                # What trained the model is no test of it.
                "seen": found and bool(sky["flags"][row] & schema.FLAG_SEEN_IN_TRAINING),
            }
        )
    rows.sort(key=lambda row: (row["rank"] is None, row["rank"] or 0, row["id"]))
    # Lists name a lens more than once: one object is one lens, and so are names of one place.
    first = {row["object_id"]: row for row in reversed(rows) if row["object_id"] is not None}
    rows = [row for row in rows if first.get(row["object_id"], row) is row]
    radec_K2 = np.array([[row["ra"], row["dec"]] for row in rows]).reshape(-1, 2)
    leader_K, _ = group(radec_K2[:, 0], radec_K2[:, 1], MATCH_RADIUS_ARCSEC)
    matched_K = np.array([row["object_id"] is not None for row in rows], bool)
    # Two objects that were matched stay two, however near.
    kept_K = matched_K | (leader_K == np.arange(len(rows)))
    rows = [row for row, kept in zip(rows, kept_K, strict=True) if kept]
    return {
        "radius_arcsec": MATCH_RADIUS_ARCSEC,
        "covered_radius_arcmin": COVERED_RADIUS_ARCMIN,
        "n": len(lenses["id"]),
        **_counts(rows, cut, keep_above),
        "grades": [
            {
                "grade": grade,
                **_counts([row for row in rows if row["grade"] == grade], cut, keep_above),
            }
            for grade in sorted({row["grade"] for row in rows})
        ],
        "rows": rows,
    }


def _counts(
    rows: list[dict[str, Any]], cut: float | None, keep_above: float | None
) -> dict[str, Any]:
    n_targets = sum(row["rank"] is not None for row in rows)
    n_above = sum(row["above"] for row in rows)
    n_seen = sum(row["seen"] for row in rows)
    recall = Estimate(None, n=n_targets, reason="there is no threshold")
    if cut is not None:
        unseen = sum(row["above"] and not row["seen"] for row in rows)
        recall = fraction(unseen, n_targets - n_seen, "known lenses among the targets")
    selected = fraction(n_targets, len(rows), "known lenses in the area")
    if keep_above is not None:
        reason = f"only objects with a logit above {keep_above:g} were kept"
        recall = selected = Estimate(None, n=len(rows), reason=reason)
    return {
        "n_covered": len(rows),
        "n_targets": n_targets,
        "n_above": n_above,
        "n_seen": n_seen,
        "selected": _plain(selected),
        "recall": _plain(recall),
    }


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in ("value", "low", "high", "n", "reason")}


def _has_neighbour(
    ra_K: NDArray[np.floating],
    dec_K: NDArray[np.floating],
    ra_N: NDArray[np.floating],
    dec_N: NDArray[np.floating],
    radius_arcmin: float,
) -> NDArray[np.bool_]:
    """Whether any of N objects lies within the radius; a tree, since pairs may be countless."""
    from scipy.spatial import cKDTree

    if len(ra_K) == 0 or len(ra_N) == 0:
        return np.zeros(len(ra_K), dtype=bool)
    chord = 2.0 * np.sin(np.radians(radius_arcmin / 60.0) / 2.0)
    tree = cKDTree(_unit_vectors(ra_N, dec_N))
    distance_K, _ = tree.query(_unit_vectors(ra_K, dec_K), distance_upper_bound=chord)
    near_K: NDArray[np.bool_] = np.isfinite(distance_K)
    return near_K


def _unit_vectors(
    ra_deg: NDArray[np.floating], dec_deg: NDArray[np.floating]
) -> NDArray[np.float64]:
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
