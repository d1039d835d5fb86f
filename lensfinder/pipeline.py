"""The chain: each stage in a folder of its own, fed by the ones before it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensfinder import slurm
from lensfinder.config import Config
from lensfinder.errors import Interrupted, RequestError, nearest, printable
from lensfinder.parallel import Engine
from lensfinder.runs import BREAKING, Execution, Summary, execute

Step = tuple[str, str, Config]  # folder name, stage, configuration


def chain(config: Config, output: Path) -> list[Step]:
    """Lay out a pipeline: what each stage reads follows from what the others write.

    An input that the pipeline file names itself stays: a model of its own leaves out training,
    tiles under ``[infer]`` are streamed without cutting stamps first.

    Returns
    -------
    list of Step
        In the order they run.
    """
    steps: list[Step] = []

    def add(folder: str, stage: str, **keys: Any) -> Path:
        section = getattr(config, stage).model_copy(update=keys)
        steps.append((folder, stage, config.model_copy(update={stage: section})))
        return output / folder

    sky = config.infer.inputs
    if config.cutout.tiles:
        cutouts = add("cutout", "cutout")
        sky = sky or (cutouts,)
    like_the_cutouts = {
        key: getattr(config.cutout, key)
        for key in ("size", "bands")
        if key not in config.simulate.model_fields_set
    }
    mocks = add("simulate", "simulate", **like_the_cutouts)
    model = config.infer.model or (add("train", "train", shards=config.train.shards or (mocks,)),)
    # Scores of labelled stamps that are there spare those of the mocks.
    labelled = config.report.scores or (add("infer-mocks", "infer", inputs=(mocks,), model=model),)
    scores = add("infer-sky", "infer", inputs=sky, model=model) if sky else None
    add(
        "report",
        "report",
        scores=labelled,
        sky=config.report.sky or scores,
    )
    return steps


def missing(steps: Sequence[Step], output: Path) -> list[str]:
    """Say which files a chain names are not there, and will not be: "[train] shards: mocks/"."""
    wanting = []
    for _, stage, staged in steps:
        section = getattr(staged, stage)
        for name, extra in section.extras():
            value = getattr(section, name)
            given = value if isinstance(value, tuple) else (value,)
            for path in given if extra.get("input") or name == "write_model" else ():
                # A pattern, such as that of PSF images, is no path yet.
                if (
                    isinstance(path, Path)
                    and "{" not in path.name
                    and not within(path, output)
                    and not path.exists()
                ):
                    wanting.append(f"[{stage}] {name}: {path}")
    return list(dict.fromkeys(wanting))


def check_steps(steps: Sequence[Step], output: Path) -> None:
    """Refuse a chain that can't come to its end, before hours of work.

    Raises
    ------
    RequestError
        If a file that it names is not there, its mocks can't be made, or not be trained on.
    MismatchError
        If a model that it names takes other stamps.
    """
    if wanting := missing(steps, output):
        raise RequestError(f"no such file: {'; '.join(wanting)}", "files that are there")
    from lensfinder import networks
    from lensfinder.infer import ensemble, planning
    from lensfinder.simulate.planning import load_population, plan_request

    staged = {stage: config for _, stage, config in steps}
    training = staged.get("train")
    if training is not None and training.train.network not in networks.names():
        name = training.train.network
        raise RequestError(f"unknown network '{name}'", nearest(name, networks.names()))
    mocks = staged.get("simulate")
    if mocks is None:
        return
    material = ("hosts", "sky", "psf", "sources", "truth", "known")
    named = [getattr(mocks.simulate, name) for name in material]
    if any(isinstance(path, Path) and within(path, output) for path in named):
        # What the chain makes first is not there to be looked at.
        load_population(mocks.simulate.population)
        return
    request = plan_request(mocks)
    bands, size = request.keys["bands"], request.keys["size"]
    if training is not None and all(within(path, output) for path in training.train.shards):
        if request.keys["val_fraction"] == 0 and request.truth is None:
            raise RequestError(
                "simulate.val_fraction is 0, and training follows", "a share of mocks to choose by"
            )
        # Refuses stamps that are too small for it.
        networks.count_multiply_adds(training.train.network, len(bands), size)
    section = steps[-1][2].infer
    if training is None and not section.adapt:
        files = [file for path in section.model for file in planning.model_files(path)]
        sky, stretched = request.inputs["sky"], request.inputs["population"].get("composite")
        ensemble.load(files, verify=False).members[0].check_compatible(
            bands, sky["pixel_scale_arcsec"], size, stretched is not None
        )


def within(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, or would."""
    return path.resolve().is_relative_to(folder.resolve())


