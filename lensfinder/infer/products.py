"""What a finished run leaves beside the units' scores: a ranked list, its exports, and stamps.

Nothing here holds more than the best few of the rows, however many a survey has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import shards, tables
from lensfinder.cutout.stampfiles import is_damage
from lensfinder.errors import counted
from lensfinder.fingerprints import fingerprint
from lensfinder.infer import histogram
from lensfinder.infer.groups import group
from lensfinder.infer.inputs import pick
from lensfinder.runs import Run
from lensfinder.tables import Columns
from lensfinder.units import Unit

CANDIDATES = "candidates.h5"
RANKED = "ranked.parquet"
# Why an object has no score that its pixels don't tell.
NO_LOGIT = "no_finite_logit"
# Stamps held at a time, however many candidates are kept.
_CHUNK = 64
# Tiles of a survey differ by less than this factor, surveys by more.
_NOISE_ALIKE = 2.0
_SUFFIXES = {"fits": ".fits", "ecsv": ".ecsv", "votable": ".vot"}
_FORMATS = {"fits": "fits", "ecsv": "ascii.ecsv", "votable": "votable"}
_LISTED = ("id", "ra", "dec", "tile", "logit", "logit_std", "score", "flags", "label", "split")


def write_lists(run: Run) -> None:
    """Write the ranked list, its exports, and the stamps of the best candidates of the sky."""
    section = run.config.infer
    scored = [unit for unit in run.units if unit.product.exists()]
    ranked = best_of(scored, max(section.ranked, section.candidates))
    leader, place = group(ranked["ra"], ranked["dec"])
    n = len(ranked["id"])
    ranked["rank"] = np.arange(1, n + 1)
    ranked["group_id"] = ranked["id"][leader] if n else ranked["id"]
    ranked["group_rank"] = place
    _write_table(run, {name: values[: section.ranked] for name, values in ranked.items()}, scored)
    _write_stamps(run, ranked, scored)


def best_of(units: Sequence[Unit], most: int) -> Columns:
    """Merge the units' scores into one list, the highest logit first; equal ones by their ids.

    Parameters
    ----------
    units : sequence of Unit
        Each with its product.
    most : int
        Rows to keep.

    Returns
    -------
    columns
        Those of a list of candidates, and ``unit``. Objects without a score are not among them.
    """
    kept: Columns = {}
    for unit in units if most else ():
        there = tables.names_of(unit.product)
        wanted = [name for name in there if name in _LISTED or name.startswith("mag_")]
        columns = tables.read_columns(unit.product, wanted)
        rows = np.flatnonzero(np.isfinite(columns["logit"]))
        if kept and len(kept["id"]) >= most:
            # What can't be among the best is not even looked at.
            rows = rows[columns["logit"][rows] >= kept["logit"][most - 1]]
        if kept and not len(rows):
            continue
        part = {name: values[rows] for name, values in columns.items()}
        part["unit"] = np.full(len(rows), unit.name, dtype=object)
        kept = tables.concatenate([kept, part]) if kept else part
        order = np.lexsort((kept["unit"].astype(str), kept["id"].astype(str), -kept["logit"]))
        kept = {name: values[order[:most]] for name, values in kept.items()}
    if not kept:
        kept = {name: np.zeros(0) for name in ("ra", "dec", "logit")}
        kept |= {name: np.zeros(0, object) for name in ("id", "unit", "split")}
    return kept


def _write_table(run: Run, ranked: Columns, scored: Sequence[Unit]) -> None:
    stored = [tables.read_metadata(unit.product) or {} for unit in scored]
    about = {
        "histogram": histogram.add([one["histogram"] for one in stored if "histogram" in one]),
        "calibration": stored[0].get("calibration") if stored else None,
        "provenance": run.provenance,
    }
    if run.config.infer.ranked:
        tables.write_columns(run.folder / RANKED, ranked, about)
    else:
        (run.folder / RANKED).unlink(missing_ok=True)
    exports = {name: run.folder / f"ranked{suffix}" for name, suffix in _SUFFIXES.items()}
    for name, path in exports.items():
        if name not in run.config.infer.export or not run.config.infer.ranked:
            path.unlink(missing_ok=True)
        else:
            # VOTables know no signed byte.
            wide = {n: v.astype(np.int16) if v.dtype == np.int8 else v for n, v in ranked.items()}
            tables.write_astropy(path, wide, _FORMATS[name])


def _write_stamps(run: Run, ranked: Columns, scored: Sequence[Unit]) -> None:
    """Write the stamps of the best-ranked objects of the sky as an ordinary shard.

    Pixels are read again from where they came from, so that nothing but scores is written while
    a survey streams by.
    """
    path = run.folder / CANDIDATES
    # Mocks belong to a split; the sky does not.
    sky = np.flatnonzero(ranked["split"].astype(str) == "")[: run.config.infer.candidates]
    if not len(sky):
        path.unlink(missing_ok=True)
        return
    spec = run.notes["spec"]
    header = shards.Header(
        stage="infer",
        survey=run.config.run.survey,
        bands=spec.bands,
        pixel_scale_arcsec=spec.pixel_scale_arcsec,
        ingredients={
            "units": [unit.fingerprint for unit in scored],
            "ids": fingerprint({"ids": ranked["id"][sky].astype(str).tolist()}),
        },
        provenance=run.provenance,
        stretched=spec.stretched,
    )
    pieces: list[tuple[NDArray[np.intp], dict[str, NDArray[Any]]]] = []
    with shards.in_parts(path, header, len(sky), spec.size) as made:
        for unit in scored:
            places = np.flatnonzero(ranked["unit"][sky] == unit.name)
            names = ranked["id"][sky[places]].astype(str)
            place_of = dict(zip(names.tolist(), places.tolist(), strict=True))
            for found in pick(unit, list(place_of), _CHUNK) if place_of else ():
                own = np.array([place_of[str(name)] for name in found.columns["id"]], np.intp)
                made.put(own, found.image_NCHW, found.mask_NCHW)
                pieces.append((own, found.columns))
        order = np.argsort(np.concatenate([places for places, _ in pieces]))
        columns = tables.concatenate([columns for _, columns in pieces])
        columns = {n: v[order] for n, v in columns.items() if n not in ("outcome", "reason")}
        columns |= {name: ranked[name][sky] for name in ("logit", "score", "flags")}
        columns |= {name: ranked[name][sky] for name in ("rank", "group_id", "group_rank")}
        made.catalog = columns


def remarks(units: Sequence[Unit]) -> list[str]:
    """Say what the units have to say, and why objects have no score; each once."""
    said: Counter[str] = Counter()
    why: Counter[str] = Counter()
    noise: list[dict[str, float]] = []
    kept, limit = 0, None
    for unit in units:
        if unit.product.exists():
            stored = tables.read_metadata(unit.product) or {}
            limit = stored.get("keep_above", limit)
            kept += stored.get("rows", 0) - sum(stored.get("rejected", {}).values())
            said.update(stored.get("notices", []))
            why.update(stored.get("rejected", {}))
            noise.append(stored.get("noise_over_training", {}))
    lines = [f"{word} ({count} units)" if count > 1 else word for word, count in said.items()]
    lines += _other_noise(noise)
    if why:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(why.items()))
        lines.append(f"not scored: {listed} (listed in {Path('ledger.parquet')})")
    if limit is not None:
        lines.append(f"kept: {counted(kept, 'object')} with a logit above {limit:g}")
    return lines


def damaged(units: Sequence[Unit]) -> int:
    """Count the stamps whose files could not be read."""
    stored = [
        tables.read_metadata(unit.product) or {}
        for unit in units
        if "stamps" in unit.task and unit.product.exists()
    ]
    return sum(
        count
        for one in stored
        for reason, count in one.get("rejected", {}).items()
        if reason != NO_LOGIT and is_damage(reason)
    )


def _other_noise(over_training: Sequence[Mapping[str, float]]) -> list[str]:
    """Say where units are far noisier, or far less so, than what the model was trained on."""
    strange = [
        unit
        for unit in over_training
        if any(not 1 / _NOISE_ALIKE <= ratio <= _NOISE_ALIKE for ratio in unit.values())
    ]
    if not strange:
        return []
    bands = list(dict.fromkeys(band for unit in strange for band in unit))
    typical = {
        band: float(np.median([unit[band] for unit in strange if band in unit])) for band in bands
    }
    ratios = ", ".join(f"{ratio:.2g} times as much in {band}" for band, ratio in typical.items())
    where = f" ({len(strange)} of {len(over_training)} units)" if len(over_training) > 1 else ""
    return [
        f"noise is not that of the model's training stamps{where}: {ratios}. Its "
        "thresholds don't hold there: make mocks of this depth, and let `report` compare them"
    ]
