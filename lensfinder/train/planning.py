"""What a request to `train` comes down to: which models, of which stamps, begun with what."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from lensfinder import checkpoint, networks, schema
from lensfinder.config import Config, TrainConfig
from lensfinder.errors import MismatchError, RequestError, counted
from lensfinder.fingerprints import ingredients
from lensfinder.ledger import INDEX, products_of, read_index
from lensfinder.model import Model
from lensfinder.pixels import name_of
from lensfinder.runs import Run
from lensfinder.simulate.compiled import require_numba
from lensfinder.train import data, distribute, loop, transfer
from lensfinder.train.data import StampSet
from lensfinder.train.network import channels_for, weights_from
from lensfinder.train.settings import Settings
from lensfinder.units import Unit

_VERSION = 5
MODEL = "model"
STATES = "states"
LABELLED = "labelled.h5"  # of `grades`
# Keys that say how many models there will be; what each is made of stands in its own ingredients.
_HOW_MANY = ("members", "separately", "folds")


def plan_units(config: Config, run: Run) -> Iterator[list[Unit]]:
    """Check all that can be checked without pixels, and yield a unit for each model."""
    chosen = config.train
    sets = [(item, _shards_of([item])) for item in chosen.shards] if chosen.separately else []
    everything = data.open_set(_shards_of(chosen.shards))  # also: no set leaks into another
    world = distribute.world_size(chosen.ranks)
    init = _model_to_begin_with(chosen)
    pixels: str = chosen.pixels
    if init is not None and pixels == "auto":
        pixels = name_of(init[1].transform.recipe) or pixels
    channels = channels_for(everything, chosen.network, pixels)
    if init is not None:
        _check_init(init[1], chosen, everything, channels)
    if chosen.stream and data.recipe_of(everything)["simulate"].get("compile"):
        require_numba()
    # Refuses an unknown network, or stamps too small for it, before anything is computed.
    networks.count_multiply_adds(chosen.network, len(channels), everything.size)
    if 2 * chosen.shift_pixels >= everything.size:
        raise RequestError(
            f"train.shift_pixels is {chosen.shift_pixels}",
            f"less than half of a stamp, which has {everything.size} pixels",
        )
    least = networks.least_batch(chosen.network, len(channels), everything.size)
    units = []
    for number in range(max(1, len(sets))):
        stamps = data.open_set(sets[number][1]) if sets else everything
        for fold in range(chosen.folds or 1):
            parted = stamps.folded(fold, chosen.folds, config.run.seed) if chosen.folds else stamps
            loop.check_shares(len(parted.members("train")), chosen.batch_size, world, least)
            for member in range(chosen.members):
                name = MODEL + "".join(
                    f"-{what}-{which + 1}"
                    for what, which, named in (
                        ("set", number, bool(sets)),
                        ("fold", fold, bool(chosen.folds)),
                        ("member", member, member > 0),
                    )
                    if named
                )
                units.append(_unit(name, config, run, parted, world, fold, member, pixels, init))
    without = int(((everything.label_N != schema.UNKNOWN) & (everything.split_N == "")).sum())
    if without:
        run.notices.append(
            f"note: not trained on, for they are of no split: {counted(without, 'labelled stamp')}"
        )
    _tell_other_states(run, units)
    units = run.share(units)
    run.units += units
    yield units


def _tell_other_states(run: Run, units: Sequence[Unit]) -> None:
    """Say so where a training that was stopped had other options, or other stamps."""
    states = {path.name for path in (run.folder / STATES).glob("*")}
    planned = {unit.fingerprint[:16]: unit for unit in units}
    anew = [name for name, unit in planned.items() if not unit.product.exists()]
    tells = run.execution.verbosity >= 0 and not run.execution.dry_run and distribute.leads()
    if tells and states - set(planned) and set(anew) - states:
        print(
            f"note: {run.folder / STATES} holds states of a training with other options or stamps, "
            "from which this one does not go on",
            file=sys.stderr,
            flush=True,
        )


def _unit(
    name: str,
    config: Config,
    run: Run,
    stamps: StampSet,
    world: int,
    fold: int,
    member: int,
    pixels: str,
    init: tuple[Path, Model] | None,
) -> Unit:
    chosen, seed = config.train, config.run.seed + member
    keys = {k: v for k, v in chosen.fingerprint().items() if k not in _HOW_MANY}
    settings = {
        field.name: getattr(chosen, field.name)
        for field in fields(Settings)
        if field.name != "seed"
    }
    which: dict[str, Any] = {"seed": seed}
    if chosen.folds:
        which["fold"] = {"number": fold, "of": chosen.folds, "seed": config.run.seed}
    if init is not None:
        which |= {"init": init[1].model_id, "pixels": pixels}
    return Unit(
        stage="train",
        name=name,
        product=run.product(f"{name}.safetensors"),
        ingredients=ingredients(
            "train",
            _VERSION,
            {**keys, "ranks": world},
            **which,
            shards=[
                {"name": path.name, "fingerprint": fingerprint}
                for path, fingerprint in zip(stamps.paths, stamps.fingerprints, strict=True)
            ],
        ),
        task={
            "shards": [str(path) for path in stamps.paths],
            "settings": {**settings, "pixels": pixels, "seed": seed},
            "fold": which.get("fold"),
            "init": None if init is None else str(init[0]),
            "stream": chosen.stream,
            "ranks": world,
            "folder": str(run.folder),
            "save_every_s": chosen.save_every_s,
            "quiet": run.execution.verbosity < 0,
            "provenance": {**run.provenance, "seed": seed},
        },
        planned=len(stamps.members("train")) + len(stamps.members("val")),
    )


def _shards_of(paths: Sequence[Path]) -> list[Path]:
    if not paths:
        raise RequestError("no shards to train on", "at least one folder of `simulate`")
    found: list[Path] = []
    for path in paths:
        graded = path / LABELLED
        if path.is_file():
            found.append(path)
        elif graded.exists() and not (path / INDEX).exists():
            found.append(graded)
        elif (stage := read_index(path)["stage"]) not in ("simulate", "cutout"):
            raise RequestError(f"{path} was written by {stage}", "a folder of simulate or cutout")
        else:
            found += products_of(path)
    return found


def _model_to_begin_with(chosen: TrainConfig) -> tuple[Path, Model] | None:
    """Open the model that `init` names."""
    if chosen.init is None:
        return None
    path = chosen.init
    if path.is_dir():
        listed = [p for p in products_of(path, "train") if p.suffix == ".safetensors"]
        if len(listed) != 1:
            raise RequestError(f"{path} holds {len(listed)} models", "one, or the path of a file")
        path = listed[0]
    return path, checkpoint.load(path, "cpu", verify=False)


def _check_init(
    start: Model, chosen: TrainConfig, stamps: StampSet, channels: tuple[str, ...]
) -> None:
    """Refuse a model to begin with that does not fit."""
    transfer.check(start.spec, chosen.network, stamps.stretched)
    with torch.device("meta"):
        network = networks.build(chosen.network, len(channels), stamps.size, auxiliary=True)
    transfer.check_freeze(network, chosen.freeze)
    weights_from(start, network, channels, stamps.size, new_head=chosen.new_head)
    seen = start.provenance.get("ingredients", {}).get("shards", [])
    shared = {shard["fingerprint"] for shard in seen} & set(stamps.fingerprints)
    if chosen.folds and shared:
        raise MismatchError(
            f"the model to begin with was trained on {len(shared)} of these "
            f"{len(stamps.fingerprints)} shards, and --folds scores each stamp by models that "
            "never saw it",
            "a model of other stamps, or no --init",
        )
