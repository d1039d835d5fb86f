"""From tiles and a catalogue to each tile's own targets: what `cutout` and `infer` plan with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, tables, tiles
from lensfinder.config import CutoutConfig, TargetsConfig
from lensfinder.cutout.select import NAMED, dereddened, within
from lensfinder.cutout.targets import Ownership, assign, keep_once
from lensfinder.errors import RequestError, UnitError
from lensfinder.footprints import Footprint, separation_deg
from lensfinder.runs import Failure, Receipt, Run, Unit, ingredients
from lensfinder.survey import Survey
from lensfinder.tables import Columns
from lensfinder.tiles import TileFiles

_DETECTION_VERSION = 3
# Pixels of one unit held in memory at a time.
_UNIT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Job:
    """Targets of one tile that one unit takes care of.

    Attributes
    ----------
    name : str
        Name of the unit.
    files : TileFiles
    targets : columns ``id``, ``ra``, ``dec``, ``x``, ``y``, ``mag_<band>``, in row order
    rows : (N,) int64
        Where those targets stand in the plan.
    tried : tuple of int
        This tile and those that failed on these targets before it, by their place in the plan.
    """

    name: str
    files: TileFiles
    targets: Columns
    rows: NDArray[np.int64]
    tried: tuple[int, ...]

    @property
    def inputs(self) -> dict[str, Any]:
        """What decides the pixels and positions: the files' identity and the targets."""
        return {"tile": self.files.identity(), "targets": digest(self.targets)}


@dataclass
class Plan:
    """The targets of a run and the tiles that cover them.

    Attributes
    ----------
    tiles : list of TileFiles
        Those whose place on the sky is known.
    targets : columns
    ownership : Ownership
    share : set of str
        Names of the tiles that this process is to do.
    selection : dict
        How many rows the catalogue (or the detection) had, lie in a tile, and were selected, and
        which magnitudes were dereddened.
    """

    tiles: list[TileFiles]
    targets: Columns
    ownership: Ownership
    share: set[str]
    selection: dict[str, Any]
    rows_per_unit: int

    def jobs(self) -> list[Job]:
        """Give each tile of the share its own targets."""
        owner = self.ownership.owner_N
        return [
            job
            for t, files in enumerate(self.tiles)
            if files.name in self.share
            for job in self._split(files.name, np.flatnonzero(owner == t), (t,))
        ]

    def stand_ins(self, failed: Job) -> list[Job]:
        """Give a failed job's targets to the next tile that covers them, where there is one.

        Whatever else is known to have failed is asked all the same, so that a share of the units
        and the whole run take the same steps.
        """
        owner = self.ownership.without(failed.tried).owner_N[failed.rows]
        return [
            job
            for t, files in enumerate(self.tiles)
            if (owner == t).any()
            for job in self._split(
                f"{files.name}.for.{failed.name}", failed.rows[owner == t], (*failed.tried, t)
            )
        ]

    def waves(self, run: Run, unit_of: Callable[[Job], Unit]) -> Iterator[list[Unit]]:
        """Yield the jobs' units, then those that stand in for failed ones, as long as there are.

        Afterwards `run.units` holds all of them, each with the targets that ended there.
        """
        jobs = self.jobs()
        while jobs:
            units = [unit_of(job) for job in jobs]
            yield units
            stand_ins: list[Job] = []
            for job, unit in zip(jobs, units, strict=True):
                taken = self.stand_ins(job) if run.has_failed(unit) else []
                lost = ~np.isin(job.rows, [row for stand_in in taken for row in stand_in.rows])
                targets = {name: values[lost] for name, values in job.targets.items()}
                task = {**unit.task, "targets": targets}
                run.units.append(replace(unit, planned=int(lost.sum()), task=task))
                stand_ins += taken
            jobs = stand_ins

    def _split(self, name: str, rows: NDArray[np.int64], tried: tuple[int, ...]) -> Iterator[Job]:
        t = tried[-1]
        x, y = self.ownership.x_NT[rows, t], self.ownership.y_NT[rows, t]
        # Row order, so that a tile is read from its beginning to its end.
        order = np.lexsort((x, y))
        rows, x, y = rows[order], x[order], y[order]
        starts = range(0, max(len(rows), 1), self.rows_per_unit)
        for number, start in enumerate(starts, 1):
            part = slice(start, start + self.rows_per_unit)
            kept = {key: values[rows[part]] for key, values in self.targets.items()}
            yield Job(
                name if len(starts) == 1 else f"{name}-{number:03d}",
                self.tiles[t],
                {**kept, "x": x[part], "y": y[part]},
                rows[part],
                tried,
            )