def run_pipeline(
    config: Config, output: Path, execution: Execution, only: str | None = None
) -> list[Summary]:
    """Run the chain; a stage that could not do all its units lets the others go on.

    Parameters
    ----------
    config : Config
    output : Path
        Holds a folder for each stage.
    execution : Execution
        A share of the units, or merging, is meant for one stage.
    only : str, optional
        Do this stage alone, named by its folder; those before it are taken as done.

    Returns
    -------
    list of Summary
        One a stage, the report's last. It ends early where a stage did nothing useful.

    Raises
    ------
    RequestError
        If `only` is no folder of the chain, or is missing where it is needed.
    """
    steps = _chosen(chain(config, output), only)
    if only is None and (execution.is_share or execution.finish_only):
        raise RequestError(
            "--part and --finish for a whole chain",
            "one stage",
            f"Add --only with one of {', '.join(folder for folder, _, _ in steps)}.",
        )
    if only is None:
        check_steps(steps, output)
    summaries = []
    patience_s = config.run.workers_timeout_s
    with Engine(execution.engine, execution.workers, config.slurm, patience_s) as engine:
        for folder, stage, staged in steps:
            summary = execute(stage, staged, output / folder, execution, engine)
            _tell_what_was_lost(summary)
            summaries.append(summary)
            nothing = not (summary.done or summary.reused or execution.is_share)
            if summary.exit_code == 3 and nothing:
                summary.exit_code = 2  # not one product: there is nothing to go on with
            if summary.exit_code in BREAKING or summary.counts.get("to_do"):
                # What comes next reads this stage's products: it can't be done, nor foreseen.
                break
            if execution.verbosity >= 0 and not execution.dry_run and folder != steps[-1][0]:
                print(*map(printable, summary.lines), sep="\n", file=sys.stderr, flush=True)
    if execution.dry_run:
        waiting = [
            f"{folder}: planned from what comes before it"
            for folder, _, _ in steps[len(summaries) :]
        ]
        summaries[-1].lines = [line for each in summaries for line in each.lines] + waiting
    return summaries


def submit_pipeline(
    config: Config,
    pipeline: Path,
    output: Path,
    more: Sequence[str],
    only: str | None = None,
    *,
    dry_run: bool = False,
) -> list[str]:
    """Submit the chain's jobs to Slurm.

    Parameters
    ----------
    config : Config
    pipeline : Path
        The file that jobs read it from.
    output : Path
        Holds a folder for each stage, and ``logs``.
    more : sequence of str
        Options that each job's command gets, too.
    only : str, optional
        Submit this stage alone.
    dry_run : bool
        Return the scripts instead of submitting them.

    Returns
    -------
    list of str
        Lines for a person.

    Raises
    ------
    RequestError
        If there is no Slurm here, or it refuses a job.
    """
    steps = _chosen(chain(config, output), only)
    if only is None:
        check_steps(steps, output)
    jobs = slurm.jobs_of(steps, output, config.slurm, slurm.run_command(pipeline, output, more))
    if dry_run:
        return [line for job in jobs for line in _shown(job)]
    numbers = slurm.submit(jobs, output)
    width = max(map(len, numbers))
    return [
        *(f"{name:{width}}  job {number}" for name, number in numbers.items()),
        f"Follow them with `squeue --me` and `lensfinder status {output}`; what they say is in "
        f"{output / 'logs'}.",
    ]


def _shown(job: slurm.Job) -> tuple[str, str]:
    return " ".join(("#", job.name, *job.dependency())), job.script


def _chosen(steps: list[Step], only: str | None) -> list[Step]:
    folders = [folder for folder, _, _ in steps]
    if only is None:
        return steps
    if only not in folders:
        raise RequestError(f"--only {only}", nearest(only, folders))
    return [steps[folders.index(only)]]


def _tell_what_was_lost(summary: Summary) -> None:
    """Have a share that nobody did, such as a lost task's of a job array, end in exit code 75."""
    lost = [name for name, why in summary.failures.items() if why.reason == "not_done"]
    if lost and summary.exit_code != 1:
        summary.exit_code = Interrupted.exit_code
        summary.lines.append(
            f"{summary.stage}: {len(lost)} units were not attempted. Do them, or run the chain "
            "again: what is done stays."
        )
