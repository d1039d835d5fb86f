"""`infer`: score shards, stamps, or the targets of tiles straight away.

A unit is a shard, a folder's stamps, or a tile with the targets it owns; its product is a Parquet
file with a row for every target. Pixels stream through the network a few stamps at a time, read
while it computes; no stamps are written but those of the best candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, tables
from lensfinder.config import Config
from lensfinder.cutout import planning as targets
from lensfinder.errors import RequestError, counted
from lensfinder.fingerprints import fingerprint
from lensfinder.infer import histogram, products
from lensfinder.infer.ahead import ahead
from lensfinder.infer.inputs import Chunk, planned_ids, stream
from lensfinder.infer.reach import reach
from lensfinder.ledger import close_ledger
from lensfinder.runs import Run, Summary
from lensfinder.units import Receipt, Unit

if TYPE_CHECKING:
    from lensfinder.infer.ensemble import Ensemble
    from lensfinder.infer.score import Scorer

# Stamps read at a time: enough to hide the reading, few enough to forget about their memory.
_CHUNK = 64
# So many of a unit have their noise compared with that of the training stamps.
_COMPARED = 64


def plan(config: Config, run: Run) -> Iterator[list[Unit]]:
    """Yield a unit for each shard, or for each tile after its detection."""
    from lensfinder.infer.planning import plan_units

    yield from plan_units(run)


def do(unit: Unit) -> Receipt:
    """Score one unit's targets, or detect them."""
    if unit.ingredients["stage"] == "detection":
        return targets.detect_unit(unit)
    import torch

    from lensfinder import parallel
    from lensfinder.infer import forward
    from lensfinder.infer.ensemble import prepared
    from lensfinder.infer.score import Scorer

    task, keys = unit.task, unit.ingredients["infer"]
    torch.set_num_threads(parallel.threads())
    parallel.keep_buffers()
    half = keys["precision"] == "half"
    models, notices = prepared(
        tuple(task["models"]), task["model_id"], half=half, compiled=task["compiled"]
    )
    batch = min(forward.batch_size(member, task["batch_size"]) for member in models.members)
    scorer = Scorer(models.members, batch, views=keys["views"], embed=keys["embed"])
    bands, parts = models.spec.bands, []
    noise_KC: list[NDArray[np.float32]] = []
    with scorer, closing(ahead(_measured(unit, max(batch, _CHUNK), bands))) as chunks:
        for chunk, statistics in chunks:
            parts.append(_scored(chunk, models, scorer) | statistics)
            noise_KC += _noise_over_training(chunk, models, _COMPARED - len(noise_KC))
    columns = tables.concatenate(parts)
    columns["model_id"] = np.full(len(columns["id"]), task["model_id"], dtype=object)
    said = {
        "notices": [*notices, *scorer.notices],
        "noise_over_training": _typical(noise_KC, bands),
    }
    return _write(unit, models, columns, said)


def _noise_over_training(chunk: Chunk, models: Ensemble, most: int) -> list[NDArray[np.float32]]:
    """Compare the chunk's first stamps, (C,) each; nothing where the scale is no noise."""
    some = np.flatnonzero(chunk.columns["outcome"] != schema.REJECTED)[:most]
    return models.noise_over_training(chunk.image_NCHW[some], chunk.mask_NCHW[some])


def _typical(noise_KC: list[NDArray[np.float32]], bands: tuple[str, ...]) -> dict[str, float]:
    """Median in each band where there is one."""
    known = {
        band: [float(ratio) for ratio in ratios if np.isfinite(ratio)]
        for band, ratios in zip(bands, zip(*noise_KC, strict=True), strict=False)
    }
    return {band: float(np.median(ratios)) for band, ratios in known.items() if ratios}


def _measured(
    unit: Unit, rows: int, bands: tuple[str, ...]
) -> Iterator[tuple[Chunk, dict[str, NDArray[np.float32]]]]:
    from lensfinder.infer.statistics import stamp_statistics

    for chunk in stream(unit, rows):
        yield chunk, stamp_statistics(chunk.image_NCHW, chunk.mask_NCHW, bands)


