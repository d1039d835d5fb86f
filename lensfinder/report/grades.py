"""Grades of several people for the same candidates: mean, spread, agreement, and labels.

Each file is what the page exports: columns ``id`` and ``grade``, and mostly ``grader``, ``ra`` and
``dec``. A grade is a letter or a number: A = 3 (a lens), B = 2, C = 1, X = 0 (none).
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from lensfinder import fingerprints, schema, shards, tables
from lensfinder.catalogs import from_cell, safe_cell
from lensfinder.commit import commit, write_json
from lensfinder.errors import RequestError
from lensfinder.simulate.splits import sky_cell, split_of

SCALE = {"A": 3, "B": 2, "C": 1, "X": 0, "3": 3, "2": 2, "1": 1, "0": 0}
_VALUES = (0, 1, 2, 3)
_HELD_OUT = (0.1, 0.2)  # shares of the val and test splits, as `simulate` has them by default


@dataclass(frozen=True, slots=True)
class Graded:
    """What one person said.

    Attributes
    ----------
    grader : str
        Name, or that of the file where it gives none.
    grade_of : dict of str to int
        0 to 3 for each id.
    place_of : dict of str to (float, float)
        RA and Dec in degrees of each id, NaN where the file has none.
    """

    grader: str
    grade_of: dict[str, int]
    place_of: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far people agree beyond chance; 1 is always, 0 is no more than by chance.

    Attributes
    ----------
    pairs : list of (str, str, int, float or None)
        Two graders, the objects that both graded, and Cohen's kappa with quadratic weights
        (Cohen 1968); None where it is not defined, as when both gave one grade throughout.
    fleiss : float or None
        Fleiss' kappa (1971) of the objects that everybody graded; None where there are none, or
        it is not defined.
    n_by_all : int
        Those objects.
    """

    pairs: list[tuple[str, str, int, float | None]]
    fleiss: float | None
    n_by_all: int


def read(path: Path) -> Graded:
    """Read one person's grades.

    Raises
    ------
    RequestError
        If the file can't be read, lacks a column, has a grade of another scale or an id twice.
    """
    try:
        # A byte-order mark is what spreadsheets put in front.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RequestError(
            f"no such file of grades: {path}", "a CSV that the page exported"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path} can't be read: {error}", "a CSV that the page exported"
        ) from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    missing = {"id", "grade"} - set(rows.fieldnames or ())
    if missing:
        raise RequestError(
            f"{path} has no column {', '.join(sorted(missing))}", "a CSV that the page exported"
        )
    grade_of: dict[str, int] = {}
    place_of: dict[str, tuple[float, float]] = {}
    named = set()
    for row in rows:
        name, grade = from_cell(row["id"] or ""), (row["grade"] or "").strip().upper()
        if not grade:
            continue
        where = f"{path}, line {rows.line_num}"
        if grade not in SCALE:
            raise RequestError(f"{where}: grade '{grade}'", f"one of {', '.join(SCALE)}")
        if not name or not name.isprintable():
            raise RequestError(f"{where}: the id is empty or holds control characters")
        if name in grade_of:
            raise RequestError(f"{where}: the id '{name}' stands there twice", "one grade for each")
        grade_of[name] = SCALE[grade]
        place_of[name] = (_degrees(row.get("ra")), _degrees(row.get("dec")))
        named.add(from_cell((row.get("grader") or "").strip()))
    if len(named) > 1:
        raise RequestError(
            f"{path} holds the grades of {len(named)} people", "one file for each grader"
        )
    return Graded(next(iter(named), "") or path.stem, grade_of, place_of)


