"""Ranking, naming and cross-matching of candidates."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord, search_around_sky
from numpy.typing import NDArray

# A decimal degree is exact to 1e-9 of the name's last digit; a value this near below a step is
# meant to stand on it (12h00m03.21s is 180.013375 deg, which binary fractions only approach).
_NAME_DECIMALS = 6


def rank(logit_N: NDArray[np.floating], id_N: NDArray[np.str_]) -> NDArray[np.intp]:
    """Indices from the highest logit to the lowest; equal logits in the order of their ids.

    Parameters
    ----------
    logit_N : float array, shape (N,)
        Finite logits.
    id_N : str array, shape (N,)
        Unique ids.

    Returns
    -------
    int array, shape (N,)

    Raises
    ------
    ValueError
        Where a logit is not finite: an object without a score has no rank.
    """
    if not np.all(np.isfinite(logit_N)):
        raise ValueError(f"{int(np.sum(~np.isfinite(logit_N)))} logits are not finite")
    return np.lexsort((id_N, -np.asarray(logit_N, dtype=np.float64)))


def iau_name(ra_deg: float, dec_deg: float, prefix: str = "LF") -> str:
    """Name after the IAU's rule: coordinates truncated, not rounded, ``LF J120003.21-003012.3``.

    Parameters
    ----------
    ra_deg, dec_deg : float
        ICRS; right ascension of any turn, declination in [-90, 90].
    prefix : str
        Of the survey or list; may be empty.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        Where the position is not one on the sky.
    """
    if not (math.isfinite(ra_deg) and -90.0 <= dec_deg <= 90.0):
        raise ValueError(f"no position on the sky: RA {ra_deg}, Dec {dec_deg}")
    centiseconds = math.floor(round(ra_deg % 360.0 * 24000.0, _NAME_DECIMALS)) % 8640000
    deciarcsec = math.floor(round(abs(dec_deg) * 36000.0, _NAME_DECIMALS))
    minutes, cs = divmod(centiseconds, 6000)
    hours, minutes = divmod(minutes, 60)
    arcmin, das = divmod(deciarcsec, 600)
    degrees, arcmin = divmod(arcmin, 60)
    sign = "-" if dec_deg < 0 else "+"
    start = f"{prefix} J" if prefix else "J"
    return (
        f"{start}{hours:02d}{minutes:02d}{cs // 100:02d}.{cs % 100:02d}"
        f"{sign}{degrees:02d}{arcmin:02d}{das // 10:02d}.{das % 10}"
    )


def nearest_within(
    ra_K: NDArray[np.floating],
    dec_K: NDArray[np.floating],
    ra_N: NDArray[np.floating],
    dec_N: NDArray[np.floating],
    radius_arcsec: float,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Nearest of N objects to each of K positions, where one lies within the radius.

    Parameters
    ----------
    ra_K, dec_K, ra_N, dec_N : float arrays
        ICRS degrees.
    radius_arcsec : float
        Largest separation.

    Returns
    -------
    index_K : int array, shape (K,)
        Index into the N objects, -1 where none is near enough.
    separation_arcsec_K : float array, shape (K,)
        NaN where none is near enough.
    """
    index_K = np.full(len(ra_K), -1, dtype=np.intp)
    separation_arcsec_K = np.full(len(ra_K), np.nan)
    if len(ra_K) == 0 or len(ra_N) == 0:
        return index_K, separation_arcsec_K
    wanted = SkyCoord(ra_K, dec_K, unit="deg")
    objects = SkyCoord(ra_N, dec_N, unit="deg")
    k_M, n_M, separation_M, _ = search_around_sky(wanted, objects, radius_arcsec * units.arcsec)
    arcsec_M = separation_M.to_value(units.arcsec)
    # Farthest first, so that the nearest is what stays.
    order = np.lexsort((-n_M, -arcsec_M))
    index_K[k_M[order]] = n_M[order]
    separation_arcsec_K[k_M[order]] = arcsec_M[order]
    return index_K, separation_arcsec_K


