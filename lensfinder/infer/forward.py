"""The forward pass made fast, and proven to be the same on the model's golden stamps.

Batch norm is folded into the convolution before it (as it stands in evaluation, a scale and a
shift a channel); half precision and compilation are there for who asks. Each is kept only if the
golden logits stay; otherwise the model computes as it was trained, with a word.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from lensfinder import networks
from lensfinder.errors import RequestError
from lensfinder.model import Model

# Largest change of a golden logit, for |logit| <= 1, and relative beyond.
FLOAT32_TOLERANCE = 1e-4
HALF_TOLERANCE = 0.05
# On a CPU a network is fastest while a layer's activations stay in the caches; this many pixels of
# stamps a pass (8 stamps of 101 x 101) were best or as good as best for every network.
_CPU_PIXELS = 80_000
_GPU_STAMPS = 256


def batch_size(model: Model, asked: int) -> int:
    """Return how many stamps to put through at a time; `asked` may be 0 for what suits the device.

    Parameters
    ----------
    model : Model
    asked : int
        As configured.
    """
    if asked:
        return asked
    if model.device.type != "cpu":
        return _GPU_STAMPS
    return max(1, round(_CPU_PIXELS / model.spec.size**2))


def prepare(model: Model, *, half: bool = False, compiled: bool = False) -> tuple[Model, list[str]]:
    """Return `model` with a faster network, and what there is to say about it.

    Parameters
    ----------
    model : Model
        Its weights are left as they are.
    half : bool
        Compute in float16 on a GPU, in bfloat16 on a CPU, where the golden logits stay within
        `HALF_TOLERANCE`.
    compiled : bool
        Compile the network for this machine; takes a minute and a C++ compiler.
    """
    said = []
    fast = replace(model, network=networks.channels_last(folded(model)))
    if shift(model, fast) > FLOAT32_TOLERANCE:
        fast = model
        said.append("batch norm could not be folded: the golden logits moved")
    if half:
        on_gpu = model.device.type == "cuda"
        lower = replace(
            fast, network=_Half(fast.network, torch.float16 if on_gpu else torch.bfloat16)
        )
        moved = shift(model, lower)
        if moved <= HALF_TOLERANCE:
            fast = lower
        else:
            said.append(
                f"half precision moves a golden logit by {moved:.2g}, more than {HALF_TOLERANCE}: "
                "scored in float32"
            )
    if compiled:
        # torch's stubs know only functions.
        faster = replace(fast, network=torch.compile(fast.network, dynamic=True))  # type: ignore[arg-type]
        try:
            moved = shift(fast, faster)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            said.append(f"the network can't be compiled here ({reason}): scored without")
        else:
            if moved <= (HALF_TOLERANCE if half else FLOAT32_TOLERANCE):
                fast = faster
            else:
                said.append(f"compiled, a golden logit moves by {moved:.2g}: scored without")
    return fast, said


def shift(model: Model, other: Model) -> float:
    """Return by how much golden logits of two models differ, at most; relative beyond 1."""
    image_NCHW, mask_NCHW = model.golden["image_NCHW"], model.golden["mask_NCHW"]
    wanted_N, got_N = (m.logits(image_NCHW, mask_NCHW) for m in (model, other))
    moved_N = np.abs(got_N - wanted_N) / np.maximum(1.0, np.abs(wanted_N))
    return float(np.nan_to_num(moved_N, nan=np.inf).max())


def folded(model: Model) -> nn.Module:
    """Copy the model's network with every batch norm folded that directly follows its layer.

    Which those are shows when a stamp goes through: the one's output is the other's input.
    """
    network = copy.deepcopy(model.network)
    made: dict[int, tuple[nn.Module, torch.Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # Kept, so that no other tensor gets its identity.
            made[id(output)] = (module, output)
        elif id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, kinds):
                stack.callback(module.register_forward_hook(note).remove)
        replace(model, network=network).logits(
            model.golden["image_NCHW"][:1], model.golden["mask_NCHW"][:1]
        )
    for layer, norm in pairs:
        if calls[layer] > 1 or calls[norm] > 1 or not _keeps_statistics(norm):
            continue
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            _put(network, layer, fuse_conv_bn_eval(layer, norm))
        elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            _put(network, layer, fuse_linear_bn_eval(layer, norm))
        else:
            continue
        _put(network, norm, nn.Identity())
    return network


def _keeps_statistics(norm: nn.Module) -> bool:
    return getattr(norm, "running_mean", None) is not None


def _put(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


class _Half(nn.Module):
    """A network that computes in half precision and gives float32 logits."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x_NCHW.device.type, self.dtype):
            logit_N: torch.Tensor = self.network(x_NCHW)
        return logit_N.float()


@contextmanager
def features_of(model: Model) -> Iterator[list[torch.Tensor]]:
    """Collect the penultimate features of every stamp that goes through: what the last layer sees.

    Yields
    ------
    list of torch.Tensor
        (N, K) for each forward pass, in order.

    Raises
    ------
    RequestError
        If the network has no dense layer to look at.
    """
    seen: list[nn.Module] = []
    dense = [module for module in model.network.modules() if isinstance(module, nn.Linear)]
    with ExitStack() as stack:
        for module in dense:
            hook = module.register_forward_pre_hook(lambda called, _: seen.append(called))
            stack.callback(hook.remove)
        model.logits(model.golden["image_NCHW"][:1], model.golden["mask_NCHW"][:1])
    if not seen:
        raise RequestError(
            f"network '{model.spec.network}' has no dense layer whose inputs are features",
            "another network with --embed",
        )
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(inputs[0].detach().float().flatten(1).cpu())

    hook = seen[-1].register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        hook.remove()
