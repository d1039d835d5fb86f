"""The training loop, top to bottom.

What happens is decided by (seed, epoch, object index) and the settings alone. The same global
batch on more ranks gives the same losses, but for networks with batch norm, whose statistics are a
rank's own (on GPUs they are the global batch's), or dropout. The same command on the same machine
gives the same weights, bit for bit, however often it was stopped or killed on the way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from lensfinder.errors import Interrupted, RequestError, counted
from lensfinder.model import Model
from lensfinder.pixels import PixelTransform
from lensfinder.signals import Stop
from lensfinder.train import augment, evaluate, optimise
from lensfinder.train.data import Pixels, StampSet, prefetch
from lensfinder.train.distribute import Ranks
from lensfinder.train.fresh import FreshStamps, Share, shares_of, tensors_of
from lensfinder.train.network import (
    EVALUATION_BATCH,
    begin,
    distributed,
    fit_transform,
    for_scoring,
    mixed_precision,
)
from lensfinder.train.order import Index, batches_of, order
from lensfinder.train.seen import SeenStamps
from lensfinder.train.settings import Settings
from lensfinder.train.states import States

AUXILIARY_WEIGHT = 0.3  # of GoogLeNet's auxiliary classifiers (Szegedy et al. 2015, section 5)
_DROPOUT_STREAM = 6  # `augment` and `order` have others


@dataclass(frozen=True)
class Outcome:
    """What comes out: the best epoch's network, and how it got there."""

    network: nn.Module
    transform: PixelTransform
    history: list[dict[str, Any]]
    best_epoch: int
    temperature: float
    logit_V: evaluate.Logits  # of the validation split's members


class Diverged(RequestError):
    """The loss is no longer finite; `outcome` is what was trained before, if any epoch ended."""

    outcome: Outcome | None = None


