"""The training loop, top to bottom.

What happens is decided by (seed, epoch, object index) and the settings alone. The same global
batch on more ranks gives the same losses; the same command on the same machine gives the same
weights, bit for bit, however often it was stopped or killed on the way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel

from lensfinder import networks
from lensfinder.errors import Interrupted, RequestError
from lensfinder.pixels import RECIPES, PixelTransform
from lensfinder.signals import Stop
from lensfinder.train import augment, evaluate
from lensfinder.train.data import Index, Pixels, StampSet, prefetch
from lensfinder.train.distribute import Ranks
from lensfinder.train.states import States

# The published network keeps its published pixels; all others get ours.
PIXEL_RECIPES = {"deeplens": "deeplens"}
FIT_STAMPS = 4096
EVALUATION_BATCH = 256
_ORDER_STREAM = 1  # `augment` has another


@dataclass(frozen=True)
class Settings:
    """What decides the weights, beside the stamps.

    Parameters
    ----------
    network : str
        Architecture.
    epochs : int
        Passes over the train split.
    batch_size : int
        Stamps in a global batch, over all ranks; batches of an epoch differ by at most one
        stamp, and none is smaller, unless the split is.
    learning_rate : float
        At its peak: linear warm-up, then a cosine down to 0.
    weight_decay : float
        AdamW's, on weights of convolutions and dense layers only.
    warmup : float
        Share of the steps.
    clip_norm : float
        Gradient norm above which the gradient is scaled down.
    shift_pixels : int
        Largest shift of the augmentation.
    seed : int
        Of initial weights, order and augmentation.
    precision : {"float32", "float64"}
        Of weights and pixels; tests of exactness use float64.
    """

    network: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    clip_norm: float
    shift_pixels: int
    seed: int
    precision: Literal["float32", "float64"] = "float32"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32


@dataclass(frozen=True)
class Outcome:
    """What comes out: the best epoch's network, and how it got there."""

    network: nn.Module
    transform: PixelTransform
    history: list[dict[str, Any]]
    best_epoch: int
    temperature: float


