"""One file per architecture; every network maps (N, band, y, x) to one logit a stamp, (N,).

A network ends without a sigmoid. To add one: write its file, and add a line to ``_ARCHITECTURES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from lensfinder.errors import RequestError, nearest
from lensfinder.networks import (
    alexnet,
    deeplens,
    dieleman2015,
    googlenet,
    lenet5,
    lensnet,
    petrillo2017,
    petrillo2019,
    resnet50,
    vgg16,
)


class _Architecture(NamedTuple):
    make: Callable[..., nn.Module]  # (bands, size, outputs) -> network
    min_size: int  # pixels a side
    citation: str
    has_auxiliaries: bool = False  # more classifiers in training, made by auxiliary=True


_ARCHITECTURES = {
    "lensnet": _Architecture(lensnet.LensNet, lensnet.MIN_SIZE, "this project"),
    "deeplens": _Architecture(
        deeplens.DeepLens, deeplens.MIN_SIZE, "Lanusse et al. 2018, MNRAS 473, 3895"
    ),
    "petrillo2017": _Architecture(
        petrillo2017.Petrillo2017, petrillo2017.MIN_SIZE, "Petrillo et al. 2017, MNRAS 472, 1129"
    ),
    "petrillo2019": _Architecture(
        petrillo2019.Petrillo2019, petrillo2019.MIN_SIZE, "Petrillo et al. 2019, MNRAS 482, 807"
    ),
    "dieleman2015": _Architecture(
        dieleman2015.Dieleman2015, dieleman2015.MIN_SIZE, "Dieleman et al. 2015, MNRAS 450, 1441"
    ),
    "lenet5": _Architecture(
        lenet5.LeNet5, lenet5.MIN_SIZE, "LeCun et al. 1998, Proc. IEEE 86, 2278"
    ),
    "alexnet": _Architecture(
        alexnet.AlexNet, alexnet.MIN_SIZE, "Krizhevsky et al. 2012, NeurIPS 25"
    ),
    "vgg16": _Architecture(vgg16.VGG16, vgg16.MIN_SIZE, "Simonyan & Zisserman 2015, ICLR"),
    "googlenet": _Architecture(
        googlenet.GoogLeNet, googlenet.MIN_SIZE, "Szegedy et al. 2015, CVPR", has_auxiliaries=True
    ),
    "resnet50": _Architecture(resnet50.ResNet50, resnet50.MIN_SIZE, "He et al. 2016, CVPR"),
}


def names() -> tuple[str, ...]:
    """Name the architectures, our own first."""
    return tuple(_ARCHITECTURES)


def citation(name: str) -> str:
    """Say which paper to cite for one of `names()`."""
    return _ARCHITECTURES[name].citation


def build(
    name: str, bands: int, size: int, *, outputs: int = 1, auxiliary: bool = False
) -> nn.Module:
    """Make a network with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    name : str
        One of `names()`.
    bands : int
        Number of bands, >= 1.
    size : int
        Pixels a side of a stamp.
    outputs : int
        Numbers a stamp; the published counts of parameters are with 1000 classes.
    auxiliary : bool
        With the auxiliary classifiers of a network that has some. They only help to train:
        in training mode, what they say comes after the network's output, in a tuple.

    Returns
    -------
    nn.Module
        Maps float (N, bands, size, size) to logits (N,), or (N, outputs) where these are several.

    Raises
    ------
    RequestError
        If the name is unknown, or the stamp too small for the architecture.
    """
    if name not in _ARCHITECTURES:
        raise RequestError(
            f"unknown network '{name}'",
            nearest(name, _ARCHITECTURES),
            f"There are {', '.join(_ARCHITECTURES)}; see `lensfinder networks`.",
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
    if auxiliary and architecture.has_auxiliaries:
        return architecture.make(bands, size, outputs, auxiliary=True)
    return architecture.make(bands, size, outputs)


def channels_last(network: nn.Module) -> nn.Module:
    """Lay a network's weights out channels last, which CPUs and tensor cores compute faster."""
    # torch's stubs lack the keyword.
    laid_out: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid_out


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _on_meta(name: str, bands: int, size: int) -> nn.Module:
    """Build a network that knows its shapes alone: nothing is held, nothing is computed."""
    with torch.device("meta"):
        return build(name, bands, size).eval()


def count_multiply_adds(name: str, bands: int, size: int) -> int:
    """Count the multiply-adds of convolutions and dense layers for one stamp.

    All views that a network makes of the stamp count.
    """
    total = 0

    def add(module: nn.Module, _inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    network = _on_meta(name, bands, size)
    stamp_NCHW = torch.empty(1, bands, size, size, device="meta")
    for module in network.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        network(stamp_NCHW)
    return total


def least_batch(name: str, bands: int, size: int) -> int:
    """Return how many stamps a training step needs: 2 where one alone can't be normalised."""
    network = _on_meta(name, bands, size).train()
    try:
        network(torch.empty(1, bands, size, size, device="meta"))
    except ValueError:  # torch's word for a batch norm of a single value
        return 2
    return 1


def describe(bands: int, size: int) -> list[dict[str, int | str | None]]:
    """List the architectures with size and cost, those that can't take such stamps with why.

    Returns
    -------
    list of dict
        ``name``, ``citation``, ``parameters`` and ``multiply_adds``; the latter are None where
        there is a ``reason``.
    """
    listed: list[dict[str, int | str | None]] = []
    for name in names():
        known: dict[str, int | str | None] = {"name": name, "citation": citation(name)}
        try:
            known["parameters"] = count_parameters(_on_meta(name, bands, size))
            known["multiply_adds"] = count_multiply_adds(name, bands, size)
        except RequestError as error:
            known |= {"parameters": None, "multiply_adds": None, "reason": str(error)}
        listed.append(known)
    return listed
