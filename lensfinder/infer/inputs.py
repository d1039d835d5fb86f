"""Stamps of a unit, a few at a time: out of a shard, a tile, or a folder of stamps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, shards, tiles
from lensfinder.cutout import planning
from lensfinder.cutout.extract import Stamps, extract, psf_columns
from lensfinder.cutout.stampfiles import stamps_of
from lensfinder.infer import adapt
from lensfinder.survey import Survey
from lensfinder.tiles import TileFiles
from lensfinder.units import Unit


@dataclass(frozen=True)
class Chunk:
    """Some of a unit's targets, in row order.

    Attributes
    ----------
    image_NCHW : (N, band, y, x) float32, nJy
    mask_NCHW : (N, band, y, x) uint8
    columns : catalogue columns, and ``outcome`` and ``reason``
    """

    image_NCHW: NDArray[np.float32]
    mask_NCHW: NDArray[np.uint8]
    columns: dict[str, NDArray[Any]]


def chosen(split: NDArray[Any], splits: Sequence[str]) -> NDArray[np.bool_]:
    """Rows of the asked splits; the sky has none and is always scored."""
    return np.isin(split.astype(str), ["", *splits])


def stream(unit: Unit, rows: int) -> Iterator[Chunk]:
    """Yield the unit's targets, rejected ones too, `rows` of them at a time.

    At least one chunk comes, empty where there is no target, so that the columns are known.
    """
    task = unit.task
    if "shard" in task:
        found = _of_shard(task, rows)
    elif "stamps" in task:
        found = _of_stamp_files(unit, rows)
    else:
        found = _of_tile(unit, task["targets"], rows)
    return (_adapted(chunk, unit.ingredients["infer"]["adapt"]) for chunk in found)


def pick(unit: Unit, ids: Sequence[str], rows: int) -> Iterator[Chunk]:
    """Read some of a unit's targets again, `rows` at a time, in the unit's own order."""
    task = dict(unit.task)
    if "targets" in task:
        wanted = np.isin(np.asarray(task["targets"]["id"]).astype(str), ids)
        task["targets"] = {n: np.asarray(v)[wanted] for n, v in task["targets"].items()}
        if "stamps" in task:
            task["stamps"] = {name: task["stamps"][name] for name in task["targets"]["id"]}
    else:
        task["ids"] = ids
    return stream(replace(unit, task=task), rows)


def planned_ids(unit: Unit) -> Sequence[str]:
    """Name the targets of a unit, whether or not it has a product."""
    if "targets" in unit.task:
        return list(unit.task["targets"]["id"])
    if "shard" not in unit.task:
        return []
    with shards.read(Path(unit.task["shard"])) as shard:
        return list(shard.catalog["id"][chosen(shard.catalog["split"], unit.task["splits"])])


def _of_shard(task: Mapping[str, Any], rows: int) -> Iterator[Chunk]:
    path = Path(task["shard"])
    with shards.read(path) as shard:
        of_split = chosen(shard.catalog["split"], task["splits"])
        if "ids" in task:
            of_split &= np.isin(shard.catalog["id"].astype(str), task["ids"])
        wanted = np.flatnonzero(of_split)
        columns = {name: values[wanted] for name, values in shard.catalog.items()}
    flags = columns["flags"]
    columns["outcome"] = np.where(flags != 0, schema.FLAGGED, schema.OK).astype(object)
    columns["reason"] = np.array(["+".join(schema.flag_names(int(f))) for f in flags], dtype=object)
    image, mask = shards.memory_map(path, "image"), shards.memory_map(path, "mask")
    for start in range(0, max(len(wanted), 1), rows):
        part = slice(start, start + rows)
        yield Chunk(
            image[wanted[part]],
            mask[wanted[part]],
            {name: values[part] for name, values in columns.items()},
        )


def _of_tile(unit: Unit, targets: Mapping[str, NDArray[Any]], rows: int) -> Iterator[Chunk]:
    task, keys = unit.task, unit.ingredients["infer"]
    survey = Survey.model_validate(task["survey"])
    files = TileFiles(task["tile"], planning.from_plain(task["paths"]))
    with tiles.open_tile(files, survey, tuple(keys["bands"]), resample=keys["resample"]) as tile:
        # Once: models and stars would take longer than cutting a few stamps.
        psf = psf_columns(tile, targets["x"], targets["y"], measure=keys["measure_psf"])
        for start in range(0, max(len(targets["id"]), 1), rows):
            some = slice(start, start + rows)
            yield _chunk_of(
                extract(
                    tile,
                    {name: values[some] for name, values in targets.items()},
                    keys["size"],
                    pixel_scale_arcsec=survey.pixel_scale_arcsec,
                    max_bad_fraction=keys["max_bad_fraction"],
                    psf={name: values[some] for name, values in psf.items()},
                )
            )


def _of_stamp_files(unit: Unit, rows: int) -> Iterator[Chunk]:
    task, keys = unit.task, unit.ingredients["infer"]
    survey, names = Survey.model_validate(task["survey"]), list(task["stamps"])
    for start in range(0, max(len(names), 1), rows):
        some = {name: task["stamps"][name] for name in names[start : start + rows]}
        yield _chunk_of(
            stamps_of(
                {**task, "stamps": some},
                survey,
                tuple(keys["bands"]),
                keys["size"],
                max_bad_fraction=keys["max_bad_fraction"],
            )
        )


def _chunk_of(stamps: Stamps) -> Chunk:
    columns = {**stamps.columns, "outcome": stamps.outcome, "reason": stamps.reason}
    return Chunk(stamps.image_NCHW, stamps.mask_NCHW, columns)


def _adapted(chunk: Chunk, how: Mapping[str, Any] | None) -> Chunk:
    """Make stamps fit the model, where that was asked for, and flag those that were changed."""
    if how is None or not len(chunk.image_NCHW):
        return chunk
    image, mask, columns = chunk.image_NCHW, chunk.mask_NCHW, dict(chunk.columns)
    changed = np.zeros(len(image), bool)
    zoom = how["pixel_scale_arcsec"] / how["data_pixel_scale_arcsec"]
    if how["resample"]:
        image, mask = adapt.resample(image, mask, zoom, how["size"])
        if how["stretched"]:  # a picture's pixel has a level, not the flux of its area
            image /= np.float32(zoom**2)
        changed[:] = True
        for name in ("dx", "dy"):
            columns[name] = (columns[name] / zoom).astype(np.float32)
    if how["psf_fwhm_arcsec"]:
        unknown = np.full(len(image), np.nan, np.float32)
        fwhm_NC = np.column_stack(
            [columns.get(f"psf_fwhm_{band}_arcsec", unknown) for band in how["bands"]]
        )
        wanted_C = np.array([how["psf_fwhm_arcsec"].get(b, np.nan) for b in how["bands"]])
        scale = how["pixel_scale_arcsec"]
        image, widened = adapt.widen(image, mask, fwhm_NC / scale, wanted_C / scale)
        changed |= widened
    columns["flags"] = columns["flags"] | np.where(changed, schema.FLAG_ADAPTED, 0).astype(np.int32)
    flagged = changed & (columns["outcome"] == schema.OK)
    columns["outcome"] = np.where(flagged, schema.FLAGGED, columns["outcome"]).astype(object)
    columns["reason"] = np.where(flagged, "adapted", columns["reason"]).astype(object)
    return Chunk(image, mask, columns)
