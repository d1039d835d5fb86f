"""A trained model: a network with the data it takes, its pixels, calibration and provenance.

`model_id` hashes what decides a score: weights, spec, transform and calibration; thresholds and
provenance stand outside it. :mod:`lensfinder.checkpoint` keeps a model in a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lensfinder import networks
from lensfinder.errors import MismatchError
from lensfinder.pixels import PixelTransform

GOLDEN_COUNT = 8
# Largest change of a golden stamp's logit, for |logit| <= 1, and relative beyond.
GOLDEN_TOLERANCE = 1e-3
SEEN_WITHIN_ARCSEC = 1.0
# Distortion and rounding of a WCS stay below this; two surveys' pixel scales differ by more.
PIXEL_SCALE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Spec:
    """What data a model takes.

    Parameters
    ----------
    network : str
        Architecture, one of `networks.names()`.
    bands : tuple of str
        In the order of the channels.
    size : int
        Pixels a side of a stamp.
    pixel_scale_arcsec : float
        Arcsec a pixel.
    stretched : bool
        Whether pixels were stretched before they came in (pictures), rather than fluxes in nJy.
    """

    network: str
    bands: tuple[str, ...]
    size: int
    pixel_scale_arcsec: float
    stretched: bool = False


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network with all that belongs to it; make one with `create`, or `checkpoint.load`.

    Attributes
    ----------
    spec : Spec
        What data it takes.
    network : nn.Module
        In evaluation mode, on `device`.
    transform : PixelTransform
        Pixels to network input.
    temperature : float
        A logit divided by this is calibrated on the validation split.
    training_prevalence : float
        Share of lenses in that split, at which scores are probabilities.
    provenance : dict
        How it was trained: world size, devices, data fingerprints, seed, configuration.
    golden : dict of torch.Tensor
        ``image_NCHW`` (nJy), ``mask_NCHW`` and ``logit_N`` of eight synthetic stamps.
    training_radec_deg_N2 : torch.Tensor
        Positions (ICRS, deg, float64) of the real galaxies it was trained on; may be empty.
    thresholds : dict
        Written by `report`; not part of `model_id`.
    device : torch.device
        Where `logits` computes.
    """

    spec: Spec
    network: nn.Module
    transform: PixelTransform
    temperature: float
    training_prevalence: float
    provenance: Mapping[str, Any]
    golden: Mapping[str, torch.Tensor]
    training_radec_deg_N2: torch.Tensor
    thresholds: Mapping[str, Any]
    device: torch.device

    @property
    def model_id(self) -> str:
        """Sha256 of weights, spec, transform and calibration."""
        tensors = {**self._weights(), **self._transform_arrays()}
        return digest(self._identity(), tensors)

    @torch.inference_mode()
    def logits(
        self,
        image_NCHW: npt.NDArray[np.floating] | torch.Tensor,
        mask_NCHW: npt.NDArray[np.uint8] | torch.Tensor,
    ) -> npt.NDArray[np.float32]:
        """Score stamps.

        Parameters
        ----------
        image_NCHW : array of float
            Pixels, nJy; bad ones may be NaN. Computed in float32.
        mask_NCHW : array of uint8
            0 where a pixel is good.

        Returns
        -------
        ndarray of float32
            One finite logit a stamp, (N,); a stamp's does not depend on the others.

        Raises
        ------
        MismatchError
            If the number of bands or the size is not the model's.
        """
        expected = (len(self.spec.bands), self.spec.size, self.spec.size)
        if tuple(image_NCHW.shape[1:]) != expected or image_NCHW.shape != mask_NCHW.shape:
            raise MismatchError(
                f"stamps (band, y, x) of {tuple(image_NCHW.shape[1:])} "
                f"with masks of {tuple(mask_NCHW.shape[1:])}",
                f"{expected} for both, as the model was trained",
            )
        if len(image_NCHW) == 0:
            return np.zeros(0, np.float32)
        image_NCHW = _as_tensor(image_NCHW, np.float32).to(self.device)
        mask_NCHW = _as_tensor(mask_NCHW, np.uint8).to(self.device)
        x_NCHW = self.transform(image_NCHW, mask_NCHW)
        # TensorFloat-32 would cost the promised 1e-4 of a logit on a GPU.
        on_gpu = self.device.type == "cuda"
        with torch.backends.cudnn.flags(allow_tf32=False) if on_gpu else nullcontext():
            logit_N: torch.Tensor = self.network(
                x_NCHW.contiguous(memory_format=torch.channels_last)
            )
        on_cpu_N: npt.NDArray[np.float32] = logit_N.cpu().numpy()
        return on_cpu_N

    def scores(self, logit_N: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Turn logits into probabilities of a lens at the training prevalence, (N,)."""
        calibrated_N = torch.as_tensor(logit_N, dtype=torch.float64) / self.temperature
        return torch.sigmoid(calibrated_N).float().numpy()

    def check_compatible(
        self,
        bands: Sequence[str],
        pixel_scale_arcsec: float,
        size: int,
        stretched: bool = False,
    ) -> None:
        """Refuse data that the model was not trained for.

        Raises
        ------
        MismatchError
            Naming every property that differs, with both values.
        """
        spec = self.spec
        scale_ratio = pixel_scale_arcsec / spec.pixel_scale_arcsec
        pairs = [
            (tuple(bands) == spec.bands, "bands", ",".join(bands), ",".join(spec.bands)),
            (
                abs(scale_ratio - 1) <= PIXEL_SCALE_TOLERANCE,
                "pixel scale",
                f'{pixel_scale_arcsec:.4g}"',
                f'{spec.pixel_scale_arcsec:.4g}"',
            ),
            (size == spec.size, "stamp size", f"{size} px", f"{spec.size} px"),
            (
                stretched == spec.stretched,
                "pixels",
                "stretched" if stretched else "fluxes",
                "stretched" if spec.stretched else "fluxes",
            ),
        ]
        wrong = [
            f"{what} {ours} (data) and {theirs} (model)"
            for same, what, ours, theirs in pairs
            if not same
        ]
        if wrong:
            # Neither bands nor a stretch can be had from others.
            adapts = not any(item.startswith(("bands ", "pixels ")) for item in wrong)
            raise MismatchError(
                "the data do not match the model: " + "; ".join(wrong),
                remedy="Cut stamps as the model was trained, or train a model on such data"
                + (
                    ", or give --adapt, which brings other pixel scales and sharper PSFs to the "
                    "model's."
                    if adapts
                    else "."
                ),
            )

    def seen_in_training(
        self, ra_deg_N: npt.NDArray[np.float64], dec_deg_N: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        """Flag targets within 1 arcsec of a galaxy that trained the model, (N,)."""
        seen_N = np.zeros(len(ra_deg_N), dtype=bool)
        known_N2 = self.training_radec_deg_N2.numpy()
        placed_N = np.isfinite(ra_deg_N) & np.isfinite(dec_deg_N)
        if len(known_N2) == 0 or not placed_N.any():
            return seen_N
        from scipy.spatial import cKDTree

        tree = cKDTree(_unit_vectors(known_N2[:, 0], known_N2[:, 1]))
        targets_N3 = _unit_vectors(ra_deg_N[placed_N], dec_deg_N[placed_N])
        chord = 2 * np.sin(np.radians(SEEN_WITHIN_ARCSEC / 3600) / 2)
        distance_N, _ = tree.query(targets_N3, distance_upper_bound=chord)
        seen_N[placed_N] = np.isfinite(distance_N)
        return seen_N

    def check_golden(self) -> None:
        """Score the golden stamps again.

        Raises
        ------
        MismatchError
            If a logit moved by more than the tolerance: this machine computes something else.
        """
        wanted_N = self.golden["logit_N"].numpy()
        got_N = self.logits(self.golden["image_NCHW"], self.golden["mask_NCHW"])
        shift_N = np.abs(got_N - wanted_N) / np.maximum(1.0, np.abs(wanted_N))
        worst = int(np.argmax(shift_N))
        if not shift_N[worst] <= GOLDEN_TOLERANCE:
            raise MismatchError(
                f"golden stamp {worst} of the model scores {got_N[worst]:.5f} on {self.device}",
                f"{wanted_N[worst]:.5f} within {GOLDEN_TOLERANCE}",
                "Check the installation against constraints.txt.",
            )

    def _weights(self) -> dict[str, torch.Tensor]:
        state = self.network.state_dict()
        return {f"network.{name}": tensor for name, tensor in state.items()}

    def _transform_arrays(self) -> dict[str, torch.Tensor]:
        return {f"transform.{name}": t for name, t in self.transform.arrays().items()}

    def _identity(self) -> dict[str, Any]:
        """Return the header's part that stands in `model_id`."""
        return {
            "spec": {**vars(self.spec), "bands": list(self.spec.bands)},
            "transform": self.transform.to_dict(),
            "calibration": {
                "temperature": self.temperature,
                "training_prevalence": self.training_prevalence,
            },
        }

    def content(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Return header and tensors of the file, without the checksum."""
        tensors = {
            **self._weights(),
            **self._transform_arrays(),
            **{f"golden.{name}": tensor for name, tensor in self.golden.items()},
            "training.radec_deg_N2": self.training_radec_deg_N2,
        }
        header = {
            **self._identity(),
            "model_id": self.model_id,
            "provenance": dict(self.provenance),
            "thresholds": dict(self.thresholds),
        }
        # safetensors stores rows one after another; channels_last weights need a copy.
        return header, {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def create(
    spec: Spec,
    network: nn.Module,
    transform: PixelTransform,
    *,
    temperature: float,
    training_prevalence: float,
    provenance: Mapping[str, Any],
    training_radec_deg_N2: torch.Tensor | None = None,
) -> Model:
    """Put a trained network (float32, on any device) together with what belongs to it.

    Parameters
    ----------
    spec, network, transform, temperature, training_prevalence, provenance
        As in `Model`; `provenance` must be JSON and hold no time of day, so that the same
        training gives the same file.
    training_radec_deg_N2 : torch.Tensor, optional
        float64 positions of real training galaxies, deg.
    """
    if training_radec_deg_N2 is None:
        training_radec_deg_N2 = torch.zeros(0, 2, dtype=torch.float64)
    model = Model(
        spec,
        networks.channels_last(network).eval(),
        transform,
        float(temperature),
        float(training_prevalence),
        dict(provenance),
        {},
        training_radec_deg_N2,
        {},
        next(network.parameters()).device,
    )
    image_NCHW, mask_NCHW = _golden_stamps(transform.scale_njy_C, spec.size)
    logit_N = torch.from_numpy(model.logits(image_NCHW, mask_NCHW))
    golden = {"image_NCHW": image_NCHW, "mask_NCHW": mask_NCHW, "logit_N": logit_N}
    return replace(model, golden=golden)


def canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash JSON content and named tensors, independently of order and memory format."""
    hashed = hashlib.sha256(canonical(content).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hashed.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _as_tensor(array: npt.NDArray[Any] | torch.Tensor, dtype: npt.DTypeLike) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array.to(torch.from_numpy(np.zeros(0, dtype)).dtype)
    # Native byte order and writable: torch takes neither FITS pixels nor read-only maps.
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def _unit_vectors(ra_deg: npt.NDArray[Any], dec_deg: npt.NDArray[Any]) -> npt.NDArray[Any]:
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def _golden_stamps(scale_njy_C: Sequence[float], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw eight stamps of a galaxy with a ring of growing radius, some with bad pixels."""
    rng = np.random.default_rng(20180101)
    axis = np.arange(size) - size // 2
    radius_YX = np.hypot(axis[:, None], axis[None, :])
    image_NCHW = rng.standard_normal((GOLDEN_COUNT, len(scale_njy_C), size, size))
    for i in range(GOLDEN_COUNT):
        image_NCHW[i] += 30 * i * np.exp(-radius_YX / 3)
        image_NCHW[i, i % len(scale_njy_C)] += 5 * np.exp(-(((radius_YX - 1 - i) / 1.5) ** 2))
    image_NCHW *= np.asarray(scale_njy_C)[:, None, None]
    mask_NCHW = np.zeros(image_NCHW.shape, np.uint8)
    mask_NCHW[6, :, : size // 3] = 1
    image_NCHW[6, :, : size // 3] = np.nan
    mask_NCHW[7, 0] = 4
    return torch.from_numpy(image_NCHW.astype(np.float32)), torch.from_numpy(mask_NCHW)
