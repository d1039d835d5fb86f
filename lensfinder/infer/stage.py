"""`infer`: score shards, or the targets of tiles straight away.

A unit is a shard, or a tile with the targets it owns; its product is a Parquet file with a row for
every target. Streaming from tiles writes no stamps but those of the best candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, shards, survey, tables, tiles
from lensfinder.config import Config
from lensfinder.cutout import planning
from lensfinder.cutout.extract import extract
from lensfinder.errors import MismatchError, RequestError
from lensfinder.ledger import INDEX, close_ledger, products_of, read_index
from lensfinder.runs import Receipt, Run, Summary, Unit, fingerprint, ingredients
from lensfinder.survey import Survey
from lensfinder.tiles import TileFiles

_VERSION = 2
CANDIDATES = "candidates.h5"


def plan(config: Config, run: Run) -> Iterator[list[Unit]]:
    """Yield a unit for each shard, or for each tile after its detection."""
    from lensfinder import checkpoint

    section = config.infer
    if section.model is None:
        raise RequestError("no model given", "--model with a model file or the folder of `train`")
    model_path = _model_file(section.model)
    spec_of = checkpoint.load(model_path)
    run.notes["model"] = {"path": str(model_path), "model_id": spec_of.model_id}
    if not section.inputs:
        raise RequestError("nothing to score", "cutout or mock folders, shards, or FITS tiles")
    found = [_shards_in(path) for path in section.inputs]
    if all(listed is not None for listed in found):
        paths = [path for listed in found for path in listed or []]
        units = [unit for unit in _shard_units(run.share(paths), run, spec_of) if unit.planned]
        yield units
        run.units += units
    elif any(found):
        raise RequestError("shards and tiles in one call", "one kind of input")
    else:
        yield from _plan_tiles(config, run, spec_of)


def _model_file(path: Path) -> Path:
    if path.is_dir():
        listed = [p for p in products_of(path, "train") if p.suffix == ".safetensors"]
        if not listed:
            raise RequestError(f"{path} holds no finished model", "a folder that `train` finished")
        return listed[0]
    return path


def _shards_in(path: Path) -> list[Path] | None:
    """List the shards an input stands for; None if it is something else."""
    if path.is_dir():
        if not (path / INDEX).exists():
            return None
        if read_index(path)["stage"] not in ("cutout", "simulate"):
            raise RequestError(f"{path} holds no stamps", "a folder of cutout or simulate")
        return products_of(path)
    return [path] if path.suffix in (".h5", ".hdf5") else None


def _keys(run: Run) -> dict[str, Any]:
    return {"views": run.config.infer.views}


def _shard_units(paths: Sequence[Path], run: Run, model: Any) -> Iterator[Unit]:
    names = [path.stem for path in paths]
    for number, path in enumerate(paths):
        with shards.read(path) as shard:
            model.check_compatible(
                shard.header.bands,
                shard.header.pixel_scale_arcsec,
                shard.size,
                shard.header.stretched,
            )
            made_from = fingerprint(shard.header.ingredients)
            planned = int(_chosen(shard.catalog["split"], run.config.infer.splits).sum())
        name = path.stem if names.count(path.stem) == 1 else f"{path.stem}.{number}"
        yield Unit(
            stage="infer",
            name=name,
            product=run.product(f"{name}.parquet"),
            ingredients=ingredients(
                "infer",
                _VERSION,
                {**_keys(run), "splits": sorted(run.config.infer.splits)},
                shard=made_from,
                model_id=model.model_id,
            ),
            task={**_task(run), "shard": str(path), "splits": run.config.infer.splits},
            planned=planned,
        )


def _chosen(split: NDArray[Any], splits: Sequence[str]) -> NDArray[np.bool_]:
    """Rows of the asked splits; the sky has none and is always scored."""
    return np.isin(split.astype(str), ["", *splits])


def _task(run: Run) -> dict[str, Any]:
    return {
        **run.notes["model"],
        "views": run.config.infer.views,
        "batch_size": run.config.infer.batch_size,
        "provenance": run.provenance,
    }


def _plan_tiles(config: Config, run: Run, model: Any) -> Iterator[list[Unit]]:
    section = config.infer
    this = survey.load(config.run.survey)
    # The model knows what stamps it takes; only a wish that contradicts it is worth an error.
    bands = section.bands or model.spec.bands
    size = section.size if "size" in section.model_fields_set else model.spec.size
    model.check_compatible(bands, this.pixel_scale_arcsec, size)
    section = section.model_copy(update={"size": size, "bands": bands})
    bands = this.choose_bands(bands)
    targets = yield from planning.plan_targets(section, run, section.inputs, this, bands)

    def unit_of(job: planning.Job) -> Unit:
        keys = {**_keys(run), "size": size, "bands": list(bands)}
        keys["max_bad_fraction"] = section.max_bad_fraction
        return Unit(
            stage="infer",
            name=job.name,
            product=run.product(f"{job.name}.parquet"),
            ingredients=ingredients(
                "infer",
                _VERSION,
                keys,
                survey=planning.meaning(this),
                model_id=model.model_id,
                **job.inputs,
            ),
            task={
                **_task(run),
                "tile": job.files.name,
                "paths": planning.plain_paths(job.files),
                "targets": job.targets,
                "survey": this.model_dump(mode="json"),
            },
            planned=len(job.rows),
        )

    yield from targets.waves(run, unit_of)


def do(unit: Unit) -> Receipt:
    """Score one unit's targets, or detect them."""
    if unit.ingredients["stage"] == "detection":
        return planning.detect_unit(unit)
    import torch

    from lensfinder import parallel
    from lensfinder.infer.score import score
    from lensfinder.infer.statistics import stamp_statistics

    task = unit.task
    torch.set_num_threads(parallel.threads())
    model = _model(task["path"], task["model_id"])
    image, mask, columns = _stamps(unit)
    scored = columns["outcome"] != schema.REJECTED
    logit = np.full(len(scored), np.nan, np.float32)
    logit[scored] = score(
        model, image[scored], mask[scored], batch_size=task["batch_size"], views=task["views"]
    )
    lost = scored & ~np.isfinite(logit)
    columns["outcome"][lost], columns["reason"][lost] = schema.REJECTED, "no_finite_logit"
    logit[lost] = np.nan
    columns["logit"], columns["score"] = logit, model.scores(logit)
    seen = model.seen_in_training(columns["ra"], columns["dec"])
    columns["flags"] = columns["flags"] | np.where(seen, schema.FLAG_SEEN_IN_TRAINING, 0).astype(
        np.int32
    )
    columns["model_id"] = np.full(len(logit), task["model_id"], dtype=object)
    columns |= stamp_statistics(image, mask, model.spec.bands)
    tables.write_columns(
        unit.product,
        columns,
        {
            "ingredients": unit.ingredients,
            "provenance": task["provenance"],
            # What turns a logit into a probability where lenses are rarer.
            "calibration": {
                "temperature": model.temperature,
                "training_prevalence": model.training_prevalence,
            },
        },
    )
    return _count(columns["outcome"])


