"""From tiles and a catalogue to each tile's own targets: what `cutout` and `infer` plan with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import tables, tiles
from lensfinder.config import CutoutConfig, TargetsConfig
from lensfinder.cutout import detection
from lensfinder.cutout.detection import detect_unit
from lensfinder.cutout.moved import refuse_moved
from lensfinder.cutout.select import NAMED, dereddened, respelled, within
from lensfinder.cutout.targets import Ownership, assign
from lensfinder.cutout.travel import from_plain, meaning, plain_paths
from lensfinder.errors import RequestError, UnitError, counted
from lensfinder.footprints import Footprint
from lensfinder.runs import Run
from lensfinder.survey import Survey
from lensfinder.tables import Columns
from lensfinder.tiles import TileFiles
from lensfinder.units import Failure, Unit

__all__ = [
    "Job",
    "Plan",
    "detect_unit",
    "digest",
    "from_plain",
    "meaning",
    "plain_paths",
    "plan_targets",
]

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
            refuse_moved(run, self, jobs, units)
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
        x, y = self.ownership.positions(t, rows)
        # Row order, so that a tile is read from its beginning to its end.
        order = np.lexsort((x, y))
        rows, x, y = rows[order], x[order], y[order]
        starts = range(0, max(len(rows), 1), self.rows_per_unit)
        numbers = range(1, len(starts) + 1) if len(starts) > 1 else ()
        dash, others = "-", {files.name for files in self.tiles} if numbers else set()
        while any(f"{name}{dash}{number:03d}" in others for number in numbers):
            dash += "-"  # or a part would have another tile's name
        for number, start in enumerate(starts, 1):
            part = slice(start, start + self.rows_per_unit)
            kept = {key: values[rows[part]] for key, values in self.targets.items()}
            yield Job(
                name if len(starts) == 1 else f"{name}{dash}{number:03d}",
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
    remarks: dict[str, dict[str, str]] = {}
    for files in found:
        footprint = _footprint(
            files, survey, bands, run, config, remarks, targets_known=catalog is not None
        )
        if footprint is not None:
            readable.append(files)
            footprints.append(footprint)
    run.notices += [_remark(what, where) for what, where in remarks.items()]
    share = {files.name for files in run.share(found)}
    reference = survey.reference_of(bands)
    if not set(config.detect_bands) <= set(bands):
        raise RequestError(
            f"detect_bands {','.join(config.detect_bands)}", f"some of {','.join(bands)}"
        )
    if catalog is None:
        near = detection.with_neighbours(share, readable, footprints)
        units = [
            detection.unit_of(files, run, config, survey, reference)
            for files in readable
            if files.name in near
        ]
        yield units
        kept, footprints, targets, ownership = detection.collect(
            units, readable, footprints, config, survey, run
        )
        readable = kept
    else:
        targets, ownership = catalog, assign(catalog["ra"], catalog["dec"], footprints)
        lost = int((ownership.owner_N < 0).sum())
        nowhere = len(found) - len(readable)
        if lost and nowhere:
            run.notices.append(
                f"note: {counted(lost, 'listed target')} in no tile whose place is known, and "
                f"{counted(nowhere, 'unreadable tile')} whose place is not"
            )
    targets = respelled(targets, survey.bands)
    corrected: list[str] = []
    if config.deredden:
        by_ebv = survey.dust.coefficients if survey.dust else {}
        targets, corrected, unknown = dereddened(targets, survey.bands, by_ebv)
        if unknown:
            run.notices.append(
                f"note: no extinction is known of {counted(unknown, 'object')}, whose magnitudes "
                "are as they were"
            )
        if "ebv" in targets and not corrected:
            run.notices.append(
                f"note: E(B-V) is listed, but {survey.name} has no [dust] coefficients: magnitudes "
                "are as they were"
            )
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
        "from": "detection" if catalog is None else "catalogue",
    }
    run.notes["selection"] = selection
    size = config.size
    with_variance = isinstance(config, CutoutConfig) and config.variance
    per_target = len(bands) * size * size * (4 + 1 + 4 * with_variance)
    return Plan(
        readable,
        {name: values[chosen] for name, values in targets.items()},
        ownership.of(chosen),
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
    remarks: dict[str, dict[str, str]],
    *,
    targets_known: bool,
) -> Footprint | None:
    missing = config.missing_band if isinstance(config, CutoutConfig) else "reject"
    try:
        with tiles.open_tile(
            files, survey, bands, missing=missing, resample=config.resample
        ) as tile:
            for what, where in tile.remarks.items():
                remarks.setdefault(what, {})[tile.name] = where
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


def _remark(what: str, where: Mapping[str, str]) -> str:
    """Say in one line what is odd about some tiles."""
    named = [f"{name} ({seen})" for name, seen in list(where.items())[:3]]
    more = f" and {len(where) - 3} more" if len(where) > 3 else ""
    return f"note: {what}: {', '.join(named)}{more}"


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
