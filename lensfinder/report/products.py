"""What the report stage writes: tables, figures, the page and the numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import runs, schema, tables
from lensfinder.report import (
    candidates,
    document,
    illustrate,
    inputs,
    measure,
    page,
    thumbnails,
)
from lensfinder.runs import Receipt, Unit

REPORT = "report.json"
PAGE = "index.html"
KNOWN_RADIUS_ARCSEC = 2.0
# A page of more is no longer looked at; the tables hold all.
_MOST_IN_GALLERY = 2000
_BEST_BELOW_THRESHOLD = 20
_REGION_RADIUS_ARCSEC = 5.0
_KEPT_OUT = {
    "seen_in_training_bit": schema.FLAG_SEEN_IN_TRAINING,
    "adapted_bit": schema.FLAG_ADAPTED,
}


def make(unit: Unit) -> Receipt:
    """Read the scores, measure them, and write every product.

    Raises
    ------
    MismatchError
        If the scores come from several models, or the splits leak.
    RequestError
        If an input can't be used.
    """
    task, keys, folder = unit.task, unit.ingredients["report"], unit.product.parent
    scores = {
        role: inputs.read_scores([Path(path) for path in paths], role)
        for role, paths in task["files"].items()
    }
    model_id = inputs.check_one_model(scores)
    inputs.check_no_leakage(scores["mocks"])
    measured, used = measure.measure_labelled(
        scores["mocks"], fprs=keys["fpr"], prevalence=keys["prevalence"],
        seed=unit.ingredients["seed"], **_KEPT_OUT,
    )  # fmt: skip

    sky = listed = known = None
    above: list[dict[str, Any]] = []
    pictures: list[bytes | None] = []
    stamp_bands: Sequence[str] = ()
    if "sky" in scores:
        sky = measure.measure_sky(scores["sky"], measured, **_KEPT_OUT)
        ranked_R = _ranked(scores["sky"])
        cut = measured.operating_logit
        if task["known"]:
            known = _known(Path(task["known"]), scores["sky"], ranked_R, cut)
        above, rows = _listed(scores["sky"], ranked_R, cut, keys["name_prefix"], known)
        if task["stamps"]:
            stamp_bands = _add_pictures(Path(task["stamps"]), rows, pictures)
        else:
            pictures = [None] * len(rows)
        listed = {"n_above": len(above), "rows": rows}

    content = document.build(
        measured=measured,
        sky=sky,
        candidates=listed,
        known=known,
        settings={
            "model_id": model_id,
            "prevalence": keys["prevalence"],
            "name_prefix": keys["name_prefix"],
            "bands": _bands(scores.get("sky", {}), stamp_bands),
            "stamp_bands": list(stamp_bands),
        },
        provenance={
            **task["provenance"],
            "inputs": [
                {"role": role, "path": path, "rows": tables.rows_of(Path(path))}
                for role, paths in task["files"].items()
                for path in paths
            ],
        },
    )
    drawn = illustrate.illustrations(measured, used, scores.get("sky", {}).get("logit"))

    written = [_write(folder / PAGE, page.render(content, drawn, pictures).encode())]
    written += [_write(folder / "figures" / f"{f.name}.png", f.light_png) for f in drawn]
    if sky is not None:
        written += _write_tables(folder, candidates.table(above, content["settings"]["bands"]))
    receipt = _receipt(scores)
    # Last, for it vouches for all the others.
    runs.write_json(
        unit.product,
        {
            **content,
            "products": {
                path.relative_to(folder).as_posix(): runs.sha256_of(path) for path in written
            },
            "receipt": vars(receipt),
            "ingredients": unit.ingredients,
        },
    )
    return receipt


def _ranked(sky: Mapping[str, NDArray[Any]]) -> NDArray[np.intp]:
    """Rows of the scored objects, best first."""
    scored = np.flatnonzero(np.isfinite(sky["logit"]))
    return scored[candidates.rank(sky["logit"][scored], sky["id"][scored])]


def _listed(
    sky: Mapping[str, NDArray[Any]],
    ranked_R: NDArray[np.intp],
    cut: float | None,
    name_prefix: str,
    known: Mapping[str, Any] | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All above the threshold, and those that the page shows."""
    n_above = 0 if cut is None else int(np.sum(sky["logit"][ranked_R] > cut))
    described = candidates.rows(
        sky, ranked_R, threshold=cut, n_listed=n_above or _BEST_BELOW_THRESHOLD,
        name_prefix=name_prefix, flag_names=schema.flag_names,
    )  # fmt: skip
    known_by_id = {row["object_id"]: row["id"] for row in known["rows"]} if known else {}
    for row in described:
        row["known"] = known_by_id.get(row["id"])
    return described[:n_above], described[:_MOST_IN_GALLERY]


