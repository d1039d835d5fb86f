"""The model file: one ``.safetensors`` with everything that turns pixels into a score.

Tensors hold the weights, fitted arrays of the PixelTransform, eight golden stamps with their
logits, and where the real galaxies of the training set are; JSON in the header holds the rest.
Beside the `model_id`, a checksum covers the whole content, so that a flipped bit is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from lensfinder import networks, shipped
from lensfinder.commit import commit
from lensfinder.errors import MismatchError, RequestError
from lensfinder.model import Model, Spec, canonical, digest
from lensfinder.pixels import PixelTransform

_HEADER_KEY = "lensfinder_model"


def save(path: Path, model: Model) -> None:
    """Write the model file by the commit protocol, opened again and checked before it counts.

    Raises
    ------
    DiskError
        If the disk is full or can't be written.
    """
    header, tensors = model.content()
    header["checksum"] = digest(header, tensors)
    with commit(path, check=_read) as temporary:
        # Written here, so that it has the mode of other files: their own can be read by one alone.
        temporary.write_bytes(safetensors.torch.save(tensors, {_HEADER_KEY: canonical(header)}))


def load(path: Path, device: torch.device | str | None = None, *, verify: bool = True) -> Model:
    """Open a model file; runs no code that stands in it.

    Parameters
    ----------
    path : Path
        Written by `save`.
    device : torch.device or str, optional
        Where to compute; by default a GPU if there is one.
    verify : bool
        Score the golden stamps, too. The checksum is always compared.

    Raises
    ------
    RequestError
        If the file is missing, damaged, or not a model.
    MismatchError
        If the content does not have the `model_id` it names, or golden logits differ.
    """
    header, tensors = _read(path)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    try:
        spec = Spec(**{**header["spec"], "bands": tuple(header["spec"]["bands"])})
        transform = PixelTransform.from_dict(header["transform"], _under("transform.", tensors))
        channels = transform.recipe.channels(spec.bands)
        # On the meta device a network costs nothing, so a foreign file can't ask for terabytes.
        with torch.device("meta"):
            network = networks.build(spec.network, len(channels), spec.size)
        network.load_state_dict(_under("network.", tensors), assign=True)
        model = Model(
            spec,
            networks.channels_last(network.to(device)).eval(),
            transform,
            header["calibration"]["temperature"],
            header["calibration"]["training_prevalence"],
            header["provenance"],
            _under("golden.", tensors),
            tensors["training.radec_deg_N2"],
            header["thresholds"],
            device,
        )
        named_id = header["model_id"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{path} is not a model that can be used: {reason}") from error
    if model.model_id != named_id:
        raise MismatchError(
            f"{path} holds a model with model_id {model.model_id[:12]}",
            f"{named_id[:12]}, as its header says",
            "Get the file again; it was changed after training.",
        )
    if verify:
        model.check_golden()
    return model


def write_thresholds(path: Path, thresholds: Mapping[str, Any]) -> None:
    """Put thresholds (JSON) into a model file; scores and `model_id` stay what they are."""
    save(path, replace(load(path, "cpu", verify=False), thresholds=dict(thresholds)))


def read_header(path: Path) -> dict[str, Any]:
    """Read what is JSON in a model file, with the checksum of its whole content compared."""
    return _read(path)[0]


def describe_shipped() -> list[dict[str, Any]]:
    """Say of each model that comes along what it takes.

    Returns
    -------
    list of dict
        ``name``, what `Spec` has, ``model_id``, ``card``, the path of its model card, and
        ``thresholds``: by false positive rate of its own mocks the logit, and the share of their
        lenses above it.
    """
    found = []
    for name in shipped.names():
        header = read_header(shipped.file_of(name))
        card = str(shipped.card_of(name))
        points = header.get("thresholds", {}).get("points", [])
        thresholds = [
            {"fpr": at["fpr_asked"], "logit": at["logit"], "tpr": at["tpr"]["value"]}
            for at in points
            if at["logit"] is not None
        ]
        about = {"model_id": header["model_id"], "card": card, "thresholds": thresholds}
        found.append({"name": name, **header["spec"], **about})
    return found


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})[_HEADER_KEY]
            names = list(file.keys())
            # Copies: a view of the mapped file is not aligned, which costs speed and last bits.
            tensors = {name: file.get_tensor(name).clone() for name in names}
        header = json.loads(text)
        named = header.pop("checksum")
    except FileNotFoundError:
        come_along = ", ".join(shipped.names())
        raise RequestError(
            f"no such model: {path}",
            "a .safetensors file, or one that comes along" + (come_along and f": {come_along}"),
        ) from None
    except KeyError as error:
        raise RequestError(
            f"{path} is not a lensfinder model: its header lacks {error}",
            "a model.safetensors that `lensfinder train` wrote",
        ) from error
    except (OSError, safetensors.SafetensorError, ValueError, AttributeError, TypeError) as error:
        raise RequestError(f"{path} can't be read as a model: {error}") from error
    if digest(header, tensors) != named:
        raise RequestError(
            f"{path} is damaged: its checksum differs",
            f"{str(named)[:12]}",
            "Get the file again, or train again.",
        )
    return header, tensors


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
