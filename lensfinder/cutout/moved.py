"""Targets that belong to another tile than they did when a folder was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensfinder import shards, tables
from lensfinder.errors import MismatchError
from lensfinder.fingerprints import fingerprint
from lensfinder.runs import Run
from lensfinder.units import Unit

if TYPE_CHECKING:
    from lensfinder.cutout.planning import Job, Plan


def refuse_moved(run: Run, plan: Plan, jobs: Sequence[Job], units: Sequence[Unit]) -> None:
    """Refuse finished products that hold other targets than now planned, and say which moved.

    A tile that was added since takes over the targets that lie nearer to its centre.

    Raises
    ------
    MismatchError
        Unless ``--force`` was given.
    """
    if run.execution.force and not run.execution.finish_only:
        return
    moved = [
        (job, unit)
        for job, unit in zip(jobs, units, strict=True)
        if unit.product.exists() and _only_targets_differ(unit)
    ]
    if not moved:
        return
    owner = plan.ownership.owner_N
    now = {
        name: plan.tiles[t].name
        for name, t in zip(plan.targets["id"].tolist(), owner.tolist(), strict=True)
        if t >= 0
    }
    gone: Counter[str] = Counter()
    new = 0
    for job, unit in moved:
        before, wanted = set(_ids(unit.product)), set(job.targets["id"].tolist())
        gone.update(now.get(name, "") for name in before - wanted)
        new += len(wanted - before)
    said = [
        f"{count} now belong to {tile}" if tile else f"{count} are not listed or selected any more"
        for tile, count in gone.most_common(3)
    ]
    if new:
        said.append(f"{new} came to them")
    more = f" (and {len(moved) - 1} more)" if len(moved) > 1 else ""
    raise MismatchError(
        f"{moved[0][1].product}{more} was made for other targets: "
        + ("; ".join(said) or "the same ones, with other positions or magnitudes"),
        "the tiles and the catalogue that the folder was begun with",
        f"--force makes {'these' if more else 'it'} again and keeps all others; or choose another "
        "folder with -o.",
    )


def _only_targets_differ(unit: Unit) -> bool:
    stored = _made_from(unit.product)
    if stored is None or "targets" not in stored or fingerprint(stored) == unit.fingerprint:
        return False
    return fingerprint({**stored, "targets": unit.ingredients["targets"]}) == unit.fingerprint


def _made_from(product: Path) -> dict[str, Any] | None:
    if product.suffix == ".parquet":
        return (tables.read_metadata(product) or {}).get("ingredients")
    return shards.made_from(product)


def _ids(product: Path) -> list[str]:
    if product.suffix == ".parquet":
        return list(tables.read_columns(product, ["id"])["id"])
    with shards.read(product) as shard:
        return list(shard.ledger["id"])
