"""The chain: each stage in a folder of its own, fed by the ones before it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lensfinder.config import Config
from lensfinder.parallel import Engine
from lensfinder.runs import Execution, Summary, execute


def chain(config: Config, output: Path) -> list[tuple[str, str, Config]]:
    """Lay out a pipeline: what each stage reads follows from what the others write.

    An input that the pipeline file names itself stays: a model of its own leaves out training,
    tiles under ``[infer]`` are streamed without cutting stamps first.

    Returns
    -------
    list of (folder name, stage, configuration)
        In the order they run.
    """
    steps: list[tuple[str, str, Config]] = []

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
    model = config.infer.model
    if model is None:
        model = add("train", "train", shards=config.train.shards or (mocks,))
    labelled = add("infer-mocks", "infer", inputs=(mocks,), model=model)
    scores = add("infer-sky", "infer", inputs=sky, model=model) if sky else None
    add(
        "report",
        "report",
        scores=config.report.scores or (labelled,),
        sky=config.report.sky or scores,
    )
    return steps


def run_pipeline(config: Config, output: Path, execution: Execution) -> list[Summary]:
    """Run the chain; a stage that could not do all its units lets the others go on.

    Returns
    -------
    list of Summary
        One a stage, the report's last. It ends early where a stage did nothing useful.
    """
    summaries = []
    with Engine(execution.engine, execution.workers) as engine:
        for folder, stage, staged in chain(config, output):
            summary = execute(stage, staged, output / folder, execution, engine)
            summaries.append(summary)
            if summary.exit_code in (1, 2, 4) or summary.counts.get("to_do"):
                # What comes next reads this stage's products: it can't be done, nor foreseen.
                break
            if execution.verbosity >= 0 and not execution.dry_run and stage != "report":
                print(*summary.lines, sep="\n", file=sys.stderr, flush=True)
    return summaries
