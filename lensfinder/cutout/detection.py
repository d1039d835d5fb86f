"""Detection as units of work: targets of tiles for which there is no catalogue.

A tile's detections are a product of their own, ``targets/<tile>.parquet``; where tiles overlap,
`collect` keeps each object once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, tables, tiles
from lensfinder.config import TargetsConfig
from lensfinder.cutout.targets import Ownership, assign, keep_once
from lensfinder.cutout.travel import from_plain, meaning, plain_paths
from lensfinder.fingerprints import ingredients
from lensfinder.footprints import Footprint, separation_deg
from lensfinder.runs import Run
from lensfinder.survey import Survey
from lensfinder.tables import Columns
from lensfinder.tiles import TileFiles
from lensfinder.units import Receipt, Unit

_VERSION = 6


def with_neighbours(
    share: set[str], readable: Sequence[TileFiles], footprints: Sequence[Footprint]
) -> set[str]:
    """Names of the tiles in `share` and of those that overlap with one of them."""
    ra = np.array([footprint.centre_ra for footprint in footprints])
    dec = np.array([footprint.centre_dec for footprint in footprints])
    radius = np.array([footprint.radius for footprint in footprints])
    near = set()
    for files, footprint in zip(readable, footprints, strict=True):
        if files.name in share:
            apart = separation_deg(footprint.centre_ra, footprint.centre_dec, ra, dec)
            touching = np.flatnonzero(apart <= footprint.radius + radius)
            near |= {readable[t].name for t in touching.tolist()}
    return near


def unit_of(
    files: TileFiles, run: Run, config: TargetsConfig, survey: Survey, reference: str
) -> Unit:
    # The files of bands that detection does not read do not decide its product.
    wanted = dict.fromkeys((*(config.detect_bands or (reference,)), reference))
    own = TileFiles(files.name, {band: files.paths.get(band, {}) for band in wanted})
    keys = {name: getattr(config, name) for name in ("detect_sigma", "detect_pixels")}
    keys["detect_bands"] = list(config.detect_bands or (reference,))
    keys["resample"] = config.resample
    return Unit(
        stage=run.stage,
        name=f"detect-{files.name}",
        product=run.folder / "targets" / f"{files.name}.parquet",
        ingredients=ingredients(
            "detection",
            _VERSION,
            {**keys, "band": reference},
            tile=own.identity(),
            survey=meaning(survey),
        ),
        task={
            "detect": keys,
            "band": reference,
            "tile": files.name,
            "paths": plain_paths(own),
            "survey": survey.model_dump(mode="json"),
        },
    )


def detect_unit(unit: Unit) -> Receipt:
    """Do a detection unit: commit ``targets/<tile>.parquet``."""
    from lensfinder.cutout.detect import detect

    task = unit.task
    survey, band = Survey.model_validate(task["survey"]), task["band"]
    bands = tuple(task["detect"]["detect_bands"])
    files = TileFiles(task["tile"], from_plain(task["paths"]))
    every = tuple(dict.fromkeys((*bands, band)))
    with tiles.open_tile(files, survey, every, resample=task["detect"]["resample"]) as tile:
        psf_fwhm_arcsec = tile.psf_fwhm_arcsec(band)
        found = detect(
            _reader(tile, bands, survey),
            tile.shape_YX,
            psf_fwhm_arcsec / survey.pixel_scale_arcsec,
            sigma=task["detect"]["detect_sigma"],
            pixels=task["detect"]["detect_pixels"],
            measure=None if bands == (band,) else _reader(tile, (band,), survey),
        )
        ra, dec = tile.footprint.sky_of(found["x"], found["y"])
    magnitude = schema.AB_ZERO_POINT_NJY - 2.5 * np.log10(found["flux_njy"])
    columns = {
        "id": _names(ra, dec),
        "ra": ra,
        "dec": dec,
        "x": found["x"],
        "y": found["y"],
        f"mag_{band}": magnitude.astype(np.float32),
        "half_light_radius_arcsec": found["half_light_radius_pix"] * survey.pixel_scale_arcsec,
        "star_radius_arcsec": np.full(len(ra), psf_fwhm_arcsec / 2),
        "cut_off_arcsec": found["cut_off_pix"] * survey.pixel_scale_arcsec,
    }
    tables.write_columns(unit.product, columns, {"ingredients": unit.ingredients})
    return Receipt(0, 0)


def _reader(tile: tiles.Tile, bands: tuple[str, ...], survey: Survey) -> Any:
    """Give what reads a window of a band, or of the mean of bands weighted by their depth."""

    def read(rows: slice, columns: slice) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        total, weights = np.float32(0), np.float32(0)
        for band in bands:
            pixels = tile.pixels[band][rows, columns]
            if len(bands) == 1:
                return pixels.flux, pixels.mask != 0
            weight = np.float32(survey.sky_rms_njy[band] ** -2) * (pixels.mask == 0)
            # Damaged numbers overflow to what detection takes for no light.
            with np.errstate(over="ignore", invalid="ignore"):
                total = total + np.where(weight > 0, pixels.flux, 0) * weight
            weights = weights + weight
        empty = np.asarray(weights == 0)
        return np.asarray(total / np.where(empty, 1, weights), np.float32), empty

    return read


def _names(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[Any]:
    """Name detections by position, ``J120003.218-003012.35``: 15 mas, so that none is doubled."""
    from astropy.coordinates import Angle

    right = Angle(ra, "deg").to_string(unit="hourangle", sep="", precision=3, pad=True)
    up = Angle(dec, "deg").to_string(unit="deg", sep="", precision=2, pad=True, alwayssign=True)
    return np.array([f"J{a}{d}" for a, d in zip(right, up, strict=True)], dtype=object)


def collect(
    units: Sequence[Unit],
    readable: Sequence[TileFiles],
    footprints: Sequence[Footprint],
    config: TargetsConfig,
    survey: Survey,
    run: Run,
) -> tuple[list[TileFiles], list[Footprint], Columns, Ownership]:
    """Read the detections of all tiles and keep each object once; drop tiles without any."""
    from lensfinder.cutout.detect import galaxies

    made = {unit.task["tile"]: unit for unit in units if unit.product.exists()}
    # A tile that could not be searched stands in the ledger under its detection unit.
    run.units += [unit for unit in units if not unit.product.exists()]
    kept = [(f, p) for f, p in zip(readable, footprints, strict=True) if f.name in made]
    files, prints = [f for f, _ in kept], [p for _, p in kept]
    lists = []
    for tile in files:
        columns = tables.read_columns(made[tile.name].product)
        extended = galaxies(
            columns["half_light_radius_arcsec"],
            2 * columns.pop("star_radius_arcsec"),
            config.detect_size_ratio,
        )
        lists.append({name: values[extended] for name, values in columns.items()})
    keep = keep_once(lists, prints)
    lists = [{n: v[k] for n, v in columns.items()} for columns, k in zip(lists, keep, strict=True)]
    merged = (
        tables.concatenate(lists)
        if lists
        else {name: np.zeros(0) for name in ("id", "ra", "dec", "x", "y")}
    )
    ownership = assign(merged["ra"], merged["dec"], prints)
    keeper = np.repeat(np.arange(len(lists)), [len(columns["ra"]) for columns in lists])
    return files, prints, merged, ownership.led_by(keeper)
