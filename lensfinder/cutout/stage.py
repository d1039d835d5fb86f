"""`cutout`: FITS tiles to shards of stamps.

A unit is a tile with the targets it owns, or some of the stamps that others have cut; its product
is one shard. Without a catalogue, targets are detected first, and each tile's detection is a unit
of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensfinder import schema, shards, survey, tables, tiles
from lensfinder.config import Config
from lensfinder.cutout import planning
from lensfinder.cutout.extract import Room, Stamps, extract, psf_columns
from lensfinder.cutout.stampfiles import is_damage, stamps_of
from lensfinder.cutout.stampjobs import plan_stamps
from lensfinder.errors import RequestError, counted
from lensfinder.fingerprints import fingerprint, ingredients
from lensfinder.ledger import close_ledger
from lensfinder.runs import Run, Summary
from lensfinder.survey import Survey
from lensfinder.tiles import TileFiles
from lensfinder.units import Receipt, Unit

_VERSION = 5
# Share of all targets from which it is said why they were rejected.
_MANY_REJECTED = 0.2

# A process does one unit after another.
_ROOM = Room()


def plan(config: Config, run: Run) -> Iterator[list[Unit]]:
    """Yield waves of units: detections, then cutouts, then those that stand in for failed ones."""
    this = survey.load(config.run.survey)
    bands = this.choose_bands(config.cutout.bands)
    if this.stamps:
        units = _stamp_units(run, this, bands)
        yield units
        run.units += units
        return
    targets = yield from planning.plan_targets(config.cutout, run, config.cutout.tiles, this, bands)
    yield from targets.waves(run, lambda job: _unit(job, run, this, bands))


def _unit(job: planning.Job, run: Run, this: Survey, bands: tuple[str, ...]) -> Unit:
    config = run.config.cutout
    keys = {
        "bands": list(bands),
        "size": config.size,
        "variance": config.variance,
        "max_bad_fraction": config.max_bad_fraction,
        "missing_band": config.missing_band,
        "resample": config.resample,
        "measure_psf": config.measure_psf,
    }
    return Unit(
        stage="cutout",
        name=job.name,
        product=run.product(f"{job.name}.h5"),
        ingredients=ingredients(
            "cutout", _VERSION, keys, survey=planning.meaning(this), **job.inputs
        ),
        task={
            "tile": job.files.name,
            "paths": planning.plain_paths(job.files),
            "targets": job.targets,
            "survey": this.model_dump(mode="json"),
            "provenance": run.provenance,
        },
        planned=len(job.rows),
    )


# What is asked of stamps that others have cut.
_OF_STAMPS = ("bands", "size", "max_bad_fraction")


def _stamp_units(run: Run, this: Survey, bands: tuple[str, ...]) -> list[Unit]:
    """Give each unit some of the stamps that others have cut."""
    config = run.config.cutout
    jobs = plan_stamps(config.tiles, this, bands)
    if note := config.meant_for_tiles(_OF_STAMPS):
        run.notices.append(note)
    run.notes["selection"] = {
        **dict.fromkeys(("catalogue", "inside", "selected"), sum(len(job.objects) for job in jobs)),
        "selected_fraction": 1.0,
        "dereddened": [],
        "from": "stamps",
    }
    keys = {"bands": list(bands), "size": config.size, "max_bad_fraction": config.max_bad_fraction}
    return [
        Unit(
            stage="cutout",
            name=job.name,
            product=run.product(f"{job.name}.h5"),
            ingredients=ingredients(
                "cutout", _VERSION, keys, survey=planning.meaning(this), **job.inputs
            ),
            task={
                **job.task,
                "survey": this.model_dump(mode="json"),
                "provenance": run.provenance,
            },
            planned=len(job.objects),
        )
        for job in run.share(jobs)
    ]


def do(unit: Unit) -> Receipt:
    """Cut one tile's stamps, or detect its targets."""
    if unit.ingredients["stage"] == "detection":
        return planning.detect_unit(unit)
    task, keys = unit.task, unit.ingredients["cutout"]
    this = Survey.model_validate(task["survey"])
    bands = tuple(keys["bands"])
    if "stamps" in task:
        stamps = stamps_of(
            task, this, bands, keys["size"], max_bad_fraction=keys["max_bad_fraction"]
        )
        return _write(unit, this, bands, stamps)
    with tiles.open_tile(
        TileFiles(task["tile"], planning.from_plain(task["paths"])),
        this,
        bands,
        missing=keys["missing_band"],
        resample=keys["resample"],
    ) as tile:
        listed = task["targets"]
        stamps = extract(
            tile,
            listed,
            keys["size"],
            pixel_scale_arcsec=this.pixel_scale_arcsec,
            max_bad_fraction=keys["max_bad_fraction"],
            variance=keys["variance"],
            psf=psf_columns(tile, listed["x"], listed["y"], measure=keys["measure_psf"]),
            room=_ROOM,
        )
    return _write(unit, this, bands, stamps)