def train(  # noqa: PLR0915 - a training loop is read top to bottom
    stamps: StampSet,
    settings: Settings,
    ranks: Ranks,
    states: States,
    stop: Stop,
    *,
    start: Model | None = None,
    fresh: FreshStamps | None = None,
    save_every_s: float = 60.0,
    on_resume: Callable[[int], None] = lambda steps: None,
    on_step: Callable[[int, str], None] = lambda steps, note: None,
    on_epoch: Callable[[list[dict[str, Any]]], None] = lambda history: None,
) -> Outcome:
    """Train a network on the train split; choose the epoch and calibrate on the val split.

    Parameters
    ----------
    stamps : StampSet
        Checked by `data.open_set`.
    settings : Settings
        What decides the weights.
    ranks : Ranks
        This process among those that train together.
    states : States
        Where to go on from, and to save to.
    stop : Stop
        Says whether somebody asked us to stop; looked at after each step.
    start : Model, optional
        Whose weights to begin with.
    fresh : FreshStamps, optional
        What to train on instead of the train split, which then only says how many and fits the
        pixels.
    save_every_s : float
        Seconds between saved states; one is saved at each epoch's end anyway.
    on_resume : callable
        Called on every rank with the number of steps done before, if it goes on from a state.
    on_step : callable
        Called on every rank with the number of steps done and a note.
    on_epoch : callable
        Called on every rank with the figures of all epochs so far.

    Returns
    -------
    Outcome
        The same on every rank; the network in float32.

    Raises
    ------
    Interrupted
        After saving the state.
    Diverged
        If the loss stops being finite.
    RequestError
        If a batch has fewer stamps than there are ranks, or the device lacks the precision.
    """
    device, dtype = ranks.device, settings.dtype
    mixed = mixed_precision(settings.precision, device)
    train_N, val_N = stamps.members("train"), stamps.members("val")
    label_N = torch.from_numpy(np.maximum(stamps.label_N, 0)).to(dtype)
    val_negatives = int((stamps.label_N[val_N] == 0).sum())
    select_fpr = evaluate.selection_fpr(val_negatives, settings.select_fpr)
    prevalence = float(label_N[train_N].mean())
    count = len(label_N)
    batches = batches_of(len(train_N), settings.batch_size)
    total_steps = settings.epochs * batches
    check_shares(len(train_N), settings.batch_size, ranks.world)

    pixels = Pixels(stamps)
    transform = fit_transform(pixels, train_N, settings)
    # What acts on fluxes, and what is made on the way, comes before the transform.
    raw = settings.ranges.has_amounts or fresh is not None
    raw = raw or not SeenStamps.fit_in_memory(pixels, transform, len(train_N), dtype)
    seen = None if raw else SeenStamps(pixels, transform, train_N, device, dtype)
    # Each epoch scores the same val stamps in the same view.
    fits = SeenStamps.fit_in_memory(pixels, transform, len(train_N) + len(val_N), dtype)
    own_V = ranks.share(val_N)
    val_seen = SeenStamps(pixels, transform, own_V, device, dtype) if fits else None
    network = begin(stamps, settings, start, ranks)
    layers = len(optimise.layers_of(network))
    seen_shape = (transform.channel_count, stamps.size, stamps.size)
    drops = any(isinstance(module, nn.Dropout) for module in network.modules())
    average = optimise.Average(network, settings.ema)
    optimizer = optimise.optimizer_of(network, settings)
    scaler = torch.amp.GradScaler(device.type, enabled=mixed is torch.float16)

    step = epoch = batch = 0  # `batch` is the position in the epoch's order
    loss_sum = 0.0  # of the epoch so far, over all ranks
    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {}

    # Only the lead looks at the folder, and tells the others by a sum: 0 stands for "no state".
    found = states.newest_step() if ranks.leads else None
    resumed = int(ranks.add_up(torch.tensor(found or 0)))
    if resumed:
        state = states.load(resumed)
        step, epoch, batch = state["step"], state["epoch"], state["batch"]
        loss_sum, history, best = state["loss_sum"], state["history"], state["best"]
        network.load_state_dict(state["network"])
        average.load(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        on_resume(step)

    def save() -> None:
        if ranks.leads:
            position = {"step": step, "epoch": epoch, "batch": batch, "loss_sum": loss_sum}
            figures = {"history": history, "best": best, "scaler": scaler.state_dict()}
            tensors = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            states.save(step, {**position, **figures, **tensors, "average": average.state()})

    def read(share: Share) -> tuple[torch.Tensor, ...]:
        """Return labels and what `see` wants."""
        share_B, mocks = share
        if seen is not None:
            return label_N[share_B], seen.gather(share_B, view_N4[share_B])
        if mocks is None:
            image_NCHW, mask_NCHW = pixels.gather(share_B, view_N4[share_B])
            label_B = label_N[share_B]
        else:
            image_NCHW, mask_NCHW = tensors_of(mocks, view_N4[share_B])
            label_B = torch.from_numpy(mocks.label_N).to(dtype)
        extras: list[torch.Tensor] = []
        if settings.ranges.has_amounts:
            extras.append(torch.from_numpy(amount_NK[share_B]))
        if settings.noise:
            drawn_NCHW = augment.draw_noise(settings.seed, epoch, share_B, pixels.stamp_shape)
            extras.append(torch.from_numpy(drawn_NCHW))
        return label_B, image_NCHW, mask_NCHW, *extras

    def see(*pixels_B: torch.Tensor) -> torch.Tensor:
        """Turn a batch into the network's input."""
        if seen is not None:
            return pixels_B[0].to(device)
        image_NCHW, mask_NCHW = pixels_B[0].to(device, dtype), pixels_B[1].to(device)
        if settings.ranges.has_amounts:
            amount_BK, *noise = (x.to(device, dtype) for x in pixels_B[2:])
            image_NCHW, mask_NCHW = augment.alter(
                image_NCHW,
                mask_NCHW,
                amount_BK,
                noise[0] if noise else None,
                settings.ranges,
                transform.scale_njy_C,
            )
        x_NCHW = transform(image_NCHW, mask_NCHW)
        return x_NCHW.contiguous(memory_format=torch.channels_last)

    def outcome() -> Outcome:
        logit_V = best["logit_V"].numpy()
        temperature = evaluate.fit_temperature(
            logit_V, stamps.label_N[val_N], settings.effective_prevalence(prevalence)
        )
        scoring = for_scoring(stamps, settings, best["network"]).to(device)
        return Outcome(scoring, transform, history, best["epoch"] + 1, temperature, logit_V)

    def diverged() -> Diverged:
        error = _diverged(epoch, batch, states, bool(best))
        error.outcome = outcome() if best else None
        return error

    def out_of_patience() -> bool:
        return bool(best and settings.patience and epoch - best["epoch"] > settings.patience)

    model: nn.Module = network
    frozen = -1  # nothing is wrapped yet
    saved_at = time.monotonic()
    while epoch < settings.epochs and not out_of_patience():
        if frozen != settings.frozen_layers(epoch, layers):
            frozen = settings.frozen_layers(epoch, layers)
            optimise.freeze(network, frozen)
            model = distributed(network, seen_shape, ranks, dtype) if ranks.world > 1 else network
        if fresh is None:
            batched = order(
                train_N,
                stamps.label_N[train_N] == 1,
                batches,
                seed=settings.seed,
                epoch=epoch,
                balance=settings.balance,
                block=settings.shuffle_block,
            )
        else:  # as many new ones, in the order they are made
            batched = np.array_split(np.arange(len(train_N)), batches)
        view_N4 = augment.draw(settings.seed, epoch, count, settings.ranges)
        amount_NK = augment.draw_amounts(settings.seed, epoch, count, len(stamps.bands))
        optimise.training_mode(model, network, frozen)
        for label_B, *pixels_B in prefetch(read, shares_of(batched[batch:], epoch, ranks, fresh)):
            x_NCHW = see(*pixels_B)
            if drops:  # so that a resumed training drops what an uninterrupted one does
                torch.manual_seed(_number(settings.seed, _DROPOUT_STREAM, step, ranks.rank))
            with torch.autocast(device.type, mixed, enabled=mixed is not None):
                said = model(x_NCHW)
            loss, others = _losses(said, label_B.to(device), settings.lens_weight, prevalence)
            # DDP averages gradients over ranks: sum / global batch x world makes that the
            # gradient of the global batch's mean, however unevenly the ranks share it.
            optimizer.zero_grad(set_to_none=True)
            share = ranks.world / len(batched[batch])
            torch.autograd.backward(scaler.scale((loss + AUXILIARY_WEIGHT * others) * share))
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimise.set_rates(optimizer, rate_of(step, total_steps, batches, settings))

            # One sum tells all ranks the batch's loss, and whether any of them was asked to stop.
            told = torch.tensor([loss.item(), float(bool(stop.requested))], dtype=torch.float64)
            batch_loss, stops = ranks.add_up(told).tolist()
            # In float16 a gradient may overflow: the scaler leaves the step out and scales down.
            if not math.isfinite(batch_loss + (0 if scaler.is_enabled() else norm.item())):
                raise diverged()
            scaler.step(optimizer)
            scaler.update()
            loss_sum += batch_loss
            step, batch = step + 1, batch + 1
            average.update(step)
            on_step(1, f"epoch {epoch + 1}  loss {batch_loss / len(batched[batch - 1]):.3f}")
            if stops:
                save()
                raise Interrupted(
                    f"training stopped by {stop.requested or 'a signal'} after {step} of "
                    f"{total_steps} steps",
                    remedy="Run the same command to go on.",
                )
            if batch < batches and time.monotonic() - saved_at >= save_every_s:
                save()
                saved_at = time.monotonic()

        ranks.same_buffers(average.network)
        logit_V = _evaluate(average.network, transform, pixels, val_seen, val_N, ranks, dtype)
        if not np.isfinite(logit_V).all():
            batch -= 1  # it was the last one that did it
            raise diverged()
        measured = evaluate.figures(logit_V, stamps.label_N[val_N], select_fpr)
        merit = evaluate.merit(measured, select_fpr)
        improved = not best or merit > tuple(best["merit"])
        if improved:
            weights = average.network.state_dict()
            best = {
                "merit": list(merit),
                "epoch": epoch,
                "network": {name: t.detach().cpu().clone() for name, t in weights.items()},
                "logit_V": torch.from_numpy(logit_V),
            }
        figures = {"epoch": epoch + 1, "step": step, "train_loss": loss_sum / len(train_N)}
        history.append({**figures, **measured, "best": improved})
        on_epoch(history)
        epoch, batch, loss_sum = epoch + 1, 0, 0.0
        save()
        saved_at = time.monotonic()
    return outcome()


def check_shares(stamps: int, batch_size: int, world: int, least: int = 1) -> None:
    """Raise `RequestError` if some rank would have fewer than `least` stamps in some batch."""
    smallest = min(batch_size, stamps)
    if smallest < world * least:
        raise RequestError(
            f"batches of {counted(smallest, 'stamp')} for {counted(world, 'rank')}",
            f"at least {counted(least, 'stamp')} for each rank",
            "Raise train.batch_size, or use fewer ranks.",
        )


def rate_of(step: int, total_steps: int, batches: int, settings: Settings) -> float:
    """Return the learning rate of a step, from 0."""
    return settings.learning_rate * optimise.schedule(
        step,
        total_steps,
        settings.warmup,
        settings.schedule,
        settings.step_epochs * batches,
        settings.step_factor,
    )


def _number(*of: int) -> int:
    return int(np.random.SeedSequence(of).generate_state(1, np.uint64)[0])


def _losses(
    said: torch.Tensor | tuple[torch.Tensor, ...],
    label_B: torch.Tensor,
    lens_weight: float,
    prevalence: float,
) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Sum the cross-entropy of the network over a batch, and that of its auxiliary classifiers.

    Weights are scaled so that their mean over the train split is 1.
    """
    weight_B = None
    if lens_weight != 1:
        mean = 1 + (lens_weight - 1) * prevalence
        weight_B = (1 + (lens_weight - 1) * label_B) / mean
    own, *others = [
        binary_cross_entropy_with_logits(logit_B.to(label_B), label_B, weight_B, reduction="sum")
        for logit_B in (said if isinstance(said, tuple) else (said,))
    ]
    return own, sum(others)


@torch.inference_mode()
def _evaluate(
    network: nn.Module,
    transform: PixelTransform,
    pixels: Pixels,
    seen: SeenStamps | None,
    index_V: Index,
    ranks: Ranks,
    dtype: torch.dtype,
) -> evaluate.Logits:
    """Score each object on exactly one rank, and give every rank all logits, (V,) float64."""
    network.eval()
    places_V = np.arange(len(index_V))
    logit_V = torch.zeros(len(index_V), dtype=torch.float64)
    mine = ranks.share(places_V)
    pieces = [mine[i : i + EVALUATION_BATCH] for i in range(0, len(mine), EVALUATION_BATCH)]

    def read(piece_B: Index) -> tuple[Index, tuple[torch.Tensor, ...]]:
        index_B = index_V[piece_B]
        return piece_B, pixels.gather(index_B) if seen is None else (seen.gather(index_B),)

    for piece_B, pixels_B in prefetch(read, pieces):
        if seen is None:
            image_NCHW, mask_NCHW = pixels_B
            x_NCHW = transform(image_NCHW.to(ranks.device, dtype), mask_NCHW.to(ranks.device))
        else:
            x_NCHW = pixels_B[0].to(ranks.device)
        logit_B = network(x_NCHW.contiguous(memory_format=torch.channels_last))
        logit_V[piece_B] = logit_B.double().cpu()
    return ranks.add_up(logit_V).numpy()


def _diverged(epoch: int, batch: int, states: States, ended: bool) -> Diverged:
    kept = "Nothing was trained before."
    if ended:
        kept = (
            "What was trained before stays as the model best-so-far in the output folder, which "
            "--init takes."
        )
    elif states.folder.exists():
        kept = f"What was trained before stays in {states.folder}."
    return Diverged(
        f"the loss is no longer finite in epoch {epoch + 1}, batch {batch + 1}",
        "a finite loss and gradient",
        f"Lower train.learning_rate or train.clip_norm and use another output folder. {kept}",
    )
