"""`train`: labelled shards to a model file, or to the several of an ensemble.

A unit is a model. Beside it stand ``metrics.jsonl``, a line an epoch, and ``curve.png``. While
it trains, ``states/`` holds what is needed to go on after a stop or a kill.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensfinder import checkpoint, parallel, schema, shards, tables
from lensfinder.commit import commit
from lensfinder.config import Config
from lensfinder.errors import RequestError
from lensfinder.ledger import close_ledger
from lensfinder.model import Model, Spec, create
from lensfinder.progress import Progress
from lensfinder.runs import Run, Summary
from lensfinder.signals import Stop
from lensfinder.train import curve, data, distribute, evaluate, leakage, loop
from lensfinder.train.data import StampSet
from lensfinder.train.distribute import Ranks
from lensfinder.train.fresh import streaming
from lensfinder.train.order import Index, batches_of
from lensfinder.train.planning import MODEL, STATES, plan_units
from lensfinder.train.seeing import median_fwhm_arcsec
from lensfinder.train.settings import Settings
from lensfinder.train.states import States
from lensfinder.units import Receipt, Unit

_OUT_OF_FOLD = "out-of-fold"


def plan(config: Config, run: Run) -> Iterator[list[Unit]]:
    """Check all that can be checked without pixels, and yield a unit for each model."""
    yield from plan_units(config, run)


def do(unit: Unit) -> Receipt:
    """Train, on as many ranks as the unit says, and write the model."""
    folder = Path(unit.task["folder"])
    distribute.launch(
        unit.task["ranks"], parallel.threads(), folder, train_and_save, unit, name=unit.name
    )
    return Receipt(planned=unit.planned, ok=unit.planned)


def train_and_save(ranks: Ranks, stop: Stop, unit: Unit) -> None:
    """Do what one rank does of a unit; the lead writes the files."""
    parallel.keep_buffers(all_of_them=True)
    task = unit.task
    settings = Settings(**task["settings"])
    stamps = data.open_set([Path(path) for path in task["shards"]])
    if task["fold"] is not None:
        fold = task["fold"]
        stamps = stamps.folded(fold["number"], fold["of"], fold["seed"])
    start = None if task["init"] is None else checkpoint.load(Path(task["init"]), ranks.device)
    devices = ranks.devices()
    states = States(Path(task["folder"]) / STATES / unit.fingerprint[:16])
    if not ranks.add_up(torch.tensor(float(ranks.leads and states.folder.exists()))):
        _refuse_twins(stamps, ranks)
    train_N, val_N = stamps.members("train"), stamps.members("val")
    steps = settings.epochs * batches_of(len(train_N), settings.batch_size)

    def write_metrics(history: list[dict[str, Any]]) -> None:
        if ranks.leads:
            with commit(_beside(unit, "metrics", ".jsonl")) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in history))

    def model_of(outcome: loop.Outcome) -> Model:
        prevalence = float(np.mean(stamps.label_N[train_N] == schema.LENS))
        return create(
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
            training_prevalence=settings.effective_prevalence(prevalence),
            provenance={
                **task["provenance"],
                "ingredients": dict(unit.ingredients),
                "world_size": ranks.world,
                "devices": devices,
                "stamps": {"train": len(train_N), "val": len(val_N)},
                "psf_fwhm_arcsec": median_fwhm_arcsec(_catalogs(stamps, train_N), stamps.bands),
                "val_negatives": int(np.sum(stamps.label_N[val_N] != schema.LENS)),
                "epochs": len(outcome.history),
                "best": outcome.history[outcome.best_epoch - 1],
            },
            training_radec_deg_N2=_places(stamps, np.concatenate([train_N, val_N]), start),
        )

    with ExitStack() as stack:
        progress = stack.enter_context(
            Progress(_title(unit), steps, "steps", quiet=task["quiet"] or not ranks.leads)
        )
        fresh = None
        if task["stream"]:
            workers = max(1, parallel.threads() // ranks.world)
            fresh = stack.enter_context(streaming(data.recipe_of(stamps), settings.seed, workers))
        try:
            outcome = loop.train(
                stamps,
                settings,
                ranks,
                states,
                stop,
                start=start,
                fresh=fresh,
                save_every_s=task["save_every_s"],
                on_resume=progress.resume,
                on_step=lambda count, note: progress.advance(count, note=note),
                on_epoch=write_metrics,
            )
        except loop.Diverged as error:
            if ranks.leads and error.outcome is not None:
                checkpoint.save(
                    _beside(unit, "best-so-far", ".safetensors"), model_of(error.outcome)
                )
            raise
    if ranks.leads:
        model = model_of(outcome)
        if task["fold"] is not None:
            _write_left_out(unit, stamps, outcome, model)
        checkpoint.save(unit.product, model)
    ranks.wait_for_all()


def _title(unit: Unit) -> str:
    """Say which model of several: train, train member-2."""
    return "train" if unit.name == MODEL else f"train {unit.name.removeprefix(MODEL + '-')}"


def _beside(unit: Unit, what: str, suffix: str) -> Path:
    """Name a file of a unit's beside the products: metrics.jsonl, metrics-member-2.jsonl."""
    return Path(unit.task["folder"]) / f"{what}{unit.name.removeprefix(MODEL)}{suffix}"