@lru_cache(maxsize=1)
def _model(path: str, model_id: str) -> Any:
    """Load a model once a process.

    Raises
    ------
    MismatchError
        If the file is no longer the one the run was planned with.
    """
    from lensfinder import checkpoint

    model = checkpoint.load(Path(path))
    if model.model_id != model_id:
        raise MismatchError(
            f"{path} is now model {model.model_id[:12]}", f"{model_id[:12]} as planned"
        )
    return model


def _stamps(unit: Unit) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
    """Return image_NCHW, mask_NCHW and the columns of a unit's targets, rejected ones too."""
    task = unit.task
    if "shard" in task:
        with shards.read(Path(task["shard"])) as shard:
            rows = np.flatnonzero(_chosen(shard.catalog["split"], task["splits"]))
            columns = {name: values[rows] for name, values in shard.catalog.items()}
        image = shards.memory_map(Path(task["shard"]), "image")[rows]
        mask = shards.memory_map(Path(task["shard"]), "mask")[rows]
        flags = columns["flags"]
        columns["outcome"] = np.where(flags != 0, schema.FLAGGED, schema.OK).astype(object)
        columns["reason"] = np.array(
            ["+".join(schema.flag_names(int(f))) for f in flags], dtype=object
        )
        return image, mask, columns
    this, keys = Survey.model_validate(task["survey"]), unit.ingredients["infer"]
    files = TileFiles(task["tile"], planning.from_plain(task["paths"]))
    with tiles.open_tile(files, this, tuple(keys["bands"])) as tile:
        stamps = extract(
            tile,
            task["targets"],
            keys["size"],
            pixel_scale_arcsec=this.pixel_scale_arcsec,
            max_bad_fraction=keys["max_bad_fraction"],
        )
    columns = {**stamps.columns, "outcome": stamps.outcome, "reason": stamps.reason}
    return stamps.image_NCHW, stamps.mask_NCHW, columns