def plan_targets(
    config: TargetsConfig,
    run: Run,
    inputs: Sequence[Path],
    survey: Survey,
    bands: tuple[str, ...],
) -> Generator[list[Unit], None, Plan]:
    """Find tiles and their targets; where there is no catalogue, yield the detection units first.

    Raises
    ------
    RequestError
        If no tile or no usable catalogue is there.
    """
    found = tiles.find(inputs, survey, bands)
    catalog = (
        None if config.catalog is None else tables.read_catalog(config.catalog, config.columns)
    )
    readable, footprints = [], []
    for files in found:
        footprint = _footprint(files, survey, bands, run, config, targets_known=catalog is not None)
        if footprint is not None:
            readable.append(files)
            footprints.append(footprint)
    share = {files.name for files in run.share(found)}
    reference = survey.reference_of(bands)
    if not set(config.detect_bands) <= set(bands):
        raise RequestError(
            f"detect_bands {','.join(config.detect_bands)}", f"some of {','.join(bands)}"
        )
    if catalog is None:
        near = _with_neighbours(share, readable, footprints)
        units = [
            _detection_unit(files, run, config, survey, reference)
            for files in readable
            if files.name in near
        ]
        yield units
        kept, footprints, targets, ownership = _collect(
            units, readable, footprints, config, survey, run
        )
        readable = kept
    else:
        targets, ownership = catalog, assign(catalog["ra"], catalog["dec"], footprints)
    corrected: list[str] = []
    if config.deredden:
        targets, corrected = dereddened(targets, survey.bands)
    inside = ownership.owner_N >= 0
    if catalog is not None and not inside.any() and len(footprints) == len(found):
        around = ", ".join(f"{p.centre_ra:.3f} {p.centre_dec:+.3f}" for p in footprints[:3])
        raise RequestError(
            f"none of the {len(inside)} targets in {config.catalog} lies in a tile",
            f"targets near RA, Dec {around}",
            "Check that its positions are ICRS degrees.",
        )
    chosen = inside & _selected(targets, config, reference)
    selection = {
        "catalogue": len(inside),
        "inside": int(inside.sum()),
        "selected": int(chosen.sum()),
        # Completeness later is conditional on this.
        "selected_fraction": float(chosen.sum() / inside.sum()) if inside.any() else None,
        "dereddened": corrected,
    }
    run.notes["selection"] = selection
    size = config.size
    with_variance = isinstance(config, CutoutConfig) and config.variance
    per_target = len(bands) * size * size * (4 + 1 + 4 * with_variance)
    return Plan(
        readable,
        {name: values[chosen] for name, values in targets.items()},
        Ownership(ownership.order_NT[chosen], ownership.x_NT[chosen], ownership.y_NT[chosen]),
        share,
        selection,
        max(64, _UNIT_BYTES // per_target),
    )


def _footprint(
    files: TileFiles,
    survey: Survey,
    bands: tuple[str, ...],
    run: Run,
    config: TargetsConfig,
    *,
    targets_known: bool,
) -> Footprint | None:
    missing = config.missing_band if isinstance(config, CutoutConfig) else "reject"
    try:
        with tiles.open_tile(files, survey, bands, missing=missing) as tile:
            return tile.footprint
    except UnitError as error:
        # Targets of a catalogue that lie on a broken tile are not forgotten: its unit will fail
        # with the reason, and other tiles stand in for it.
        footprint = tiles.salvage_footprint(files, survey) if targets_known else None
        if footprint is None:
            unit = Unit(run.stage, files.name, run.product(f"{files.name}.none"), {})
            run.units.append(unit)
            run.record(unit, Failure(error.reason, str(error), error.exit_code))
        return footprint


def _selected(targets: Columns, config: TargetsConfig, reference: str) -> NDArray[np.bool_]:
    named = NAMED[config.selection](targets) & within(targets, config.ranges)
    name = f"mag_{reference}"
    if name not in targets:
        if (config.mag_min, config.mag_max) != (-99.0, 99.0):
            raise RequestError(
                f"mag_min and mag_max need the magnitude {name}, which the catalogue lacks",
                f"a column {name}",
                f"Name it in the configuration: columns = {{ {name} = '…' }}.",
            )
        return named
    magnitude = targets[name]
    bright = (magnitude >= config.mag_min) & (magnitude <= config.mag_max) | (
        ~np.isfinite(magnitude) & (config.mag_max >= 99.0)
    )
    return np.asarray(named & bright)


def digest(targets: Mapping[str, NDArray[Any]]) -> str:
    """Hash the rows of a target list."""
    total = hashlib.sha256()
    for name in sorted(targets):
        values = targets[name]
        total.update(name.encode())
        text = values.dtype.kind in "OU"
        total.update("\0".join(map(str, values)).encode() if text else values.tobytes())
    return total.hexdigest()


# -- detection --------------------------------------------------------------------------------


def _with_neighbours(
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


def _detection_unit(
    files: TileFiles, run: Run, config: TargetsConfig, survey: Survey, reference: str
) -> Unit:
    # The files of bands that detection does not read do not decide its product.
    wanted = dict.fromkeys((*(config.detect_bands or (reference,)), reference))
    own = TileFiles(files.name, {band: files.paths.get(band, {}) for band in wanted})
    keys = {name: getattr(config, name) for name in ("detect_sigma", "detect_pixels")}
    keys["detect_bands"] = list(config.detect_bands or (reference,))
    return Unit(
        stage=run.stage,
        name=f"detect-{files.name}",
        product=run.folder / "targets" / f"{files.name}.parquet",
        ingredients=ingredients(
            "detection",
            _DETECTION_VERSION,
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
    with tiles.open_tile(files, survey, every) as tile:
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


def _collect(
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
    return files, prints, merged, _led_by(ownership, keeper)


def _led_by(ownership: Ownership, keeper_N: NDArray[np.int64]) -> Ownership:
    """Put the tile that kept a detection first, whatever the distances say."""
    order = ownership.order_NT.copy()
    rank = np.argsort(order != keeper_N[:, None], axis=1, kind="stable")
    return replace(ownership, order_NT=np.take_along_axis(order, rank, axis=1))


# -- what travels in a unit ---------------------------------------------------------------------


def plain_paths(files: TileFiles) -> dict[str, dict[str, str]]:
    return {band: {k: str(p) for k, p in kinds.items()} for band, kinds in files.paths.items()}


def from_plain(paths: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Path]]:
    return {band: {k: Path(p) for k, p in kinds.items()} for band, kinds in paths.items()}


def meaning(survey: Survey) -> dict[str, Any]:
    """What a survey says of pixels; its title and its prose change nothing."""
    return survey.model_dump(mode="json", exclude={"title", "source"})
