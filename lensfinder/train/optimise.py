"""How weights move: optimiser and learning rates, frozen layers, and their moving average."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from lensfinder.train.settings import Settings

_EMA_WARMUP = 10  # steps after which a tenth of the first weights is left, however slow the decay


def layers_of(network: nn.Module) -> list[list[nn.Module]]:
    """Put the modules that have weights into layers, the lowest first and the head last.

    A layer is a convolution or dense layer with the norms that follow it. A shortcut belongs to the
    layer before it.
    """
    layers: list[list[nn.Module]] = []
    waiting: list[nn.Module] = []  # norms before the first layer
    for name, module in network.named_modules():
        if not list(module.parameters(recurse=False)):
            continue
        if isinstance(module, (nn.Conv2d, nn.Linear)) and "shortcut" not in name:
            layers.append([*waiting, module])
            waiting = []
        else:
            (layers[-1] if layers else waiting).append(module)
    return layers


def freeze(network: nn.Module, count: int) -> None:
    """Let the lowest `count` layers keep their weights, and all others learn."""
    for depth, layer in enumerate(layers_of(network)):
        for module in layer:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(depth >= count)


def training_mode(model: nn.Module, network: nn.Module, frozen: int) -> None:
    """Switch to training mode, but for frozen layers, whose batch statistics stay, too.

    `model` is `network`, or what wraps it.
    """
    model.train()
    for layer in layers_of(network)[:frozen]:
        for module in layer:
            module.eval()


def optimizer_of(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Make Adam or AdamW; each group has the share ``scale`` of the learning rate.

    Weight decay acts on weights, not on biases and norms. With ``layer_decay`` each layer has
    groups of its own, the head at the full rate.
    """
    layers = layers_of(network)
    groups: list[dict[str, Any]] = []
    pieces = [[m for layer in layers for m in layer]] if settings.layer_decay == 1 else layers
    for depth, modules in enumerate(pieces):
        parameters = [p for module in modules for p in module.parameters(recurse=False)]
        scale = settings.layer_decay ** (len(pieces) - 1 - depth)
        decayed = {"params": [p for p in parameters if p.dim() > 1], "scale": scale}
        others = {"params": [p for p in parameters if p.dim() <= 1], "scale": scale}
        groups += [decayed, {**others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)


def schedule(
    step: int,
    total_steps: int,
    warmup: float,
    kind: Literal["cosine", "step", "constant"] = "cosine",
    drop_every: int = 1,
    drop_to: float = 1.0,
) -> float:
    """Return the learning rate of a step, from 0, as a share of its peak.

    Parameters
    ----------
    step, total_steps : int
    warmup : float
        Share of the steps with a linear rise.
    kind : {"cosine", "step", "constant"}
        What follows: half a cosine down to 0, drops, or nothing.
    drop_every : int
        Steps between drops, from the first step on.
    drop_to : float
        Factor of each.
    """
    rising = max(1, round(warmup * total_steps))
    if step < rising:
        return (step + 1) / rising
    if kind == "constant":
        return 1.0
    if kind == "step":
        return float(drop_to ** (step // drop_every))
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total_steps - rising)))


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


class Average:
    """A moving average of a network's weights, or the network itself where `decay` is 0.

    Parameters
    ----------
    network : nn.Module
        Being trained.
    decay : float
        Share of the average that each step keeps, in the long run. Early steps keep less, so that
        the first, random weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._trained = network
        self._decay = decay
        self.network = copy.deepcopy(network) if decay else network

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps; batch statistics are copied."""
        if not self._decay:
            return
        decay = min(self._decay, (1 + step) / (_EMA_WARMUP + step))
        for ours, theirs in zip(self.network.parameters(), self._trained.parameters(), strict=True):
            ours.lerp_(theirs, 1 - decay)
        for kept, new in zip(self.network.buffers(), self._trained.buffers(), strict=True):
            kept.copy_(new)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed training needs beside the trained weights."""
        return dict(self.network.state_dict()) if self._decay else {}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Undo `state`."""
        if self._decay:
            self.network.load_state_dict(state)
