"""What the report stage writes: tables, figures, the page and the numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, tables
from lensfinder.commit import commit, sha256_of, write_json
from lensfinder.errors import RequestError
from lensfinder.report import (
    bandpixels,
    calibration,
    candidates,
    document,
    illustrate,
    inputs,
    known,
    measure,
    metrics,
    page,
)
from lensfinder.report import sky as unlabelled
from lensfinder.units import Receipt, Unit

REPORT = "report.json"
PAGE = "index.html"
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
    inputs.check_one_scoring(task["files"])
    for columns in scores.values():
        # The same 64 letters in each of a million rows.
        del columns["model_id"]
    leakage = inputs.check_no_leakage(scores["mocks"])
    seed, prevalence = unit.ingredients["seed"], keys["prevalence"]
    weights = keys["sky_fraction"] or inputs.sky_fraction_of(scores["mocks"])
    if not np.isin(scores["mocks"]["label"], (0, 1)).any():
        raise RequestError(
            "none of the scores has a label", "scores of mocks, or of labelled stamps",
            "Give those, and scores of the sky beside them with --sky.",
        )  # fmt: skip
    measured, used = measure.measure_labelled(
        scores["mocks"], fprs=keys["fpr"], prevalence=prevalence, seed=seed,
        sky_fraction=weights, **_KEPT_OUT,
    )  # fmt: skip
    calibrated = inputs.calibration_of([Path(path) for path in task["files"]["mocks"]])

    sky = listed = matched = left = None
    above: list[dict[str, Any]] = []
    stamps: list[bandpixels.CodedStamp | None] = []
    stamp_bands: Sequence[str] = ()
    if "sky" in scores:
        left = inputs.not_kept([Path(path) for path in task["files"]["sky"]], scores["sky"])
        sky = unlabelled.measure_sky(
            scores["sky"], measured, used, prevalence=prevalence,
            per_hour=keys["inspect_per_hour"], hours=keys["inspect_hours"],
            area_deg2=keys["area_deg2"], seed=seed, not_kept=left, **_KEPT_OUT,
        )  # fmt: skip
        ranked_R = _ranked(scores["sky"])
        cut = measured.operating_logit
        if task["known"]:
            lenses = inputs.read_known(Path(task["known"]))
            matched = known.cross_match(
                lenses, scores["sky"], ranked_R, cut, left.keep_above if left else None
            )
        above, rows = _listed(scores["sky"], ranked_R, cut, keys["name_prefix"], matched)
        _add_probabilities(above if len(above) > len(rows) else rows, calibrated, prevalence)
        stamps = [None] * len(rows)
        if task["stamps"]:
            stamps, stamp_bands = _coded(Path(task["stamps"]), rows)
        listed = {"n_above": len(above), "rows": rows}

    histograms = metrics.histograms(
        _logits(measured, used, scores.get("sky")), {"sky": left.scored} if left else {}
    )
    content = document.build(
        measured=measured,
        sky=sky,
        leakage=leakage,
        histograms=histograms,
        candidates=listed,
        known=matched,
        simulated=not np.isin(
            scores["mocks"].get("kind", np.array([""])), ("", *schema.GRADED_KINDS)
        ).all(),
        settings={
            "model_id": model_id,
            "prevalence": prevalence,
            "name_prefix": keys["name_prefix"],
            "inspect_per_hour": keys["inspect_per_hour"],
            "sky_fraction": weights,
            "calibration": calibrated and asdict(calibrated),
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
    drawn = illustrate.illustrations(measured, content, histograms)

    written = [_write(folder / PAGE, page.render(content, drawn, stamps).encode())]
    written += [_write(folder / "figures" / f"{f.name}.png", f.light_png) for f in drawn]
    if sky is not None:
        written += _write_tables(folder, candidates.table(above, content["settings"]["bands"]))
    receipt = _receipt(scores)
    # Last, for it vouches for all the others.
    write_json(
        unit.product,
        {
            **content,
            "products": {path.relative_to(folder).as_posix(): sha256_of(path) for path in written},
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
    matched: Mapping[str, Any] | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All above the threshold, and those that the page shows."""
    n_above = 0 if cut is None else int(np.sum(sky["logit"][ranked_R] > cut))
    described = candidates.rows(
        sky, ranked_R, threshold=cut, n_listed=n_above or _BEST_BELOW_THRESHOLD,
        name_prefix=name_prefix, flag_names=schema.flag_names,
    )  # fmt: skip
    known_by_id = {row["object_id"]: row["id"] for row in matched["rows"]} if matched else {}
    for row in described:
        row["known"] = known_by_id.get(row["id"])
    return described[:n_above], described[:_MOST_IN_GALLERY]


def _add_probabilities(
    rows: list[dict[str, Any]], calibrated: calibration.Calibration | None, prevalence: float
) -> None:
    """Tell each row the probability of a lens at this prevalence, where the scores say how."""
    if calibrated is None or not rows:
        return
    logit_N = np.array([row["logit"] for row in rows])
    probability_N = calibration.probability_at(logit_N, calibrated, prevalence)
    for row, probability in zip(rows, probability_N, strict=True):
        row["probability"] = float(probability)


def _coded(
    path: Path, rows: list[dict[str, Any]]
) -> tuple[list[bandpixels.CodedStamp | None], tuple[str, ...]]:
    """Stamps of the rows for the page; each row learns its stamp's width."""
    stamps, width_arcsec, bands = inputs.read_stamps(path, [row["id"] for row in rows])
    for row, stamp in zip(rows, stamps, strict=True):
        row["stamp_arcsec"] = None if stamp is None else width_arcsec
    return bandpixels.encode_all(stamps), bands


def _logits(
    measured: measure.Measured, used: measure.Columns, sky: Mapping[str, NDArray[Any]] | None
) -> dict[str, NDArray[np.floating]]:
    """Logits of lenses, negatives, the sky, and of each kind where there are several."""
    is_lens_N = used["label"] == 1
    logits = {"lenses": used["logit"][is_lens_N], "negatives": used["logit"][~is_lens_N]}
    if sky is not None:
        logits["sky"] = sky["logit"][np.isfinite(sky["logit"])]
    if len(measured.kinds) > 1:
        for kind in measured.kinds:
            logits[illustrate.KIND + kind.kind] = used["logit"][
                ~is_lens_N & (used["kind"] == kind.kind)
            ]
    return logits


def _bands(sky: Mapping[str, Any], stamp_bands: Sequence[str]) -> list[str]:
    """Bands with magnitudes: those of the stamps in their order, blue to red, then any others."""
    listed = [name.removeprefix("mag_") for name in sky if name.startswith("mag_")]
    first = [band for band in stamp_bands if band in listed]
    return first + [band for band in listed if band not in first]


def _write(path: Path, content: bytes) -> Path:
    with commit(path) as temporary:
        temporary.write_bytes(content)
    return path


def _write_tables(folder: Path, table: Mapping[str, NDArray[Any]]) -> list[Path]:
    """Candidates as Parquet, FITS, VOTable, ECSV and DS9 regions, in text that each can carry."""
    suffixes = ("parquet", "fits", "ecsv", "reg", "vot")
    paths = [folder / f"candidates.{suffix}" for suffix in suffixes]
    tables.write_columns(paths[0], table)
    # A VOTable is what TOPCAT and Aladin open without a question.
    for path, form in zip(paths[1:], ("fits", "ascii.ecsv", "", "votable"), strict=True):
        if form:
            tables.write_astropy(path, table, form)
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
