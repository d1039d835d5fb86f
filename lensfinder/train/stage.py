"""`train`: labelled shards to a model file.

One unit, the model. Beside it stand ``metrics.jsonl``, a line an epoch, and ``curve.png``. While
it trains, ``states/`` holds what is needed to go on after a stop or a kill.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensfinder import checkpoint, networks, parallel, schema
from lensfinder.commit import commit
from lensfinder.config import Config
from lensfinder.errors import RequestError
from lensfinder.ledger import close_ledger, products_of
from lensfinder.model import Spec, create
from lensfinder.progress import Progress
from lensfinder.runs import Receipt, Run, Summary, Unit, ingredients
from lensfinder.signals import Stop
from lensfinder.train import curve, data, distribute, evaluate, loop
from lensfinder.train.distribute import Ranks
from lensfinder.train.states import States

_VERSION = 1
_METRICS = "metrics.jsonl"
_CURVE = "curve.png"
_STATES = "states"


def plan(config: Config, run: Run) -> Iterator[list[Unit]]:
    """Check all that can be checked without pixels, and yield the one unit."""
    chosen = config.train
    stamps = data.open_set(_shards_of(chosen.shards))
    # Refuses an unknown network, or stamps too small for it, before anything is computed.
    networks.count_multiply_adds(chosen.network, len(stamps.bands), stamps.size)
    world = distribute.world_size(chosen.ranks)
    loop.check_shares(len(stamps.members("train")), chosen.batch_size, world)
    settings = {
        name: getattr(chosen, name)
        for name in loop.Settings.__dataclass_fields__
        if name not in ("seed", "precision")
    }
    unit = Unit(
        stage="train",
        name="model",
        product=run.product("model.safetensors"),
        ingredients=ingredients(
            "train",
            _VERSION,
            {**chosen.fingerprint(), "ranks": world},
            seed=config.run.seed,
            shards=[
                {"name": path.name, "fingerprint": fingerprint}
                for path, fingerprint in zip(stamps.paths, stamps.fingerprints, strict=True)
            ],
        ),
        task={
            "shards": [str(path) for path in stamps.paths],
            "settings": {**settings, "seed": config.run.seed},
            "ranks": world,
            "folder": str(run.folder),
            "save_every_s": chosen.save_every_s,
            "quiet": run.execution.verbosity < 0,
            "provenance": run.provenance,
        },
        planned=len(stamps.members("train")) + len(stamps.members("val")),
    )
    run.units.append(unit)
    yield [unit]


def _shards_of(paths: Sequence[Path]) -> list[Path]:
    if not paths:
        raise RequestError("no shards to train on", "at least one folder of `simulate`")
    found: list[Path] = []
    for path in paths:
        found += [path] if path.is_file() else products_of(path)
    return found


def do(unit: Unit) -> Receipt:
    """Train, on as many ranks as the unit says, and write the model."""
    folder = Path(unit.task["folder"])
    distribute.launch(unit.task["ranks"], parallel.threads(), folder, train_and_save, unit)
    return Receipt(planned=unit.planned, ok=unit.planned)


def train_and_save(ranks: Ranks, stop: Stop, unit: Unit) -> None:
    """Do what one rank does of a unit; the lead writes the files."""
    task = unit.task
    folder = Path(task["folder"])
    settings = loop.Settings(**task["settings"])
    stamps = data.open_set([Path(path) for path in task["shards"]])
    devices = ranks.devices()
    states = States(_states_of(unit))
    train_N, val_N = stamps.members("train"), stamps.members("val")
    steps = settings.epochs * loop.batches_of(len(train_N), settings.batch_size)

    def write_metrics(history: list[dict[str, Any]]) -> None:
        if ranks.leads:
            with commit(folder / _METRICS) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in history))

    quiet = task["quiet"] or not ranks.leads
    with Progress("train", steps, "steps", quiet=quiet) as progress:
        outcome = loop.train(
            stamps,
            settings,
            ranks,
            states,
            stop,
            save_every_s=task["save_every_s"],
            on_step=lambda count, note: progress.advance(count, note=note),
            on_epoch=write_metrics,
        )
    if ranks.leads:
        model = create(
            Spec(
                settings.network,
                stamps.bands,
                stamps.size,
                stamps.pixel_scale_arcsec,
                stamps.stretched,
            ),
            outcome.network,
            outcome.transform,
            temperature=outcome.temperature,
            training_prevalence=float(np.mean(stamps.label_N[train_N] == schema.LENS)),
            provenance={
                **task["provenance"],
                "ingredients": dict(unit.ingredients),
                "world_size": ranks.world,
                "devices": devices,
                "stamps": {"train": len(train_N), "val": len(val_N)},
                "best": outcome.history[outcome.best_epoch - 1],
            },
            training_radec_deg_N2=_places(stamps, np.concatenate([train_N, val_N])),
        )
        checkpoint.save(unit.product, model)
    ranks.wait_for_all()


def _places(stamps: data.StampSet, index_N: data.Index) -> torch.Tensor:
    """Return the positions of real galaxies among the stamps, each once."""
    radec_deg_N2 = stamps.radec_deg_N2[index_N]
    real_N = np.isfinite(radec_deg_N2).all(axis=1)
    return torch.from_numpy(np.unique(radec_deg_N2[real_N], axis=0))


def _states_of(unit: Unit) -> Path:
    return Path(unit.task["folder"]) / _STATES / unit.fingerprint[:16]


def made_from(path: Path) -> dict[str, Any] | None:
    """Return a model's ingredients, or None if it can't be read."""
    try:
        header = checkpoint.read_header(path)
    except RequestError:
        return None
    stored: dict[str, Any] | None = header["provenance"].get("ingredients")
    return stored


def prove(unit: Unit) -> Receipt | None:
    """Open the model, compare its checksum, and count what it was trained on."""
    try:
        header = checkpoint.read_header(unit.product)
    except RequestError:
        return None
    stamps = header["provenance"].get("stamps", {})
    trained_on = sum(stamps.values())
    if trained_on != unit.planned:
        return None
    return Receipt(planned=trained_on, ok=trained_on)


def finish(run: Run) -> Summary:
    """Draw the curve, write index and ledger, and drop the states of a finished training."""
    counts = close_ledger(run, prove)
    summary = Summary("train", run.folder, counts)
    (unit,) = run.units
    if counts["failed"]:
        return summary
    history = [json.loads(line) for line in (run.folder / _METRICS).read_text().splitlines()]
    with commit(run.folder / _CURVE) as temporary, temporary.open("wb") as file:
        curve.draw(history, file)
    States(run.folder / _STATES).forget()
    provenance = checkpoint.read_header(unit.product)["provenance"]
    best, stamps = provenance["best"], provenance["stamps"]
    summary.lines = [
        f"train: {run.config.train.network} on {stamps['train']} stamps "
        f"({provenance['world_size']} x {provenance['devices'][0]}); epoch {best['epoch']} of "
        f"{len(history)} kept: on {stamps['val']} val stamps AUROC {best['val_auroc']:.4f}, "
        f"TPR {best[evaluate.SELECTION_FIGURE]:.3f} at FPR {evaluate.SELECTION_FPR:g}",
        f"train: wrote {unit.product}",
    ]
    return summary
