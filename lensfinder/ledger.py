"""Index and ledger: what a run folder holds, and what became of every target."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lensfinder import schema, tables
from lensfinder.commit import sha256_of, write_json
from lensfinder.errors import RequestError
from lensfinder.runs import RUN, Run
from lensfinder.units import Receipt, Unit

INDEX = "index.json"
LEDGER = "ledger.parquet"


def close_ledger(
    run: Run,
    prove: Callable[[Unit], Receipt | None],
    outcomes: Callable[[Unit], Mapping[str, Sequence[str]]] | None = None,
    planned_ids: Callable[[Unit], Sequence[str]] | None = None,
) -> dict[str, int]:
    """Write index and ledger, and assert that no target is unaccounted for.

    Parameters
    ----------
    run : Run
        With `run.units` complete.
    prove : callable
        The stage's.
    outcomes : callable, optional
        Reads ``id``, ``outcome`` and ``reason`` of every target back from a unit's product.
    planned_ids : callable, optional
        The ids of a unit that has no product.

    Returns
    -------
    dict
        planned, ok, flagged, rejected, failed.

    Raises
    ------
    AssertionError
        If planned differs from the sum of the outcomes: a bug.
    """
    counts = dict.fromkeys(("planned", *schema.OUTCOMES), 0)
    entries: list[dict[str, Any]] = []
    ledger: dict[str, list[str]] = {name: [] for name in ("id", "unit", "outcome", "reason")}
    rows: Mapping[str, Sequence[str]]
    for unit in run.units:
        receipt = prove(unit) if unit.product.exists() else None
        counts["planned"] += unit.planned
        if receipt is None:
            failure = run.recorded_failure(unit)
            run.failures.setdefault(unit.name, failure)
            counts["failed"] += unit.planned
            ids = list(planned_ids(unit)) if planned_ids else []
            rows = {
                "id": ids,
                "outcome": ["failed"] * len(ids),
                "reason": [failure.reason] * len(ids),
            }
        else:
            for name in ("ok", "flagged", "rejected"):
                counts[name] += getattr(receipt, name)
            entries.append(
                {
                    "unit": unit.name,
                    "stage": unit.stage,
                    "product": unit.product.relative_to(run.folder).as_posix(),
                    "fingerprint": unit.fingerprint,
                    "bytes": unit.product.stat().st_size,
                    **receipt.counts,
                }
            )
            rows = outcomes(unit) if outcomes else {"id": [], "outcome": [], "reason": []}
        for name, values in rows.items():
            ledger[name].extend(values)
        ledger["unit"].extend([unit.name] * len(rows["id"]))
    # Hashing is most of the work here, and leaves the interpreter to the other threads.
    unhashed = [entry for entry in entries if not run.digests.get(entry["unit"])]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        products = [run.folder / entry["product"] for entry in unhashed]
        for entry, digest in zip(unhashed, pool.map(sha256_of, products), strict=True):
            entry["sha256"] = digest
    for entry in entries:
        entry["sha256"] = run.digests.get(entry["unit"]) or entry["sha256"]
    total = sum(counts[name] for name in schema.OUTCOMES)
    assert counts["planned"] == total, f"{counts['planned']} targets planned, {total} accounted for"
    index = {"stage": run.stage, "counts": counts, "products": entries}
    if "selection" in run.notes:
        index["selection"] = run.notes["selection"]
    write_json(run.folder / INDEX, index)
    tables.write_columns(run.folder / LEDGER, ledger)
    for path in (run.folder / "failures").glob("*.json"):
        if path.stem not in run.failures:
            path.unlink(missing_ok=True)  # of a unit that is no longer planned
    return counts


def read_index(folder: Path) -> dict[str, Any]:
    """Read a finished run's index.

    Raises
    ------
    RequestError
        If `folder` is no run folder, or its stage has not finished.
    """
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text())
        if not isinstance(index, dict) or not {"stage", "products"} <= set(index):
            raise ValueError("it is no index")
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            raise RequestError(f"no such folder: {folder}") from None
        stage = "a stage" if not (folder / RUN).exists() else "the stage that began there"
        raise RequestError(
            f"{folder} holds no {INDEX}",
            f"a folder that {stage} has finished",
            "Run the command that writes it, or see `lensfinder status`.",
        ) from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder / INDEX} can't be read: {error}") from error
    return index


def products_of(folder: Path, stage: str | None = None) -> list[Path]:
    """List the products that stand in a run's index, in order."""
    index = read_index(folder)
    if stage is not None and index["stage"] != stage:
        raise RequestError(f"{folder} was written by {index['stage']}", f"a folder of {stage}")
    return [folder / entry["product"] for entry in index["products"]]