def _count(outcome: NDArray[Any]) -> Receipt:
    return Receipt(len(outcome), *(int((outcome == name).sum()) for name in schema.OUTCOMES[:3]))


def prove(unit: Unit) -> Receipt | None:
    """Open the product: schema, rows and fingerprint must be right."""
    stored = made_from(unit.product)
    if stored is None or fingerprint(stored) != unit.fingerprint:
        return None
    if unit.product.parent.name == "targets":
        return Receipt(0, 0)
    try:
        receipt = _count(tables.read_columns(unit.product, ["outcome"])["outcome"])
    except RequestError:
        return None
    return receipt if receipt.closed and receipt.planned == unit.planned else None


def made_from(product: Path) -> dict[str, Any] | None:
    """Return the ingredients a product was made from, or None if it can't be read."""
    return (tables.read_metadata(product) or {}).get("ingredients")


def finish(run: Run) -> Summary:
    """Write index, ledger and the stamps of the best candidates."""
    counts = close_ledger(run, prove, _outcomes, _planned_ids)
    _keep_candidates(run)
    rejected = f", {counts['rejected']} rejected" if counts["rejected"] else ""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return Summary(
        "infer",
        run.folder,
        counts,
        [f"infer: {counts['ok'] + counts['flagged']} objects scored{rejected}{failed}"],
    )


def _outcomes(unit: Unit) -> Mapping[str, Any]:
    return tables.read_columns(unit.product, ["id", "outcome", "reason"])


def _planned_ids(unit: Unit) -> Sequence[str]:
    if "targets" in unit.task:
        return list(unit.task["targets"]["id"])
    if "shard" not in unit.task:
        return []
    with shards.read(Path(unit.task["shard"])) as shard:
        chosen = _chosen(shard.catalog["split"], unit.task["splits"])
        return list(shard.catalog["id"][chosen])


def _keep_candidates(run: Run) -> None:
    """Write the stamps of the best-ranked objects of the sky as an ordinary shard.

    Pixels are read again from where they came from, so that nothing but scores is written while
    a survey streams by.
    """
    scored = [unit for unit in run.units if unit.product.exists()]
    ranked = []
    for number, unit in enumerate(scored):
        columns = tables.read_columns(unit.product, ["id", "ra", "logit"])
        sky = np.isfinite(columns["ra"]) & np.isfinite(columns["logit"])
        ranked += [
            (-float(columns["logit"][row]), str(columns["id"][row]), number, int(row))
            for row in np.flatnonzero(sky)
        ]
    best = sorted(ranked)[: run.config.infer.candidates]
    path = run.folder / CANDIDATES
    if not best:
        path.unlink(missing_ok=True)
        return
    pieces: list[tuple[list[int], NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]] = []
    for number in sorted({entry[2] for entry in best}):
        places = [place for place, entry in enumerate(best) if entry[2] == number]
        rows = [best[place][3] for place in places]
        image, mask, columns = _stamps(scored[number])
        pieces.append((places, image[rows], mask[rows], {n: v[rows] for n, v in columns.items()}))
    order = np.argsort(np.concatenate([piece[0] for piece in pieces]))
    columns = tables.concatenate([piece[3] for piece in pieces])
    model = _model(*run.notes["model"].values())
    shards.write(
        path,
        shards.Header(
            stage="infer",
            survey=run.config.run.survey,
            bands=model.spec.bands,
            pixel_scale_arcsec=model.spec.pixel_scale_arcsec,
            ingredients={"units": [unit.fingerprint for unit in scored]},
            provenance=run.provenance,
        ),
        np.concatenate([piece[1] for piece in pieces])[order],
        np.concatenate([piece[2] for piece in pieces])[order],
        {n: v[order] for n, v in columns.items() if n not in ("outcome", "reason")},
    )
