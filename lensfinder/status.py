"""Tell how far a run is, what became of an object, and whether its products are sound."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from lensfinder import tables
from lensfinder.commit import orphans, sha256_of
from lensfinder.config import STAGES
from lensfinder.errors import RequestError, counted, nearest
from lensfinder.fingerprints import fingerprint
from lensfinder.ledger import INDEX, LEDGER, read_index
from lensfinder.runs import RUN, process
from lensfinder.units import Unit


def describe(
    folder: Path, object_id: str | None = None, *, verify: bool, deep: bool, clean: bool
) -> tuple[list[str], dict[str, Any], int]:
    """Describe a stage's folder, or each stage of a pipeline's folder.

    Parameters
    ----------
    folder : Path
    object_id : str, optional
        Tell what became of this object instead.
    verify : bool
        Open every product that the index lists.
    deep : bool
        Compare its sha256, too.
    clean : bool
        Remove temporary files of killed writers, and products that the index does not list; not
        while a run is at work on this machine.

    Returns
    -------
    lines : list of str
    content : dict
        The same for a program.
    exit_code : int
        0, 3 if units failed, 4 if a product is damaged.

    Raises
    ------
    RequestError
        If `folder` holds no run, no stage knows the object, or a run is at work there.
    """
    stages = [folder] if (folder / RUN).exists() else _in_order(folder)
    if not stages:
        raise RequestError(f"{folder} holds no run", "a folder that a command wrote")
    if object_id is not None:
        return _find_object(stages, object_id)
    lines: list[str] = []
    content: dict[str, Any] = {}
    code = 0
    for stage in stages:
        said, about = _describe_stage(stage, verify=verify, deep=deep, clean=clean)
        lines += said
        content[stage.name] = about
        code = max(code, 4 if about["damaged"] else 3 if about["failures"] else 0)
    return lines, content, code


def _in_order(folder: Path) -> list[Path]:
    """Stages of a pipeline's folder, in the order they run."""
    found = [path.parent for path in folder.glob(f"*/{RUN}")]
    return sorted(found, key=lambda path: (STAGES.index(_stage_of(path)), path.name))


def _stage_of(folder: Path) -> str:
    try:
        stage = json.loads((folder / RUN).read_text(encoding="utf-8"))["stage"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{folder / RUN} can't be read: {error}") from error
    if stage not in STAGES:
        raise RequestError(f"{folder / RUN} names the stage '{stage}'", nearest(str(stage), STAGES))
    return str(stage)


def _describe_stage(
    folder: Path, *, verify: bool, deep: bool, clean: bool
) -> tuple[list[str], dict[str, Any]]:
    stage = _stage_of(folder)
    finished = (folder / INDEX).exists()
    index = {"counts": {}, **(read_index(folder) if finished else {"products": []})}
    made = sorted(p for p in (folder / "products").glob("*") if not p.name.startswith("."))
    listed = {folder / entry["product"] for entry in index["products"]}
    stale = [path for path in made if path not in listed] if finished else []
    failures = [_failure(path) for path in sorted(folder.glob("failures/*.json"))]
    damaged = _damaged(folder, stage, index["products"], deep=deep) if verify else []
    left = orphans(folder)
    # Of a training with other options, which this folder's model did not come from.
    unused = sorted(folder.glob("states/*")) if finished else []
    about = {
        "stage": stage,
        "finished": finished,
        "products": len(listed) if finished else len(made),
        "counts": index["counts"],
        "failures": {f["unit"]: f["reason"] for f in failures},
        "damaged": damaged,
        "stale": [path.name for path in stale],
        "orphans": [path.name for path in left],
    }
    counts = ", ".join(f"{value} {name}" for name, value in index["counts"].items() if value)
    state = "finished" if finished else "not finished"
    lines = [
        f"{folder.resolve().name}: {state}, {counted(about['products'], 'product')}"
        + (f"; {counts}" * bool(counts))
    ]
    saved = [int(path.stem.removeprefix("step-")) for path in folder.glob("states/*/step-*.state")]
    if saved and not finished:
        lines.append(f"  {counted(max(saved), 'step')} of a training saved")
    lines += [f"  failed: {f['unit']} [{f['reason']}] {f['message']}" for f in failures]
    lines += [f"  damaged: {name}; run the command again to make it anew" for name in damaged]
    if verify and not damaged:
        lines.append(
            f"  {counted(len(index['products']), 'product')} proven" + " with sha256" * deep
        )
    files = counted(len(left), "temporary file")
    if unused:
        lines.append(f"  states of {counted(len(unused), 'training')} that did not end here")
    unlisted = counted(len(stale), "unlisted product")
    if clean:
        _check_idle(folder)
        for path in [*left, *stale]:
            path.unlink()
        for path in unused:
            shutil.rmtree(path, ignore_errors=True)
        named = f": {', '.join(path.name for path in stale)}" if stale else ""
        lines.append(f"  removed {files} and {unlisted}{named}")
    elif left or stale or unused:
        lines.append(f"  {files}, {unlisted} (--clean)")
    return lines, about


def _failure(path: Path) -> dict[str, Any]:
    """Read why a unit failed, or that this can't be read."""
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        return {key: told[key] for key in ("unit", "reason", "message")}
    except (OSError, ValueError, TypeError, KeyError):
        return {"unit": path.stem, "reason": "unknown", "message": f"{path} is damaged"}


def _check_idle(folder: Path) -> None:
    """Refuse to sweep while the process that announced itself still lives on this machine."""
    announced = json.loads((folder / RUN).read_text(encoding="utf-8")).get("process") or {}
    pid = announced.get("pid", 0)
    if pid != os.getpid() and announced and announced == process(pid):
        raise RequestError(
            f"{folder} can't be cleaned: a run is at work there (process {pid})",
            "a folder at rest",
            "Wait until it is done, or stop it.",
        )


def _damaged(folder: Path, stage: str, entries: list[dict[str, Any]], *, deep: bool) -> list[str]:
    module = importlib.import_module(f"lensfinder.{stage}.stage")
    bad = []
    for entry in entries:
        path = folder / entry["product"]
        if not _is_sound(module, stage, path, entry) or (
            deep and sha256_of(path) != entry["sha256"]
        ):
            bad.append(entry["product"])
    return bad


def _is_sound(module: ModuleType, stage: str, path: Path, entry: dict[str, Any]) -> bool:
    stored = module.made_from(path) if path.exists() else None
    if stored is None or fingerprint(stored) != entry["fingerprint"]:
        return False
    receipt = module.prove(Unit(stage, entry["unit"], path, stored, planned=entry["planned"]))
    return receipt is not None and all(
        entry[name] == value for name, value in receipt.counts.items()
    )


def _find_object(stages: list[Path], object_id: str) -> tuple[list[str], dict[str, Any], int]:
    lines, content = [], {}
    for stage in stages:
        if not (stage / LEDGER).exists():
            continue
        ledger = tables.read_columns(stage / LEDGER)
        for row in (ledger["id"] == object_id).nonzero()[0]:
            outcome = {name: str(ledger[name][row]) for name in ("unit", "outcome", "reason")}
            content[stage.name] = outcome
            why = f" ({outcome['reason']})" if outcome["reason"] else ""
            lines.append(f"{stage.name}: {outcome['outcome']}{why}, in {outcome['unit']}")
    if not lines:
        raise RequestError(
            f"no finished stage knows the object '{object_id}'",
            "the id of a target: one inside a tile, selected and, with --keep-above, kept",
        )
    return lines, content, 0