def _write(unit: Unit, this: Survey, bands: tuple[str, ...], stamps: Stamps) -> Receipt:
    kept: Any = stamps.outcome != schema.REJECTED
    # A slice of everything is no copy.
    kept = slice(None) if kept.all() else kept
    digest = shards.write(
        unit.product,
        shards.Header(
            stage="cutout",
            survey=this.name,
            bands=bands,
            pixel_scale_arcsec=this.pixel_scale_arcsec,
            ingredients=unit.ingredients,
            provenance=unit.task["provenance"],
            stretched=this.stretched,
        ),
        stamps.image_NCHW[kept],
        stamps.mask_NCHW[kept],
        {name: values[kept] for name, values in stamps.columns.items()},
        variance_NCHW=None if stamps.variance_NCHW is None else stamps.variance_NCHW[kept],
        ledger={"id": stamps.columns["id"], "outcome": stamps.outcome, "reason": stamps.reason},
    )
    return replace(_count(stamps.outcome), sha256=digest)


def _count(outcome: Any) -> Receipt:
    return Receipt(len(outcome), *(int((outcome == name).sum()) for name in schema.OUTCOMES[:3]))


def prove(unit: Unit) -> Receipt | None:
    """Open the product: schema, rows and fingerprint must be right."""
    stored = made_from(unit.product)
    if stored is None or fingerprint(stored) != unit.fingerprint:
        return None
    if unit.product.suffix == ".parquet":
        return Receipt(0, 0)
    try:
        with shards.read(unit.product) as shard:
            receipt = _count(shard.ledger["outcome"])
            whole = len(shard) == receipt.ok + receipt.flagged
    except (RequestError, KeyError):
        return None
    return receipt if whole and receipt.closed else None


def made_from(product: Path) -> dict[str, Any] | None:
    """Return the ingredients a product was made from, or None if it can't be read."""
    if product.suffix == ".parquet":
        return (tables.read_metadata(product) or {}).get("ingredients")
    return shards.made_from(product)


def finish(run: Run) -> Summary:
    """Write index and ledger; say how many targets became what."""
    counts = close_ledger(run, prove, _outcomes, _planned_ids)
    damaged = _damaged_stamps(run)
    selection = run.notes["selection"]
    fraction = selection["selected_fraction"]
    share = f" ({fraction:.1%} of those)" if fraction is not None else ""
    return Summary(
        "cutout",
        run.folder,
        counts,
        [
            f"cutout: {_counted(selection)}, {selection['selected']} selected{share}; "
            f"{counts['ok']} ok, {counts['flagged']} flagged, {counts['rejected']} rejected, "
            f"{counts['failed']} failed",
            *_why_rejected(run, counts["rejected"]),
            *damaged,
        ],
        # Damaged files are no one's choice: they are told as damaged tiles are.
        exit_code=0 if not damaged else 3 if counts["ok"] + counts["flagged"] else 2,
    )


def _counted(selection: Mapping[str, Any]) -> str:
    """Say how many objects there were to choose from, and whence."""
    n, inside = selection["catalogue"], selection["inside"]
    objects = counted(n, "object")
    if selection["from"] == "catalogue":
        return f"{objects} listed, {inside} of them inside tiles"
    return f"{objects} {'detected' if selection['from'] == 'detection' else 'in stamps'}"


def _why_rejected(run: Run, rejected: int) -> list[str]:
    """Say what most rejected targets were rejected for, where these are more than a few."""
    if not rejected or rejected < _MANY_REJECTED * sum(unit.planned for unit in run.units):
        return []
    reasons: Counter[str] = Counter()
    for unit in run.units:
        if unit.product.exists() and unit.product.suffix == ".h5":
            ended = _outcomes(unit)
            reasons.update(
                why
                for why, how in zip(ended["reason"], ended["outcome"], strict=True)
                if how == schema.REJECTED
            )
    said = ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in reasons.most_common(3))
    return [
        f"rejected: {said}; masked also counts what lies beyond the edge of a tile or a stamp "
        "(--size, --max-bad-fraction)"
    ]


def _damaged_stamps(run: Run) -> list[str]:
    """Say which stamps can't be read."""
    found: dict[str, str] = {}
    for unit in run.units:
        if "stamps" in unit.task and unit.product.exists():
            ended = _outcomes(unit)
            found |= {
                name: reason
                for name, reason in zip(ended["id"], ended["reason"], strict=True)
                if is_damage(reason)
            }
    if not found:
        return []
    named = [f"{name} [{reason}]" for name, reason in list(found.items())[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [
        f"damaged: {counted(len(found), 'stamp')} can't be read: {', '.join(named)}{more}; "
        "the ledger names all of them, and `lensfinder check` says what is wrong with each"
    ]


def _planned_ids(unit: Unit) -> list[str]:
    # The targets of a tile that could not be searched, or read at all, are not known.
    return list(unit.task["targets"]["id"]) if "targets" in unit.task else []


def _outcomes(unit: Unit) -> dict[str, Any]:
    with shards.read(unit.product) as shard:
        return {name: list(shard.ledger[name]) for name in ("id", "outcome", "reason")}