def _known(
    path: Path, sky: Mapping[str, NDArray[Any]], ranked_R: NDArray[np.intp], cut: float | None
) -> dict[str, Any]:
    """Recall and rank of known lenses among the scored objects with a position."""
    lenses = tables.read_catalog(path)
    placed = np.isfinite(sky["ra"][ranked_R]) & np.isfinite(sky["dec"][ranked_R])
    # In the order of rank, so that an index is a rank.
    rank_P = np.flatnonzero(placed) + 1
    objects_P = ranked_R[placed]
    index_K, separation_arcsec_K = candidates.nearest_within(
        lenses["ra"], lenses["dec"], sky["ra"][objects_P], sky["dec"][objects_P],
        KNOWN_RADIUS_ARCSEC,
    )  # fmt: skip
    rows = []
    for k, index in enumerate(index_K):
        found = index >= 0
        row = objects_P[index] if found else -1
        logit = float(sky["logit"][row]) if found else None
        rows.append(
            {
                "id": str(lenses["id"][k]),
                "ra": float(lenses["ra"][k]),
                "dec": float(lenses["dec"][k]),
                "object_id": str(sky["id"][row]) if found else None,
                "separation_arcsec": float(separation_arcsec_K[k]) if found else None,
                "rank": int(rank_P[index]) if found else None,
                "logit": logit,
                "above": logit is not None and cut is not None and logit > cut,
            }
        )
    rows.sort(key=lambda row: (row["rank"] is None, row["rank"] or 0, row["id"]))
    return {
        "radius_arcsec": KNOWN_RADIUS_ARCSEC,
        "n": len(rows),
        "n_targets": sum(row["rank"] is not None for row in rows),
        "n_above": sum(row["above"] for row in rows),
        "rows": rows,
    }


def _add_pictures(
    path: Path, rows: list[dict[str, Any]], pictures: list[bytes | None]
) -> tuple[str, ...]:
    """Thumbnails of the rows, appended to ``pictures``; each row learns its stamp's width."""
    stamps, width_arcsec, bands = inputs.read_stamps(path, [row["id"] for row in rows])
    for row, stamp in zip(rows, stamps, strict=True):
        row["stamp_arcsec"] = width_arcsec
        pictures.append(None if stamp is None else thumbnails.png(thumbnails.colour_image(stamp)))
    return bands


def _bands(sky: Mapping[str, Any], stamp_bands: Sequence[str]) -> list[str]:
    """Bands with magnitudes: those of the stamps in their order, blue to red, then any others."""
    listed = [name.removeprefix("mag_") for name in sky if name.startswith("mag_")]
    first = [band for band in stamp_bands if band in listed]
    return first + [band for band in listed if band not in first]


def _write(path: Path, content: bytes) -> Path:
    with runs.commit(path) as temporary:
        temporary.write_bytes(content)
    return path


def _write_tables(folder: Path, table: Mapping[str, NDArray[Any]]) -> list[Path]:
    """Candidates as Parquet, FITS, ECSV and DS9 regions; each in the text that it can carry."""
    text = [name for name, values in table.items() if values.dtype == object]
    paths = [folder / f"candidates.{suffix}" for suffix in ("parquet", "fits", "ecsv", "reg")]
    tables.write_columns(paths[0], table)
    # FITS text is ASCII.
    ascii_only = {
        name: np.array(
            [value.encode("ascii", "backslashreplace").decode() for value in table[name]], object
        )
        for name in text
    }
    tables.write_astropy(paths[1], {**table, **ascii_only}, "fits")
    cells = {
        name: np.array([candidates.safe_cell(value) for value in table[name]], object)
        for name in text
    }
    tables.write_astropy(paths[2], {**table, **cells}, "ascii.ecsv")
    placed = np.isfinite(table["ra"]) & np.isfinite(table["dec"])
    labels = [f"{rank} {name}" for rank, name in zip(table["rank"], table["id"], strict=True)]
    regions = candidates.ds9_regions(
        table["ra"][placed], table["dec"][placed],
        [label for label, there in zip(labels, placed, strict=True) if there],
        _REGION_RADIUS_ARCSEC,
    )  # fmt: skip
    _write(paths[3], regions.encode())
    return paths


def _receipt(scores: Mapping[str, Mapping[str, NDArray[Any]]]) -> Receipt:
    """Rows read, with and without a score."""
    planned = sum(len(columns["logit"]) for columns in scores.values())
    scored = sum(int(np.isfinite(columns["logit"]).sum()) for columns in scores.values())
    return Receipt(planned, scored, 0, planned - scored)
