"""Score files in: which there are, what they hold, and whether they belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import fingerprints, schema, shards, tables
from lensfinder.commit import sha256_of
from lensfinder.errors import MismatchError, RequestError
from lensfinder.infer import histogram
from lensfinder.infer.reach import add as add_reaches
from lensfinder.ledger import products_of
from lensfinder.report.calibration import Calibration
from lensfinder.report.inspection import area_of_reach
from lensfinder.report.logits import Counted
from lensfinder.report.measure import leaking_ids
from lensfinder.report.sky import NotKept

CANDIDATE_STAMPS = "candidates.h5"
_TEXT = ("id", "tile", "kind", "split", "host_id", "source_id")
_NEEDED = {
    "mocks": ("id", "logit", "score", "flags", "label", "split", "model_id"),
    "sky": ("id", "ra", "dec", "logit", "score", "flags", "model_id"),
}


def score_files(given: Path) -> list[Path]:
    """Score tables of a folder that ``infer`` finished, or the one Parquet file given.

    Raises
    ------
    RequestError
        Where there are none.
    """
    if given.suffix == ".parquet":
        files = [given]
    else:
        files = [path for path in products_of(given, "infer") if path.suffix == ".parquet"]
    missing = [path for path in files if not path.is_file()]
    if not files or missing:
        raise RequestError(
            f"no such score file: {missing[0]}" if missing else f"{given} holds no scores",
            "the folder that `lensfinder infer` wrote, or a Parquet file of scores",
        )
    return files


def model_file(given: Path) -> Path:
    """Model file that was given, or that of a folder ``train`` finished.

    Raises
    ------
    RequestError
        Where there is none.
    """
    path = given
    if given.is_dir():
        models = [p for p in products_of(given, "train") if p.suffix == ".safetensors"]
        path = models[0] if models else given / "model.safetensors"
    if not path.is_file():
        raise RequestError(
            f"no such model: {path}", "a model file, or the folder that `lensfinder train` wrote"
        )
    return path


def model_ids(scores: Path) -> list[str]:
    """Models that gave the scores of a table; none where it does not say."""
    if "model_id" not in tables.names_of(scores):
        return []
    return sorted({str(one) for one in tables.read_columns(scores, ["model_id"])["model_id"]})


def candidate_stamps(given: Path) -> Path | None:
    """Shard of the best-ranked stamps beside the scores, or None where there is none."""
    path = (given.parent if given.suffix == ".parquet" else given) / CANDIDATE_STAMPS
    return path if path.is_file() else None


def identity(path: Path) -> str:
    """What a file holds, whatever its name: the fingerprint it was made with, else its sha256.

    A product made again from the same ingredients differs in the command and versions that it
    records, and is the same all the same.
    """
    if path.suffix == ".h5":
        made_from = shards.made_from(path)
    elif path.suffix == ".parquet":
        made_from = (tables.read_metadata(path) or {}).get("ingredients")
    else:
        made_from = None
    return fingerprints.fingerprint(made_from) if made_from else sha256_of(path)


def read_scores(paths: Sequence[Path], role: str) -> dict[str, NDArray[Any]]:
    """Stack score tables, with text as fixed-width strings; labelled rows of no split are test.

    Parameters
    ----------
    paths : sequence of Path
        Parquet files.
    role : str
        ``mocks`` or ``sky``: it decides which columns must be there.

    Raises
    ------
    RequestError
        Where a column is missing, or an id stands twice on the sky.
    """
    parts = []
    for path in paths:
        part = tables.read_columns(path)
        missing = [name for name in _NEEDED[role] if name not in part]
        if missing:
            raise RequestError(
                f"{path} has no column {', '.join(missing)}", "scores that `lensfinder infer` wrote"
            )
        limit = (tables.read_metadata(path) or {}).get("keep_above")
        if limit is not None and role == "mocks":
            raise RequestError(
                f"{path} holds only the mocks with a logit above {limit:g}",
                "the scores of all mocks, since rates are shares of all of them",
                "Run `lensfinder infer` on the mocks without --keep-above.",
            )
        parts.append(part)
    columns = tables.concatenate(parts)
    n = len(columns["id"])
    for name in _TEXT:
        columns[name] = columns[name].astype(str) if name in columns else np.full(n, "")
    if role == "mocks":
        # Labelled stamps of one's own have no split: no model was trained on them, so they test.
        own_N = (columns["split"] == "") & np.isin(columns["label"], (0, 1))
        columns["split"] = np.where(own_N, "test", columns["split"])
    if role == "sky":
        for name in ("x", "y"):
            columns.setdefault(name, np.full(n, np.nan))
        ids, counts = np.unique(columns["id"], return_counts=True)
        if n and counts.max() > 1:
            raise RequestError(
                f"the sky's scores hold the id '{ids[counts.argmax()]}' {counts.max()} times",
                "one row for each object",
            )
    return columns


def not_kept(paths: Sequence[Path], columns: Mapping[str, NDArray[Any]]) -> NotKept | None:
    """Read what ``infer --keep-above`` says of the objects that it counted without keeping them.

    Parameters
    ----------
    paths : sequence of Path
        Of the sky's scores.
    columns : mapping of str to arrays of shape (N,)
        ``logit`` and ``flags`` of the objects that were kept.

    Returns
    -------
    NotKept or None
        None where all objects were kept.

    Raises
    ------
    RequestError
        If the files do not agree, or do not tell.
    """
    stored = [tables.read_metadata(path) or {} for path in paths]
    limits = {one.get("keep_above") for one in stored}
    if limits == {None}:
        return None
    if len(limits) > 1 or not all("reach" in one and "histogram" in one for one in stored):
        given = ", ".join(sorted(map(str, limits)))
        raise RequestError(
            f"the sky's scores were not all written with one --keep-above ({given})",
            "scores of one run of this version",
            "Run `lensfinder infer` again, with --force.",
        )
    (limit,) = limits
    # As numpy compares it with float32 logits.
    limit = float(np.float32(limit))
    whole = histogram.add([one["histogram"] for one in stored])
    seen = (columns["flags"] & schema.FLAG_SEEN_IN_TRAINING) != 0
    adapted = ((columns["flags"] & schema.FLAG_ADAPTED) != 0) & ~seen
    kept = histogram.histogram(columns["logit"], ~seen & ~adapted)
    left = {
        name: Counted.of(whole, np.array(whole[name]) - _aligned(kept, name, whole), limit)
        for name in ("scored", "clean")
    }
    scored = np.isfinite(columns["logit"])
    return NotKept(
        keep_above=limit,
        **left,
        n_seen_in_training=sum(o["seen_in_training"] for o in stored) - int((seen & scored).sum()),
        n_adapted=sum(o["adapted"] for o in stored) - int((adapted & scored).sum()),
        area=area_of_reach(add_reaches([one["reach"] for one in stored])),
    )


def _aligned(part: Mapping[str, Any], name: str, whole: Mapping[str, Any]) -> NDArray[np.int64]:
    """Counts of `part` in the bins of `whole`, which holds it."""
    counts = np.zeros(len(whole[name]), np.int64)
    start = part["first"] - whole["first"]
    if any(part[name]):
        counts[start : start + len(part[name])] = part[name]
    return counts


def calibration_of(paths: Sequence[Path]) -> Calibration | None:
    """Read the model's calibration, which ``infer`` writes beside the scores; None without it."""
    stored = (tables.read_metadata(paths[0]) or {}).get("calibration")
    if stored is None or not 0.0 < stored["training_prevalence"] < 1.0:
        return None
    return Calibration(**stored)