def _refuse_twins(stamps: StampSet, ranks: Ranks) -> None:
    """Look for the same pixels, turned or not, in two splits; the ranks share the reading."""
    told_N = np.flatnonzero(stamps.split_N != "")
    print_N = np.zeros(len(told_N), np.int64)
    mine = ranks.share(np.arange(len(told_N)))
    print_N[mine] = data.Pixels(stamps).prints(told_N[mine])
    print_N = ranks.add_up(torch.from_numpy(print_N)).numpy()
    leakage.check_prints(print_N, stamps.id_N[told_N], stamps.split_N[told_N])


def _write_left_out(unit: Unit, stamps: StampSet, outcome: loop.Outcome, model: Model) -> None:
    """Write the scores of the fold that this model never saw."""
    val_N = stamps.members("val")
    columns = {
        "id": stamps.id_N[val_N],
        "label": stamps.label_N[val_N],
        "fold": np.full(len(val_N), unit.task["fold"]["number"] + 1, np.int32),
        "logit": outcome.logit_V.astype(np.float32),
        "score": model.scores(outcome.logit_V),
        "model_id": np.full(len(val_N), model.model_id, dtype=object),
    }
    tables.write_columns(_left_out_of(unit), columns)


def _left_out_of(unit: Unit) -> Path:
    return unit.product.parents[1] / _OUT_OF_FOLD / f"{unit.name}.parquet"


def _catalogs(stamps: StampSet, index_N: Index) -> Iterator[shards.Columns]:
    """Yield each shard's columns, of these stamps alone."""
    for number, path in enumerate(stamps.paths):
        own_N = index_N - stamps.start_S[number]
        with shards.read(path) as shard:
            own_N = own_N[(own_N >= 0) & (own_N < len(shard))]
            yield {name: values[own_N] for name, values in shard.catalog.items()}


def _places(stamps: StampSet, index_N: Index, start: Model | None) -> torch.Tensor:
    """Return the positions of real galaxies that a model has learnt from, each once.

    What the model that training began with had learnt from counts, too.
    """
    radec_deg_N2 = stamps.radec_deg_N2[index_N]
    if start is not None:
        radec_deg_N2 = np.concatenate([radec_deg_N2, start.training_radec_deg_N2.numpy()])
    real_N = np.isfinite(radec_deg_N2).all(axis=1)
    return torch.from_numpy(np.unique(radec_deg_N2[real_N], axis=0))


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
    if trained_on != unit.planned or not _left_out_is_told(unit):
        return None
    return Receipt(planned=trained_on, ok=trained_on)


def _left_out_is_told(unit: Unit) -> bool:
    # `status` proves a product knowing only what it was made from.
    if "fold" not in unit.ingredients:
        return True
    try:
        return tables.rows_of(_left_out_of(unit)) > 0
    except RequestError:
        return False


def _draw_curve(unit: Unit) -> None:
    """Draw the curve of a model whose metrics are still there."""
    path = _beside(unit, "metrics", ".jsonl")
    if path.exists():
        history = [json.loads(line) for line in path.read_text().splitlines()]
        with commit(_beside(unit, "curve", ".png")) as temporary, temporary.open("wb") as file:
            curve.draw(history, file)


def finish(run: Run) -> Summary:
    """Draw the curves, write index and ledger, and drop the states of a finished training."""
    counts = close_ledger(run, prove)
    summary = Summary("train", run.folder, counts)
    for unit in run.units:
        if not unit.product.exists():
            continue
        _draw_curve(unit)
        summary.lines += _described(run, unit)
    if counts["failed"]:
        return summary
    for unit in run.units:
        States(run.folder / STATES / unit.fingerprint[:16]).forget()
    with suppress(OSError):  # states of another training
        (run.folder / STATES).rmdir()
    if run.config.train.folds:
        summary.lines.append(_gather_left_out(run))
    return summary


def _described(run: Run, unit: Unit) -> list[str]:
    provenance = checkpoint.read_header(unit.product)["provenance"]
    best, stamps, chosen = provenance["best"], provenance["stamps"], run.config.train
    negatives = provenance["val_negatives"]
    fpr = evaluate.selection_fpr(negatives, chosen.select_fpr)
    tpr = best[evaluate.selection_figure(fpr)]
    early = ""
    if provenance["epochs"] < chosen.epochs:
        early = f" ({chosen.epochs} were allowed)"
    return [
        f"{_title(unit)}: {chosen.network} on {stamps['train']} stamps "
        f"({provenance['world_size']} x {provenance['devices'][0]}); epoch {best['epoch']} of "
        f"{provenance['epochs']}{early} kept: on {stamps['val']} val stamps AUROC "
        f"{best['val_auroc']:.4f}, TPR {tpr:.3f} with {evaluate.allowed(negatives, fpr)} of "
        f"{negatives} negatives above the threshold (FPR {chosen.select_fpr:g} asked)",
        f"train: wrote {unit.product}",
    ]


def _gather_left_out(run: Run) -> str:
    """Write the scores that every object got from models that never saw it, and say how good."""
    columns = tables.concatenate([tables.read_columns(_left_out_of(unit)) for unit in run.units])
    path = run.folder / f"{_OUT_OF_FOLD}.parquet"
    tables.write_columns(path, columns)
    # Logits of several networks have no common scale; calibrated scores have.
    score_N = np.asarray(columns["score"], np.float64)
    auroc = evaluate.auroc(score_N, np.asarray(columns["label"]))
    return f"train: out of fold AUROC {auroc:.4f} over {len(score_N)} scores; wrote {path}"
