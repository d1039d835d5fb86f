"""From a request to units: which model scores what, and how it must be changed to fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensfinder import shards, survey
from lensfinder.config import InferConfig
from lensfinder.cutout import planning
from lensfinder.cutout.stampjobs import plan_stamps
from lensfinder.errors import RequestError
from lensfinder.fingerprints import fingerprint, ingredients
from lensfinder.infer import adapt, ensemble
from lensfinder.infer.ensemble import Ensemble
from lensfinder.infer.inputs import chosen
from lensfinder.ledger import INDEX, products_of, read_index
from lensfinder.model import PIXEL_SCALE_TOLERANCE
from lensfinder.runs import RUN, Run
from lensfinder.units import Unit

VERSION = 6
# A tile streams by, however many targets it has; a unit is what a kill costs at most.
_TARGETS_A_UNIT = 16_384


def plan_units(run: Run) -> Generator[list[Unit], None, None]:
    """Yield waves of units: shards, stamps, or tiles after their detection.

    Raises
    ------
    RequestError
        If there is no model, or nothing to score.
    MismatchError
        If the data are not what the model was trained for.
    """
    section = run.config.infer
    if not section.model:
        raise RequestError("no model given", "--model with a model file or the folder of `train`")
    if not section.inputs:
        raise RequestError("nothing to score", "cutout or mock folders, shards, or FITS tiles")
    paths = [file for path in section.model for file in model_files(path)]
    if section.embed and len(paths) > 1:
        raise RequestError(
            f"--embed with {len(paths)} models",
            "one model",
            f"Name one, such as --model {paths[0]}.",
        )
    models = ensemble.load(paths)
    run.notes["model"] = {"models": [str(p) for p in paths], "model_id": models.model_id}
    run.notes["spec"] = models.spec
    found = [shards_in(path) for path in section.inputs]
    if all(listed is not None for listed in found):
        listed = [path for shards_of in found for path in shards_of or []]
        if note := section.meant_for_tiles(()):
            run.notices.append(note)
        units = [unit for unit in _shard_units(listed, run, models) if unit.planned]
        yield units
        run.units += units
    elif any(found):
        raise RequestError("shards and tiles in one call", "one kind of input")
    else:
        yield from _plan_survey(run, models)


def model_files(path: Path) -> list[Path]:
    """List the models that a path stands for: a folder's members are an ensemble."""
    if path.is_dir():
        listed = [p for p in products_of(path, "train") if p.suffix == ".safetensors"]
        if not listed:
            raise RequestError(f"{path} holds no finished model", "a folder that `train` finished")
        return listed
    return [path]


def shards_in(path: Path) -> list[Path] | None:
    """List the shards an input stands for; None if it is something else."""
    if path.is_dir():
        if not (path / RUN).exists() and not (path / INDEX).exists():
            return None
        if read_index(path)["stage"] not in ("cutout", "simulate"):
            raise RequestError(f"{path} holds no stamps", "a folder of cutout or simulate")
        return products_of(path)
    return [path] if path.suffix in (".h5", ".hdf5") else None


def _fit(
    section: InferConfig,
    models: Ensemble,
    bands: Sequence[str],
    scale_arcsec: float,
    size: int,
    stretched: bool,
    run: Run,
) -> dict[str, Any] | None:
    """Refuse stamps that the model does not take, or say how they are to be adapted.

    Returns
    -------
    dict or None
        What `inputs` needs to know; None where stamps go to the model as they are.
    """
    spec = models.spec
    if not section.adapt:
        spec_of = models.members[0]
        spec_of.check_compatible(bands, scale_arcsec, size, stretched)
        return None
    models.members[0].check_compatible(bands, spec.pixel_scale_arcsec, spec.size, stretched)
    notice = (
        "the model file does not say on which PSF it was trained: PSFs are left as they are"
        if not models.psf_fwhm_arcsec
        else ""
    )
    if notice and notice not in run.notices:
        run.notices.append(notice)
    same_scale = abs(scale_arcsec / spec.pixel_scale_arcsec - 1) <= PIXEL_SCALE_TOLERANCE
    return {
        "resample": not same_scale or size != spec.size,
        "data_pixel_scale_arcsec": scale_arcsec if not same_scale else spec.pixel_scale_arcsec,
        "pixel_scale_arcsec": spec.pixel_scale_arcsec,
        "size": spec.size,
        "bands": list(spec.bands),
        "psf_fwhm_arcsec": models.psf_fwhm_arcsec,
        "stretched": stretched,
    }