def ds9_regions(
    ra_N: NDArray[np.floating],
    dec_N: NDArray[np.floating],
    text_N: list[str],
    radius_arcsec: float,
) -> str:
    """DS9 region file with a labelled circle around each object.

    DS9 ends a label at ``}`` and knows no escape, so braces, the percent sign and control
    characters are percent-encoded.

    Parameters
    ----------
    ra_N, dec_N : float arrays, shape (N,)
        ICRS degrees.
    text_N : list of str
        Labels.
    radius_arcsec : float
        Of the circles.

    Returns
    -------
    str
        The file's text.
    """
    lines = ["# Region file format: DS9 version 4.1", "global color=cyan width=1", "icrs"]
    for ra, dec, text in zip(ra_N, dec_N, text_N, strict=True):
        label = re.sub(r"[%{}\x00-\x1f\x7f-\x9f]", lambda m: f"%{ord(m[0]):02X}", text)
        lines.append(f'circle({ra:.7f},{dec:+.7f},{radius_arcsec:g}") # text={{{label}}}')
    return "\n".join(lines) + "\n"


def rows(
    columns: Mapping[str, NDArray[Any]],
    ranked_R: NDArray[np.intp],
    *,
    threshold: float | None,
    n_listed: int,
    name_prefix: str,
    flag_names: Callable[[int], list[str]],
) -> list[dict[str, Any]]:
    """Describe the best-ranked objects, one mapping each, for the report and its page.

    Parameters
    ----------
    columns : mapping of str to arrays of shape (N,)
        ``id``, ``ra``, ``dec``, ``tile``, ``x``, ``y``, ``logit``, ``score``, ``flags`` and any
        ``mag_<band>``.
    ranked_R : int array, shape (R,)
        Indices of the scored objects in the order of their rank.
    threshold : float or None
        Operating threshold in logit.
    n_listed : int
        How many to describe.
    name_prefix : str
        Of the IAU-style names.
    flag_names : callable
        Spells out the bits of ``flags``.

    Returns
    -------
    list of dict
        ``rank`` (from 1), ``name`` (empty without a position), ``id``, ``ra``, ``dec``, ``tile``,
        ``x``, ``y``, ``mags`` (by band), ``logit``, ``score``, ``probability`` (NaN), ``flags``,
        ``above`` (the threshold), and ``stamp_arcsec`` and ``known``, which are None.
    """
    bands = [name.removeprefix("mag_") for name in columns if name.startswith("mag_")]
    listed = []
    for position, i in enumerate(ranked_R[:n_listed], start=1):
        ra_deg, dec_deg = float(columns["ra"][i]), float(columns["dec"][i])
        logit = float(columns["logit"][i])
        listed.append(
            {
                "rank": position,
                "name": iau_name(ra_deg, dec_deg, name_prefix)
                if math.isfinite(ra_deg) and math.isfinite(dec_deg)
                else "",
                "id": str(columns["id"][i]),
                "ra": ra_deg,
                "dec": dec_deg,
                "tile": str(columns["tile"][i]),
                "x": float(columns["x"][i]),
                "y": float(columns["y"][i]),
                "mags": {band: float(columns[f"mag_{band}"][i]) for band in bands},
                "logit": logit,
                "score": float(columns["score"][i]),
                "probability": math.nan,
                "flags": flag_names(int(columns["flags"][i])),
                "above": threshold is not None and logit > threshold,
                "stamp_arcsec": None,
                "known": None,
            }
        )
    return listed


def table(listed: Sequence[Mapping[str, Any]], bands: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Columns of the candidate tables out of :func:`rows`, typed also where there is no row."""
    text = ("name", "id", "tile")
    columns: dict[str, NDArray[Any]] = {
        "rank": np.array([row["rank"] for row in listed], dtype=np.int32)
    }
    for key in ("name", "id", "ra", "dec", "tile", "x", "y", "logit", "score", "probability"):
        columns[key] = np.array(
            [row[key] for row in listed], dtype=object if key in text else np.float64
        )
    for band in bands:
        columns[f"mag_{band}"] = np.array([row["mags"][band] for row in listed], np.float64)
    columns["flags"] = np.array([" ".join(row["flags"]) for row in listed], dtype=object)
    return columns