def _degrees(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def merge(
    graded: Sequence[Graded], *, lens_from: float, not_lens_to: float
) -> dict[str, NDArray[Any]]:
    """One row for each object that anybody graded, the best mean grade first.

    Parameters
    ----------
    graded : sequence of Graded
        One or more people with different names.
    lens_from, not_lens_to : float
        Mean grades from which an object is labelled a lens, and up to which it is none; between
        them it stays unknown.

    Returns
    -------
    dict of arrays of shape (N,)
        ``id``, ``ra``, ``dec``, ``n_graders``, ``mean_grade``, ``spread`` (standard deviation of
        the grades, with N in the denominator), ``label``, and ``grade_<k>`` of the k-th grader
        from 1, -1 where that one gave none.

    Raises
    ------
    RequestError
        If a name stands for two graders, or the limits cross.
    """
    names = [person.grader for person in graded]
    if len(set(names)) < len(names):
        raise RequestError(
            f"two files are of one grader: {', '.join(names)}", "different graders",
            "Name the grader on the page before exporting.",
        )  # fmt: skip
    if not_lens_to >= lens_from:
        raise RequestError(
            f"a mean grade of {not_lens_to:g} or less is no lens, {lens_from:g} or more is one",
            "the first below the second",
        )
    ids = sorted({name for person in graded for name in person.grade_of})
    grade_NG = np.array(
        [[person.grade_of.get(name, -1) for person in graded] for name in ids], dtype=np.int64
    ).reshape(len(ids), len(graded))
    given_NG = np.ma.masked_less(grade_NG, 0)
    mean_N, spread_N = given_NG.mean(axis=1).filled(), given_NG.std(axis=1).filled()
    label_N = np.full(len(ids), schema.UNKNOWN, dtype=np.int8)
    label_N[mean_N >= lens_from] = schema.LENS
    label_N[mean_N <= not_lens_to] = schema.NOT_LENS
    places = [_place(name, graded) for name in ids]
    order = np.argsort(-mean_N, kind="stable")
    columns = {
        "id": np.array(ids, dtype=object),
        "ra": np.array([place[0] for place in places], dtype=np.float64),
        "dec": np.array([place[1] for place in places], dtype=np.float64),
        "n_graders": given_NG.count(axis=1).astype(np.int32),
        "mean_grade": mean_N.astype(np.float64),
        "spread": spread_N.astype(np.float64),
        "label": label_N,
    } | {f"grade_{k}": grade_NG[:, k - 1].astype(np.int8) for k in range(1, len(graded) + 1)}
    return {name: values[order] for name, values in columns.items()}


def _place(name: str, graded: Sequence[Graded]) -> tuple[float, float]:
    """First finite position that anybody's file gives."""
    places = [person.place_of[name] for person in graded if name in person.place_of]
    return next((place for place in places if np.isfinite(place).all()), (math.nan, math.nan))


def agreement(graded: Sequence[Graded]) -> Agreement:
    """Measure how far the graders agree.

    Parameters
    ----------
    graded : sequence of Graded
        One or more people.
    """
    pairs = []
    for one, other in itertools.combinations(graded, 2):
        shared = sorted(one.grade_of.keys() & other.grade_of.keys())
        first = [one.grade_of[name] for name in shared]
        second = [other.grade_of[name] for name in shared]
        kappa = None
        # Where both always say the same one thing, agreement beyond chance is 0 / 0.
        if len({*first, *second}) > 1:
            kappa = float(cohen_kappa_score(first, second, labels=_VALUES, weights="quadratic"))
        pairs.append((one.grader, other.grader, len(shared), kappa))
    by_all = set.intersection(*(set(person.grade_of) for person in graded))
    counts_NK = np.array(
        [
            [sum(person.grade_of[name] == value for person in graded) for value in _VALUES]
            for name in sorted(by_all)
        ]
    )
    return Agreement(pairs, fleiss_kappa(counts_NK) if by_all else None, len(by_all))


def fleiss_kappa(counts_NK: NDArray[np.integer]) -> float | None:
    """Agreement of several graders beyond chance (Fleiss 1971, eqs. 3 to 7).

    Parameters
    ----------
    counts_NK : int array, shape (N, K)
        How many of the graders gave object n the grade k; the same number for each object.

    Returns
    -------
    float or None
        At most 1; None for a single grader, or where all grades are the same.
    """
    n_graders = int(counts_NK[0].sum())
    if n_graders < 2:
        return None
    agreeing_N = (counts_NK * (counts_NK - 1)).sum(axis=1) / (n_graders * (n_graders - 1))
    by_chance = float(((counts_NK.sum(axis=0) / counts_NK.sum()) ** 2).sum())
    if by_chance == 1.0:
        return None
    return (float(agreeing_N.mean()) - by_chance) / (1.0 - by_chance)


def write(
    folder: Path,
    paths: Sequence[Path],
    *,
    lens_from: float,
    not_lens_to: float,
    stamps: Path | None = None,
) -> dict[str, Any]:
    """Merge files of grades into ``grades.csv``, ``labels.parquet`` and ``grades.json``.

    With `stamps`, also into ``labelled.h5``, a shard that `train` takes.

    Parameters
    ----------
    folder : Path
        Where they go.
    paths : sequence of Path
        One file for each grader.
    lens_from, not_lens_to : float
        As for `merge`.
    stamps : Path, optional
        Shard with the graded objects, such as the ``candidates.h5`` of `infer`.

    Returns
    -------
    dict
        What ``grades.json`` holds: graders, agreement and counts of labels.

    Raises
    ------
    RequestError
        If a file can't be used.
    """
    graded = [read(path) for path in paths]
    merged = merge(graded, lens_from=lens_from, not_lens_to=not_lens_to)
    agreed = agreement(graded)
    label = merged["label"]
    content = {
        "graders": [{"name": p.grader, "n": len(p.grade_of)} for p in graded],
        "n": len(label),
        "n_lenses": int(np.sum(label == schema.LENS)),
        "n_negatives": int(np.sum(label == schema.NOT_LENS)),
        "n_unknown": int(np.sum(label == schema.UNKNOWN)),
        "lens_from": lens_from,
        "not_lens_to": not_lens_to,
        "cohen_kappa": [
            {"graders": [one, other], "n": n, "kappa": kappa}
            for one, other, n, kappa in agreed.pairs
        ],
        "fleiss_kappa": agreed.fleiss,
        "n_by_all": agreed.n_by_all,
    }
    certain = label != schema.UNKNOWN
    columns = {name: merged[name][certain] for name in ("id", "ra", "dec", "label")}
    columns["kind"] = np.where(columns["label"] == schema.LENS, *schema.GRADED_KINDS)
    # First what can fail; and no stamps stay whose labels are those of another merger.
    if stamps is not None:
        content["n_labelled_stamps"] = _write_shard(folder / "labelled.h5", stamps, columns)
    else:
        (folder / "labelled.h5").unlink(missing_ok=True)
    _write_csv(folder / "grades.csv", merged)
    tables.write_columns(folder / "labels.parquet", columns, content)
    write_json(folder / "grades.json", content)
    return content


def _write_shard(path: Path, stamps: Path, labels: dict[str, NDArray[Any]]) -> int:
    """Write the stamps of labelled objects with their labels; return how many there are.

    Splits go by cell of the sky, as those of real hosts in `simulate`, so that neighbours and
    repeats of an object stay on one side.
    """
    label_of = dict(zip(labels["id"], labels["label"], strict=True))
    with shards.read(stamps) as shard:
        rows = np.flatnonzero([name in label_of for name in shard.catalog["id"]])
        if not len(rows):
            raise RequestError(
                f"{stamps} holds none of the graded objects", "the shard of the page"
            )
        catalog = {name: values[rows] for name, values in shard.catalog.items()}
        label_N = np.array([label_of[name] for name in catalog["id"]], dtype=np.int8)
        catalog |= {
            "label": label_N,
            "kind": np.where(label_N == schema.LENS, *schema.GRADED_KINDS),
            "host_id": catalog["id"],
            "split": np.array(
                [
                    split_of(sky_cell(ra, dec) if math.isfinite(ra + dec) else name, *_HELD_OUT)
                    for name, ra, dec in zip(
                        catalog["id"], catalog["ra"], catalog["dec"], strict=True
                    )
                ]
            ),
        }
        header = replace(
            shard.header,
            stage="grades",
            ingredients={
                "stage": "grades",
                "stamps": fingerprints.fingerprint(shard.header.ingredients),
                "labels": sorted((name, int(label)) for name, label in label_of.items()),
            },
        )
        shards.write(path, header, shard.image[rows], shard.mask[rows], catalog)
    return len(rows)


def _write_csv(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    with commit(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in row])
