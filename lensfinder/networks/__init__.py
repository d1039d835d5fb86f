"""One file per architecture; every network maps (N, band, y, x) to one logit a stamp, (N,).

A network ends without a sigmoid. To add one: write its file, and add a line to ``_ARCHITECTURES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from lensfinder.errors import RequestError, nearest
from lensfinder.networks import deeplens, lensnet


class _Architecture(NamedTuple):
    make: Callable[[int, int], nn.Module]  # (bands, size) -> network
    min_size: int  # pixels a side


_ARCHITECTURES = {
    "lensnet": _Architecture(lensnet.LensNet, lensnet.MIN_SIZE),
    "deeplens": _Architecture(deeplens.DeepLens, deeplens.MIN_SIZE),
}


def names() -> tuple[str, ...]:
    """Name the architectures, our own first."""
    return tuple(_ARCHITECTURES)


def build(name: str, bands: int, size: int) -> nn.Module:
    """Make a network with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    name : str
        One of `names()`.
    bands : int
        Number of bands, >= 1.
    size : int
        Pixels a side of a stamp.

    Returns
    -------
    nn.Module
        Maps float (N, bands, size, size) to logits (N,).

    Raises
    ------
    RequestError
        If the name is unknown, or the stamp too small for the architecture.
    """
    if name not in _ARCHITECTURES:
        raise RequestError(
            f"unknown network '{name}'",
            nearest(name, _ARCHITECTURES),
            "`lensfinder networks` lists them.",
        )
    if bands < 1:
        raise RequestError(f"{bands} bands for network '{name}'", "at least one band")
    architecture = _ARCHITECTURES[name]
    if size < architecture.min_size:
        raise RequestError(
            f"stamps of {size} pixels a side are too small for network '{name}'",
            f"at least {architecture.min_size}",
            "Cut larger stamps, or choose another network.",
        )
    return architecture.make(bands, size)


def channels_last(network: nn.Module) -> nn.Module:
    """Lay a network's weights out channels last, which CPUs and tensor cores compute faster."""
    # torch's stubs lack the keyword.
    laid_out: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid_out


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count_multiply_adds(name: str, bands: int, size: int) -> int:
    """Count the multiply-adds of convolutions and dense layers for one stamp.

    Nothing is computed: the network runs on torch's ``meta`` device, which knows shapes alone.
    """
    total = 0

    def add(module: nn.Module, _inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features

    with torch.device("meta"):
        network = build(name, bands, size).eval()
        stamp_NCHW = torch.empty(1, bands, size, size)
    for module in network.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        network(stamp_NCHW)
    return total
