"""The network that is trained: its first weights, its pixels, its precision, its ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lensfinder import networks
from lensfinder.errors import RequestError
from lensfinder.model import Model
from lensfinder.pixels import RECIPES, PixelTransform, Recipe
from lensfinder.train import transfer
from lensfinder.train.data import Pixels, StampSet
from lensfinder.train.distribute import Ranks
from lensfinder.train.order import Index
from lensfinder.train.settings import Settings

# Published networks keep their published pixels; all others get ours.
PIXEL_RECIPES = {"deeplens": "deeplens", "petrillo2017": "petrillo", "petrillo2019": "petrillo"}
FIT_STAMPS = 4096
EVALUATION_BATCH = 256


def recipe_for(network: str, pixels: str, *, stretched: bool) -> Recipe:
    """Say what becomes of pixels before a network; `pixels` is ``[train] pixels``."""
    if pixels != "auto":
        return RECIPES[pixels]
    return RECIPES[PIXEL_RECIPES.get(network, "picture" if stretched else "sky")]


def fit_transform(pixels: Pixels, train_N: Index, settings: Settings) -> PixelTransform:
    """Fit on training stamps evenly spaced over the split, the same on every rank."""
    recipe = recipe_for(settings.network, settings.pixels, stretched=pixels.stretched)
    chosen = np.unique(np.linspace(0, len(train_N) - 1, FIT_STAMPS).round().astype(int))
    pieces = np.array_split(train_N[chosen], math.ceil(len(chosen) / EVALUATION_BATCH))
    return PixelTransform.fit(recipe, (pixels.gather(piece_B) for piece_B in pieces))


def channels_for(stamps: StampSet, network: str, pixels: str) -> tuple[str, ...]:
    """Name what a network sees of these stamps; arguments as for `recipe_for`."""
    return recipe_for(network, pixels, stretched=stamps.stretched).channels(stamps.bands)


def begin(stamps: StampSet, settings: Settings, start: Model | None, ranks: Ranks) -> nn.Module:
    """Make the network with its first weights, where it will be trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        channels = channels_for(stamps, settings.network, settings.pixels)
        network = networks.build(settings.network, len(channels), stamps.size, auxiliary=True)
    if start is not None:
        network.load_state_dict(
            weights_from(start, network, channels, stamps.size, new_head=settings.new_head)
        )
    if ranks.world > 1 and ranks.device.type == "cuda":
        # torch's stubs lack the types.
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return networks.channels_last(network.to(ranks.device, settings.dtype))


def weights_from(
    start: Model, network: nn.Module, channels: Sequence[str], size: int, *, new_head: bool
) -> dict[str, torch.Tensor]:
    """Return what `network` begins with, for these channels; see `transfer.weights_for`."""
    had = start.transform.recipe.channels(start.spec.bands)
    return transfer.weights_for(
        network, start.network.state_dict(), start.spec, had, channels, size, new_head=new_head
    )


def for_scoring(
    stamps: StampSet, settings: Settings, weights: dict[str, torch.Tensor]
) -> nn.Module:
    """Make the network that a model file holds: float32, and nothing that only helps to train."""
    with torch.device("meta"):
        channels = channels_for(stamps, settings.network, settings.pixels)
        network = networks.build(settings.network, len(channels), stamps.size)
    kept = {name: weights[name] for name in network.state_dict()}
    network.load_state_dict(kept, assign=True)
    return network.float()


def distributed(
    network: nn.Module, shape: tuple[int, ...], ranks: Ranks, dtype: torch.dtype
) -> DistributedDataParallel:
    """Wrap a network for averaging gradients over the ranks.

    DDP arranges its buckets anew after its first backward pass, which changes the order of sums
    on three ranks and more, and with it the last bit. An idle pass gets that over with, so that a
    resumed training sums as an uninterrupted one does.
    """
    network.train()  # auxiliary classifiers, too, have gradients to be averaged
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    on_gpu = ranks.device.type == "cuda"
    model = DistributedDataParallel(network, device_ids=[ranks.device] if on_gpu else None)
    for _ in range(2):
        idle_NCHW = torch.zeros((2, *shape), dtype=dtype, device=ranks.device)
        said = model(idle_NCHW.contiguous(memory_format=torch.channels_last))
        torch.autograd.backward(torch.stack(said if isinstance(said, tuple) else (said,)).sum())
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(statistics[name])
    return model


def mixed_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Return what autocast computes in, None for no autocast.

    Raises
    ------
    RequestError
        If half precision is asked of a CPU without the matrix units for it, where it takes many
        times as long as float32.
    """
    if precision == "auto":
        has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_it else None
    if precision not in ("bfloat16", "float16"):
        return None
    if device.type == "cpu" and not (precision == "bfloat16" and cpu_multiplies_bfloat16()):
        raise RequestError(
            f"train.precision is {precision}, and this machine trains on its CPU",
            "float32 or auto without a GPU, or bfloat16 on a CPU with AMX; elsewhere half "
            "precision is many times slower",
        )
    return torch.bfloat16 if precision == "bfloat16" else torch.float16


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has matrix units for bfloat16 (AMX; Intel since Sapphire Rapids)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
