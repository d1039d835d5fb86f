"""`report`: scores to thresholds, candidates and a page.

The report is one unit. Its product is ``report.json``, written last: it holds every number and
the sha256 of all that stands beside it (``index.html``, ``candidates.*``, ``figures/``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensfinder import tables
from lensfinder.commit import sha256_of, write_json
from lensfinder.config import Config
from lensfinder.errors import MismatchError, RequestError
from lensfinder.fingerprints import ingredients
from lensfinder.ledger import INDEX, close_ledger, read_index
from lensfinder.report import inputs, products
from lensfinder.runs import Run, Summary
from lensfinder.units import Receipt, Unit

_VERSION = 6


def plan(config: Config, run: Run) -> Iterator[list[Unit]]:
    """Yield the one unit.

    Raises
    ------
    RequestError
        If scores, or the model to write thresholds into, are missing.
    MismatchError
        If thresholds are to be written into another model than the one that gave the scores.
    """
    wanted = config.report
    if not wanted.scores:
        raise RequestError(
            "report was given no scores", "at least one folder of scores of labelled mocks",
            "Give the folder that `lensfinder infer` wrote for mocks or labelled stamps: without "
            "negatives there is no threshold. The sky alone is ranked in ranked.parquet.",
        )  # fmt: skip
    files = {"mocks": [path for given in wanted.scores for path in inputs.score_files(given)]}
    stamps = None
    if wanted.sky is not None:
        files["sky"] = inputs.score_files(wanted.sky)
        stamps = inputs.candidate_stamps(wanted.sky)
    if wanted.known is not None and not wanted.known.is_file():
        raise RequestError(f"no such catalogue of known lenses: {wanted.known}")
    if wanted.write_model is not None:
        # Before any work, though it is written last.
        run.notes["model"] = inputs.model_file(wanted.write_model)
        for scored in sorted({one for path in files["mocks"] for one in inputs.model_ids(path)}):
            _refuse_another(run.notes["model"], scored)
    identities = {role: [inputs.identity(path) for path in paths] for role, paths in files.items()}
    for role, found in identities.items():
        again = next((k for k, one in enumerate(found) if one in found[:k]), None)
        if again is not None:
            raise RequestError(
                f"{files[role][again]} holds scores of the {role} that were given before",
                "each table of scores once",
            )
    rows = sum(tables.rows_of(path) for paths in files.values() for path in paths)
    unit = Unit(
        stage="report",
        name="report",
        product=run.folder / products.REPORT,
        ingredients=ingredients(
            "report", _VERSION, wanted,
            seed=config.run.seed,
            stamps=stamps and inputs.identity(stamps),
            known=wanted.known and inputs.identity(wanted.known),
            **identities,
        ),
        task={
            "files": {role: [str(path) for path in paths] for role, paths in files.items()},
            "stamps": stamps and str(stamps),
            "known": wanted.known and str(wanted.known),
            "provenance": run.provenance,
        },
        planned=rows,
    )  # fmt: skip
    yield [unit]
    run.units = [unit]


def do(unit: Unit) -> Receipt:
    """Measure and write everything, ``report.json`` last.

    Raises
    ------
    MismatchError
        If the scores come from several models, or the splits leak.
    RequestError
        If an input can't be used.
    """
    return products.make(unit)


def prove(unit: Unit) -> Receipt | None:
    """Compare every product with the sha256 that ``report.json`` holds."""
    stored = _stored(unit.product)
    if stored is None:
        return None
    for name, sha256 in stored["products"].items():
        path = unit.product.parent / name
        if not path.is_file() or sha256_of(path) != sha256:
            return None
    return Receipt(**stored["receipt"])


def made_from(product: Path) -> dict[str, Any] | None:
    """Return the ingredients that a report was made from, or None if it can't be read."""
    stored = _stored(product)
    return None if stored is None else stored["ingredients"]


def _stored(product: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads(product.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(stored, dict) and {"products", "receipt", "ingredients"} <= stored.keys()
    return stored if whole else None


def finish(run: Run) -> Summary:
    """Write index and ledger; say in words what was found, and which file to open.

    Raises
    ------
    MismatchError
        If thresholds are to be written into another model than the one that gave the scores.
    """
    counts = close_ledger(run, prove)
    stored = _stored(run.folder / products.REPORT)
    lines = []
    if stored is not None and not counts["failed"]:
        lines = [*stored["summary"], f"Open {run.folder / products.PAGE}"]
        if "model" in run.notes:
            _write_thresholds(run.notes["model"], stored)
            lines.insert(-1, f"The thresholds stand in {run.notes['model']}")
    return Summary("report", run.folder, counts, lines)


def _write_thresholds(model: Path, stored: dict[str, Any]) -> None:
    """Put the report's thresholds into the model file, whose `model_id` does not change."""
    # Loads torch, which owns the checksum of the file's tensors.
    from lensfinder import checkpoint

    _refuse_another(model, stored["settings"]["model_id"])
    checkpoint.write_thresholds(
        model,
        {
            "operating_logit": stored["operating"]["logit"],
            "prevalence": stored["settings"]["prevalence"],
            "points": [
                {
                    "fpr_asked": row["fpr_asked"],
                    "logit": row["logit"],
                    "reason": row["reason"],
                    **{name: row[name] for name in ("fpr", "tpr", "sky_above", "sky_quantile")},
                }
                for row in stored["thresholds"]
            ],
        },
    )
    _tell_index(model)


def _refuse_another(model: Path, scored: str) -> None:
    from lensfinder import checkpoint

    named = checkpoint.read_header(model)["model_id"]
    if named != scored:
        raise MismatchError(
            f"{model} is model {named[:12]}", f"{scored[:12]}, whose scores set the thresholds",
            "Give the model that `lensfinder infer` was given; thresholds of an ensemble have no "
            "file to stand in.",
        )  # fmt: skip


def _tell_index(model: Path) -> None:
    """Note the changed file in the index of the run folder that it stands in, if it is in one."""
    folder = model.parent.parent
    if not (folder / INDEX).is_file():
        return
    index = read_index(folder)
    for entry in index["products"]:
        if folder / entry["product"] == model:
            entry |= {"bytes": model.stat().st_size, "sha256": sha256_of(model)}
    write_json(folder / INDEX, index)