def _scored(chunk: Chunk, models: Ensemble, scorer: Scorer) -> dict[str, NDArray[Any]]:
    """Return the chunk's columns with all that the models say of it."""
    columns = dict(chunk.columns)
    outcome, reason = columns["outcome"].copy(), columns["reason"].copy()
    good = outcome != schema.REJECTED
    image, mask = chunk.image_NCHW, chunk.mask_NCHW
    # A slice of everything is no copy.
    found = scorer(image, mask) if good.all() else scorer(image[good], mask[good])

    def all_rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
        filled = np.full((len(good), *values.shape[1:]), np.nan, np.float32)
        filled[good] = values
        return filled

    logit = all_rows(found.logit_N)
    lost = good & ~np.isfinite(logit)
    outcome[lost], reason[lost] = schema.REJECTED, products.NO_LOGIT
    logit[lost] = np.nan
    columns |= {"outcome": outcome, "reason": reason}
    columns |= {"logit": logit, "score": models.scores(logit)}
    if len(models.members) > 1:
        columns["logit_std"] = np.where(lost, np.nan, all_rows(found.spread_N))
    seen = models.seen_in_training(columns["ra"], columns["dec"])
    seen_flag = np.where(seen, schema.FLAG_SEEN_IN_TRAINING, 0).astype(np.int32)
    columns["flags"] = columns["flags"] | seen_flag
    if found.feature_NK is not None:
        features_NK = all_rows(found.feature_NK)
        columns |= {f"embedding_{k}": features_NK[:, k] for k in range(features_NK.shape[1])}
    return columns


def _write(
    unit: Unit, models: Ensemble, columns: dict[str, NDArray[Any]], said: Mapping[str, Any]
) -> Receipt:
    logit, rejected = columns["logit"], columns["outcome"] == schema.REJECTED
    tainted = schema.FLAG_SEEN_IN_TRAINING | schema.FLAG_ADAPTED
    receipt = _count(columns["outcome"])
    reasons, counts = np.unique(columns["reason"][rejected].astype(str), return_counts=True)
    about = {
        "ingredients": unit.ingredients,
        "provenance": unit.task["provenance"],
        # What turns a logit into a probability where lenses are rarer.
        "calibration": {
            "temperature": models.temperature,
            "training_prevalence": models.training_prevalence,
        },
        "histogram": histogram.histogram(logit, (columns["flags"] & tainted) == 0),
        "receipt": vars(receipt),
        "rejected": dict(zip(reasons.tolist(), counts.tolist(), strict=True)),
        **said,
    }
    keep_above = unit.ingredients["infer"]["keep_above"]
    if keep_above is not None:
        scored_flags = columns["flags"][np.isfinite(logit)]
        seen = (scored_flags & schema.FLAG_SEEN_IN_TRAINING) != 0
        adapted = (scored_flags & schema.FLAG_ADAPTED) != 0
        # What the report would otherwise ask of the rows.
        about |= {
            "keep_above": keep_above,
            "seen_in_training": int(seen.sum()),
            "adapted": int((adapted & ~seen).sum()),
            "reach": reach(columns),
        }
        # What has no score is listed with its reason, however low the others are.
        kept = rejected | (logit > keep_above)
        columns = {name: values[kept] for name, values in columns.items()}
    about["rows"] = len(columns["id"])
    tables.write_columns(unit.product, columns, about)
    return receipt


def _count(outcome: NDArray[Any]) -> Receipt:
    return Receipt(len(outcome), *(int((outcome == name).sum()) for name in schema.OUTCOMES[:3]))


def prove(unit: Unit) -> Receipt | None:
    """Open the product: schema, rows and fingerprint must be right."""
    stored = tables.read_metadata(unit.product) or {}
    made_of = stored.get("ingredients")
    if made_of is None or fingerprint(made_of) != unit.fingerprint:
        return None
    if unit.product.parent.name == "targets":
        return Receipt(0, 0)
    try:
        outcome = tables.read_columns(unit.product, ["outcome"])["outcome"]
        receipt = Receipt(**stored["receipt"])
    except (RequestError, KeyError, TypeError):
        return None
    whole = len(outcome) == stored.get("rows")
    if "keep_above" not in stored:
        whole = whole and _count(outcome) == receipt
    return receipt if whole and receipt.closed and receipt.planned == unit.planned else None


def made_from(product: Path) -> dict[str, Any] | None:
    """Return the ingredients a product was made from, or None if it can't be read."""
    return (tables.read_metadata(product) or {}).get("ingredients")


def finish(run: Run) -> Summary:
    """Write index, ledger, the ranked list and the stamps of the best candidates."""
    counts = close_ledger(run, prove, _outcomes, planned_ids)
    products.write_lists(run)
    rejected = f", {counts['rejected']} rejected" if counts["rejected"] else ""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    scored = counts["ok"] + counts["flagged"]
    return Summary(
        "infer",
        run.folder,
        counts,
        [
            *products.remarks(run.units),
            f"infer: {counted(scored, 'object')} scored{rejected}{failed}; best first in "
            f"{run.folder / products.RANKED}",
        ],
        # Damaged files are no one's choice, among stamps as among tiles.
        exit_code=0 if not products.damaged(run.units) else 3 if scored else 2,
    )


def _outcomes(unit: Unit) -> Mapping[str, Any]:
    return tables.read_columns(unit.product, ["id", "outcome", "reason"])