def _unit(
    run: Run,
    name: str,
    keys: Mapping[str, Any],
    inputs: Mapping[str, Any],
    task: Mapping[str, Any],
    planned: int,
) -> Unit:
    """Make a unit: `keys` and `inputs` say what decides its scores beside the model and its use."""
    section = run.config.infer
    used = {name: getattr(section, name) for name in ("views", "keep_above", "embed", "precision")}
    return Unit(
        stage="infer",
        name=name,
        product=run.product(f"{name}.parquet"),
        ingredients=ingredients(
            "infer",
            VERSION,
            {**used, **keys},
            model_id=run.notes["model"]["model_id"],
            **inputs,
        ),
        task={
            **run.notes["model"],
            "batch_size": section.batch_size,
            "compiled": section.compile,
            "provenance": run.provenance,
            **task,
        },
        planned=planned,
    )


def _shard_units(listed: Sequence[Path], run: Run, models: Ensemble) -> Iterator[Unit]:
    """Make the units of a share of the shards, whose names are the same whichever share it is."""
    section, names = run.config.infer, [path.stem for path in listed]
    twice = [path for path, count in Counter(p.resolve() for p in listed).items() if count > 1]
    if twice:
        raise RequestError(f"{twice[0]} is given twice", "each shard once")
    stamps = scored = 0
    for number, path in run.share(list(enumerate(listed))):
        with shards.read(path) as shard:
            header = shard.header
            how = _fit(
                section, models, header.bands, header.pixel_scale_arcsec, shard.size,
                header.stretched, run,
            )  # fmt: skip
            made_from = fingerprint(header.ingredients)
            planned = int(chosen(shard.catalog["split"], section.splits).sum())
            stamps += len(shard)
        scored += planned
        name = path.stem if names.count(path.stem) == 1 else f"{path.stem}.{number}"
        keys = {"splits": sorted(section.splits), "adapt": how}
        task = {"shard": str(path), "splits": section.splits}
        yield _unit(run, name, keys, {"shard": made_from}, task, planned)
    if stamps and not scored and not run.execution.is_share:
        raise RequestError(
            f"no stamp of {', '.join(str(path) for path in section.inputs)} is of the split "
            + " or ".join(section.splits),
            "stamps to score",
            "Add --splits train,val,test, where the model never saw them.",
        )


def _plan_survey(run: Run, models: Ensemble) -> Iterator[list[Unit]]:
    """Plan tiles, or stamps that others have cut."""
    section, spec = run.config.infer, models.spec
    this = survey.load(run.config.run.survey)
    # The model knows what stamps it takes; only a wish that contradicts it is worth an error.
    bands = section.bands or spec.bands
    size = section.size if "size" in section.model_fields_set else spec.size
    scale = this.pixel_scale_arcsec
    if section.adapt and abs(scale / spec.pixel_scale_arcsec - 1) > PIXEL_SCALE_TOLERANCE:
        size = adapt.input_size(spec.size, spec.pixel_scale_arcsec, scale)
    how = _fit(section, models, bands, scale, size, this.stretched, run)
    section = section.model_copy(update={"size": size, "bands": bands})
    bands = this.choose_bands(bands)
    keys = {
        "size": size,
        "bands": list(bands),
        "max_bad_fraction": section.max_bad_fraction,
        "adapt": how,
    }
    if not this.stamps:
        keys |= {"resample": section.resample, "measure_psf": section.measure_psf}
    described = this.model_dump(mode="json")

    def unit_of(name: str, inputs: dict[str, Any], task: dict[str, Any], planned: int) -> Unit:
        inputs = {"survey": planning.meaning(this), **inputs}
        return _unit(run, name, keys, inputs, {**task, "survey": described}, planned)

    if this.stamps:
        jobs = run.share(plan_stamps(section.inputs, this, bands))
        units = [unit_of(job.name, job.inputs, job.task, len(job.objects)) for job in jobs]
        yield units
        run.units += units
        return
    targets = yield from planning.plan_targets(section, run, section.inputs, this, bands)
    targets.rows_per_unit = _TARGETS_A_UNIT
    yield from targets.waves(
        run, lambda job: unit_of(job.name, job.inputs, _tile_task(job), len(job.rows))
    )


def _tile_task(job: planning.Job) -> dict[str, Any]:
    return {
        "tile": job.files.name,
        "paths": planning.plain_paths(job.files),
        "targets": job.targets,
    }
