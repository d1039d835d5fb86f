"""Transfer learning: begin with the weights of a trained model.

The lower layers of a network look for edges and arcs wherever stamps come from; a new head and,
with ``[train] freeze``, ``head_epochs``, ``unfreeze_every`` and ``layer_decay``, gentle changes of
the rest fit them to other data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lensfinder.errors import MismatchError, RequestError
from lensfinder.model import Spec
from lensfinder.pixels import is_turned
from lensfinder.train.optimise import layers_of

_HEADS = ("head.", "auxiliaries.")


def check(spec: Spec, network: str, stretched: bool) -> None:
    """Refuse a model whose weights have no place in `network`, or that knows other pixels.

    Raises
    ------
    MismatchError
        Naming what differs.
    """
    if spec.network != network:
        raise MismatchError(
            f"the model given by --init is a {spec.network}, and a {network} is to be trained",
            "the same architecture",
            f"Give --network {spec.network}, or a model of {network}.",
        )
    if spec.stretched != stretched:
        kinds = {True: "stretched pixels", False: "fluxes"}
        raise MismatchError(
            f"the model given by --init takes {kinds[spec.stretched]}, the training stamps hold "
            f"{kinds[stretched]}",
            "the same kind of pixels",
        )


def check_freeze(network: nn.Module, count: int) -> None:
    """Refuse to freeze what must learn."""
    most = len(layers_of(network)) - 1
    if count > most:
        raise RequestError(
            f"train.freeze is {count}, and the network has {most} layers below its head",
            f"at most {most}",
        )


@torch.no_grad()
def weights_for(
    network: nn.Module,
    weights: dict[str, torch.Tensor],
    spec: Spec,
    had: Sequence[str],
    channels: Sequence[str],
    size: int,
    *,
    new_head: bool,
) -> dict[str, torch.Tensor]:
    """Turn a model's weights into those that `network` begins with.

    Other channels than the model's, of which each band has one or two: one that it knows keeps its
    filters, one that it does not know gets the mean of all, and they are scaled so that a signal in
    all of them stays what it was.

    Parameters
    ----------
    network : nn.Module
        Of the model's architecture, for `channels` and `size`.
    weights : dict
        The model's.
    spec : Spec
        What data the model takes.
    had, channels : sequence of str
        What the model, and what `network`, sees of its stamps, see `pixels.Recipe.channels`.
    size : int
        Of the stamps to train on, pixels.
    new_head : bool
        Leave the last layer as it is.

    Returns
    -------
    dict
        Under the names that `network` has for them.

    Raises
    ------
    MismatchError
        If a layer's size goes with the stamp's, and that is another, or if one of both sees what
        half a turn changes and the other does not.
    """
    turned, wanted = (any(map(is_turned, seen)) for seen in (had, channels))
    if turned != wanted:
        raise MismatchError(
            f"the model given by --init {'sees' if turned else 'does not see'} what half a turn "
            "changes, and train.pixels asks for the opposite",
            "the model's own pixels",
            "Leave train.pixels out.",
        )
    known = dict(weights)
    first = next(n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)) + ".weight"
    known[first] = _for_channels(known[first], tuple(had), tuple(channels))
    fresh = network.state_dict()
    for name, tensor in fresh.items():
        if name.startswith(_HEADS) and (new_head or name not in known):
            known[name] = tensor
        elif known[name].shape != tensor.shape:
            raise MismatchError(
                f"{name} of the model given by --init has shape {tuple(known[name].shape)} for "
                f"stamps of {spec.size} pixels, and {tuple(tensor.shape)} for {size}",
                f"stamps of {spec.size} pixels, or a network whose layers do not depend on that",
                "Cut stamps of the model's size, or train from fresh weights.",
            )
    return known


def _for_channels(
    weight_OIYX: torch.Tensor, old: tuple[str, ...], new: tuple[str, ...]
) -> torch.Tensor:
    if old == new:
        return weight_OIYX
    mean_OYX = weight_OIYX.mean(dim=1)
    filters = [weight_OIYX[:, old.index(one)] if one in old else mean_OYX for one in new]
    return torch.stack(filters, dim=1) * (len(old) / len(new))