def read_known(path: Path) -> dict[str, NDArray[Any]]:
    """Read published lenses: ``id``, ``ra``, ``dec``, and ``grade`` and ``type`` where given.

    Lists put together from many papers repeat names and have long ones; positions alone must be
    right here.

    Raises
    ------
    RequestError
        If the file can't be read or a position is none.
    """
    return tables.read_positions(path, {"grade": ("grade", "grading"), "type": ("type",)})


def sky_fraction_of(columns: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Share of each kind of negative on the sky as the recipe gave it to its mocks, or nothing."""
    if "sky_fraction" not in columns:
        return {}
    known = np.isfinite(columns["sky_fraction"].astype(np.float64))
    pairs = zip(columns["kind"][known], columns["sky_fraction"][known], strict=True)
    found = {(str(kind), float(share)) for kind, share in pairs}
    # Recipes that don't agree say nothing together.
    return dict(sorted(found)) if len({kind for kind, _ in found}) == len(found) else {}


def check_one_model(tables_by_role: Mapping[str, Mapping[str, NDArray[Any]]]) -> str:
    """Return the one model that gave all the scores.

    Raises
    ------
    MismatchError
        Where there are several: a threshold of one says nothing about another's scores.
    """
    models = {
        str(model): role
        for role, columns in tables_by_role.items()
        for model in sorted(set(columns["model_id"]))
    }
    if len(models) > 1:
        listed = ", ".join(f"{model[:12]} ({role})" for model, role in models.items())
        raise MismatchError(
            f"the scores come from {len(models)} models: {listed}",
            "one model for mocks and sky",
            "Run `lensfinder infer` on both with the same model.",
        )
    return next(iter(models), "")


def check_one_scoring(files_by_role: Mapping[str, Sequence[str]]) -> None:
    """Refuse scores that one model gave in several ways.

    Raises
    ------
    MismatchError
        A threshold of one view says nothing about the mean of eight.
    """
    found: dict[tuple[Any, ...], str] = {}
    for role, paths in files_by_role.items():
        for path in paths:
            about = (tables.read_metadata(Path(path)) or {}).get("ingredients", {}).get("infer")
            if about is not None:
                found.setdefault((about.get("views"), about.get("precision")), role)
    if len(found) > 1:
        listed = ", ".join(
            f"--views {views} --precision {precision} ({role})"
            for (views, precision), role in found.items()
        )
        raise MismatchError(
            f"the scores were made in {len(found)} ways: {listed}",
            "one for mocks and sky",
            "Run `lensfinder infer` on both with the same options.",
        )


def check_no_leakage(mocks: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Refuse scores whose training and test splits share a host or a source.

    Returns
    -------
    dict
        ``n_train`` and ``n_test`` objects, and how many hosts and sources of the test split were
        looked for in the training split: with no training objects nothing could be found.

    Raises
    ------
    MismatchError
        With the ids.
    """
    is_train, is_test = mocks["split"] == "train", mocks["split"] == "test"
    found: dict[str, Any] = {"n_train": int(is_train.sum()), "n_test": int(is_test.sum())}
    for name, what in (("host_id", "host galaxies"), ("source_id", "sources")):
        shared = leaking_ids(mocks, name)
        if len(shared):
            listed = ", ".join(f"'{value}'" for value in shared[:3])
            raise MismatchError(
                f"{len(shared)} {what} stand in the train and the test split: {listed}",
                "splits that share none (leakage makes every figure too good)",
                "Simulate the mocks again; `lensfinder simulate` splits hosts and sources first.",
            )
        ids = np.unique(mocks[name][is_test])
        found[f"n_{name.removesuffix('_id')}s"] = int(np.sum(ids != ""))
    return found


def read_stamps(
    path: Path, ids: Sequence[str]
) -> tuple[list[NDArray[np.float32] | None], float, tuple[str, ...]]:
    """Stamps of these objects, joined by id.

    Parameters
    ----------
    path : Path
        A shard.
    ids : sequence of str
        Objects wanted.

    Returns
    -------
    stamps : list of float32 arrays of shape (band, y, x) in nJy, or None
        In the order of ``ids``; None where the shard does not hold the object.
    width_arcsec : float
        Side of a stamp.
    bands : tuple of str
        In the order of the band axis.
    """
    with shards.read(path) as shard:
        row_of = {str(name): row for row, name in enumerate(shard.catalog["id"])}
        stamps = [shard.image[row_of[name]] if name in row_of else None for name in ids]
        width_arcsec = shard.size * shard.header.pixel_scale_arcsec
        return stamps, width_arcsec, shard.header.bands
