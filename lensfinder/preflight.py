"""What would fail and what it would cost, before any work."""

from __future__ import annotations

import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lensfinder import __version__, disks, provenance, slurm, survey, tables, tiles
from lensfinder.config import Config, SimulateConfig, SlurmConfig, TargetsConfig, load
from lensfinder.cutout.stampjobs import plan_stamps
from lensfinder.errors import LensfinderError, UnitError, counted
from lensfinder.infer.planning import model_files, shards_in

_MOST_FINDINGS = 20
_MOCK_SECONDS = 0.01  # a core's time for one mock of three bands, roughly


def check_machine(folder: Path) -> dict[str, str]:
    """Describe versions, devices, and what the file system here can do."""
    import torch

    packages = ("torch", "numpy", "astropy", "photutils", "h5py", "dask", "pyarrow")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {
        "lensfinder": __version__,
        "python": platform.python_version(),
        **{name: provenance.version_of(name) for name in packages},
        "numba": provenance.version_of("numba") or "none, which simulate --compile needs",
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "gpus": ", ".join(gpus) or "none",
        **disks.describe(folder),
    }


def check_inputs(
    inputs: Sequence[Path], survey_name: str, bands: str
) -> tuple[dict[str, str], int]:
    """Look at a pipeline file, or at tiles.

    Returns
    -------
    findings : dict
        A line each.
    exit_code : int
        0, or 2 or 3 if something would fail.

    Raises
    ------
    LensfinderError
        If the request as a whole is wrong.
    """
    if len(inputs) == 1 and inputs[0].suffix == ".toml":
        return _check_pipeline(inputs[0])
    options: dict[str, dict[str, Any]] = {
        "run": {"survey": survey_name},
        "cutout": {"tiles": tuple(inputs), "bands": bands},
    }
    config = load(None, (), options)
    cutout = config.cutout
    findings, bad = _check_tiles(config, cutout, cutout.tiles, cutout.missing_band)
    return findings, (2 if len(findings) == 1 else 3) if bad else 0


def _check_tiles(
    config: Config,
    section: TargetsConfig,
    inputs: Sequence[Path],
    missing: Literal["reject", "mask"],
) -> tuple[dict[str, str], int]:
    this = survey.load(config.run.survey)
    chosen = this.choose_bands(section.bands)
    if this.stamps:
        return _check_stamps(inputs, this, chosen)
    findings, bad = {}, 0
    for files in tiles.find(inputs, this, chosen):
        try:
            with tiles.open_tile(
                files, this, chosen, missing=missing, resample=section.resample
            ) as tile:
                height, width = tile.shape_YX
                ra, dec = tile.footprint.centre_ra, tile.footprint.centre_dec
                said = [f"ok, {width} x {height}, centre {ra:.5f} {dec:+.5f}"]
                if tile.resampled_bands:
                    said.append(f"{','.join(tile.resampled_bands)} to be resampled")
                said += [f"note: {what} ({where})" for what, where in tile.remarks.items()]
                findings[files.name] = "; ".join(said)
        except UnitError as error:
            findings[files.name] = f"would fail [{error.reason}] {error}"
            bad += 1
    return findings, bad


def _check_stamps(
    inputs: Sequence[Path], this: survey.Survey, bands: tuple[str, ...]
) -> tuple[dict[str, str], int]:
    """Look at stamps that others have cut: what they are in one line, and what is wrong in each."""
    jobs = plan_stamps(inputs, this, bands)
    shapes: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    for files in (files for job in jobs for files in job.objects):
        try:
            with tiles.open_stamp(files, this, bands) as stamp:
                shapes[" x ".join(map(str, reversed(stamp.shape_YX)))] += 1
        except UnitError as error:
            wrong[files.name] = f"would be rejected [{error.reason}] {error}"
    findings = dict(list(wrong.items())[:_MOST_FINDINGS])
    if len(wrong) > _MOST_FINDINGS:
        findings["…"] = f"and {len(wrong) - _MOST_FINDINGS} more stamps would be rejected"
    if shapes:
        sizes = ", ".join(f"{count} of {shape}" for shape, count in shapes.most_common())
        labelled = sum(len(job.labels) for job in jobs)
        stretched = ", stretched pictures" if this.stretched else ""
        said = f"ok, {sizes} pixels in {','.join(bands)}, {labelled} with labels{stretched}"
        findings = {"stamps": said, **findings}
    return findings, len(wrong)


def _check_pipeline(path: Path) -> tuple[dict[str, str], int]:
    from lensfinder.pipeline import chain, check_steps, within

    config = load(path)
    findings = {"configuration": "ok"}
    bad = wrong = 0
    steps = chain(config, Path(path.stem))
    findings["stages"] = " → ".join(folder for folder, _, _ in steps)
    try:
        check_steps(steps, Path(path.stem))
    except LensfinderError as error:
        findings["inputs"] = f"would fail: {error}"
        wrong += 1
    simulate = next(staged.simulate for _, stage, staged in steps if stage == "simulate")
    cutout = config.cutout
    infer = config.infer.model_copy(update={"bands": _bands_to_score(config, simulate)})
    there = [given for given in infer.inputs if not within(given, Path(path.stem))]
    streamed = [given for given in there if shards_in(given) is None]
    if cutout.tiles:
        found, bad_tiles = _check_tiles(config, cutout, cutout.tiles, cutout.missing_band)
        findings |= found
        bad += bad_tiles
        if cutout.catalog is not None:
            rows = len(tables.read_catalog(cutout.catalog, cutout.columns)["id"])
            findings["catalogue"] = f"ok, {counted(rows, 'row')}"
    if streamed:
        found, bad_tiles = _check_tiles(config, infer, streamed, "reject")
        findings |= found
        bad += bad_tiles
    if config.slurm != SlurmConfig():
        jobs = slurm.jobs_of(steps, Path(path.stem), config.slurm, "lensfinder run")
        findings["slurm"], refused = _check_jobs(jobs)
        bad += refused
    findings["population"] = _check_population(simulate.population)
    wrong += findings["population"].startswith("would fail")
    bands = survey.load(config.run.survey).choose_bands(simulate.bands)
    stamp_bytes = len(bands) * simulate.size**2 * 5
    minutes = math.ceil(simulate.count * _MOCK_SECONDS / 60 / len(os.sched_getaffinity(0)))
    findings["mocks"] = (
        f"{simulate.count} of {simulate.size}² in {','.join(bands)}: "
        f"{simulate.count * stamp_bytes / 1e9:.2f} GB, about {counted(minutes, 'minute')} here"
    )
    return findings, 2 if wrong else 3 if bad else 0


def _bands_to_score(config: Config, simulate: SimulateConfig) -> tuple[str, ...]:
    """Bands that the chain's model takes: its own, or those of the mocks that it is trained on."""
    if config.infer.bands or not config.infer.model:
        return config.infer.bands or simulate.bands
    from lensfinder.checkpoint import read_header

    files = [file for path in config.infer.model for file in model_files(path)]
    return tuple(read_header(files[0])["spec"]["bands"])


def _check_jobs(jobs: Sequence[slurm.Job]) -> tuple[str, int]:
    refused = slurm.refusals(jobs)
    if refused is None:
        return "there is no sbatch here to ask", 0
    if refused:
        listed = "; ".join(f"{name}: {why}" for name, why in refused.items())
        return f"would fail: {listed}", len(refused)
    return f"ok, it would run these {len(jobs)} jobs", 0


def _check_population(name: str) -> str:
    from lensfinder.simulate.stage import load_population

    try:
        load_population(name)
    except LensfinderError as error:
        return f"would fail: {error}"
    return f"ok, {name}"