def train(  # noqa: PLR0915 - a training loop is read top to bottom
    stamps: StampSet,
    settings: Settings,
    ranks: Ranks,
    states: States,
    stop: Stop,
    *,
    save_every_s: float = 60.0,
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
    save_every_s : float
        Seconds between saved states; one is saved at each epoch's end anyway.
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
    RequestError
        If the loss stops being finite, or a batch has fewer stamps than there are ranks.
    """
    device, dtype = ranks.device, settings.dtype
    train_N, val_N = stamps.members("train"), stamps.members("val")
    label_N = torch.from_numpy(np.maximum(stamps.label_N, 0)).to(dtype)
    batches = batches_of(len(train_N), settings.batch_size)
    total_steps = settings.epochs * batches
    check_shares(len(train_N), settings.batch_size, ranks.world)

    pixels = Pixels(stamps)
    transform = _fit_transform(pixels, train_N, settings.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = networks.build(settings.network, len(stamps.bands), stamps.size)
    network = networks.channels_last(network.to(device, dtype))
    model: nn.Module = network
    if ranks.world > 1:
        model = _distributed(network, stamps, ranks, dtype)
    optimizer = _optimizer(network, settings)

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
        optimizer.load_state_dict(state["optimizer"])
        on_step(step, "")

    def save() -> None:
        if ranks.leads:
            position = {"step": step, "epoch": epoch, "batch": batch, "loss_sum": loss_sum}
            figures = {"history": history, "best": best}
            tensors = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            states.save(step, {**position, **figures, **tensors})

    def read(share_B: Index) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return *pixels.gather(share_B, augmentation_N4[share_B]), label_N[share_B]

    saved_at = time.monotonic()
    while epoch < settings.epochs:
        rng = np.random.default_rng((settings.seed, _ORDER_STREAM, epoch))
        order = np.array_split(rng.permutation(train_N), batches)
        augmentation_N4 = augment.draw(
            settings.seed, epoch, len(stamps.label_N), settings.shift_pixels
        )
        shares = [ranks.share(whole_B) for whole_B in order[batch:]]
        model.train()
        for image_NCHW, mask_NCHW, label_B in prefetch(read, shares):
            x_NCHW = transform(image_NCHW.to(device, dtype), mask_NCHW.to(device))
            logit_B = model(x_NCHW.contiguous(memory_format=torch.channels_last))
            loss = binary_cross_entropy_with_logits(logit_B, label_B.to(device), reduction="sum")
            # DDP averages gradients over ranks: sum / global batch x world makes that the
            # gradient of the global batch's mean, however unevenly the ranks share it.
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss * (ranks.world / len(order[batch])))
            norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule(step, total_steps, settings.warmup)

            # One sum tells all ranks the batch's loss, and whether any of them was asked to stop.
            told = torch.tensor([loss.item(), float(bool(stop.requested))], dtype=torch.float64)
            batch_loss, stops = ranks.add_up(told).tolist()
            if not math.isfinite(batch_loss + norm.item()):
                raise _diverged(epoch, batch, states)
            optimizer.step()
            loss_sum += batch_loss
            step, batch = step + 1, batch + 1
            on_step(1, f"epoch {epoch + 1}  loss {batch_loss / len(order[batch - 1]):.3f}")
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

        ranks.same_buffers(network)
        logit_V = _evaluate(network, transform, pixels, val_N, ranks, dtype)
        if not np.isfinite(logit_V).all():
            raise _diverged(epoch, batch, states)
        measured = evaluate.figures(logit_V, stamps.label_N[val_N])
        improved = not best or evaluate.merit(measured) > tuple(best["merit"])
        if improved:
            weights = {n: t.detach().cpu().clone() for n, t in network.state_dict().items()}
            best = {
                "merit": list(evaluate.merit(measured)),
                "epoch": epoch,
                "network": weights,
                "logit_V": torch.from_numpy(logit_V),
            }
        figures = {"epoch": epoch + 1, "step": step, "train_loss": loss_sum / len(train_N)}
        history.append({**figures, **measured, "best": improved})
        on_epoch(history)
        epoch, batch, loss_sum = epoch + 1, 0, 0.0
        save()
        saved_at = time.monotonic()

    network.load_state_dict(best["network"])
    temperature = evaluate.fit_temperature(best["logit_V"].numpy(), stamps.label_N[val_N])
    return Outcome(network.float(), transform, history, best["epoch"] + 1, temperature)


def batches_of(stamps: int, batch_size: int) -> int:
    """Count the batches of an epoch: none has fewer than `batch_size`, unless the split has."""
    return max(1, stamps // batch_size)


def check_shares(stamps: int, batch_size: int, world: int) -> None:
    """Raise `RequestError` if some rank would go without a stamp in some batch."""
    smallest = min(batch_size, stamps)
    if smallest < world:
        raise RequestError(
            f"batches of {smallest} stamps for {world} ranks",
            "at least one stamp for each rank",
            "Raise train.batch_size, or use fewer ranks.",
        )


def schedule(step: int, total_steps: int, warmup: float) -> float:
    """Return the learning rate of a step, from 0, as a share of its peak."""
    rising = max(1, round(warmup * total_steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total_steps - rising)))


def _fit_transform(pixels: Pixels, train_N: Index, network: str) -> PixelTransform:
    """Fit on training stamps evenly spaced over the split, the same on every rank."""
    recipe = RECIPES[PIXEL_RECIPES.get(network, "sky")]
    chosen = np.unique(np.linspace(0, len(train_N) - 1, FIT_STAMPS).round().astype(int))
    pieces = np.array_split(train_N[chosen], math.ceil(len(chosen) / EVALUATION_BATCH))
    return PixelTransform.fit(recipe, (pixels.gather(piece_B) for piece_B in pieces))


def _optimizer(network: nn.Module, settings: Settings) -> torch.optim.AdamW:
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]  # biases and norms
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def _distributed(
    network: nn.Module, stamps: StampSet, ranks: Ranks, dtype: torch.dtype
) -> DistributedDataParallel:
    """Wrap a network for averaging gradients over the ranks.

    DDP arranges its buckets anew after its first backward pass, which changes the order of sums
    on three ranks and more, and with it the last bit. An idle pass gets that over with, so that a
    resumed training sums as an uninterrupted one does.
    """
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    on_gpu = ranks.device.type == "cuda"
    model = DistributedDataParallel(network, device_ids=[ranks.device] if on_gpu else None)
    shape = (2, len(stamps.bands), stamps.size, stamps.size)
    for _ in range(2):
        idle_NCHW = torch.zeros(shape, dtype=dtype, device=ranks.device)
        model(idle_NCHW.contiguous(memory_format=torch.channels_last)).sum().backward()
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(statistics[name])
    return model


@torch.inference_mode()
def _evaluate(
    network: nn.Module,
    transform: PixelTransform,
    pixels: Pixels,
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
    read = prefetch(lambda piece_B: (piece_B, *pixels.gather(index_V[piece_B])), pieces)
    for piece_B, image_NCHW, mask_NCHW in read:
        x_NCHW = transform(image_NCHW.to(ranks.device, dtype), mask_NCHW.to(ranks.device))
        logit_B = network(x_NCHW.contiguous(memory_format=torch.channels_last))
        logit_V[piece_B] = logit_B.double().cpu()
    return ranks.add_up(logit_V).numpy()


def _diverged(epoch: int, batch: int, states: States) -> RequestError:
    return RequestError(
        f"the loss is no longer finite in epoch {epoch + 1}, batch {batch + 1}",
        "a finite loss and gradient",
        "Lower train.learning_rate or train.clip_norm and use another output folder; the states "
        f"saved before stay in {states.folder}.",
    )
