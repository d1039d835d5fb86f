"""What decides the weights, beside the stamps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from lensfinder.train.augment import Ranges


@dataclass(frozen=True)
class Settings:
    """The keys of ``[train]`` under the same names, and the seed.

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
        At its peak.
    weight_decay : float
        On weights of convolutions and dense layers only.
    warmup : float
        Share of the steps in which the learning rate rises.
    clip_norm : float
        Gradient norm above which the gradient is scaled down.
    shift_pixels : int
        Largest shift of the augmentation.
    seed : int
        Of initial weights, order, augmentation and dropout.
    precision : {"auto", "float32", "bfloat16", "float16", "float64"}
        Tests of exactness use float64, in which weights and pixels are held, too.
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
    pixels: str = "auto"
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    step_epochs: int = 40
    step_factor: float = 0.1
    precision: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    ema: float = 0.0
    lens_weight: float = 1.0
    balance: bool = False
    shuffle_block: int = 0
    flips: bool = True
    rotation_deg: float = 0.0
    zoom: float = 1.0
    noise: float = 0.0
    blur_pixels: float = 0.0
    band_dropout: float = 0.0
    select_fpr: float = 1e-2
    patience: int = 0
    new_head: bool = True
    freeze: int = 0
    head_epochs: int = 0
    unfreeze_every: int = 0
    layer_decay: float = 1.0

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, and of pixels before the network."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def ranges(self) -> Ranges:
        """How far the augmentation goes."""
        return Ranges(
            self.flips,
            self.shift_pixels,
            self.rotation_deg,
            self.zoom,
            self.noise,
            self.blur_pixels,
            self.band_dropout,
        )

    def frozen_layers(self, epoch: int, layers: int) -> int:
        """Count the lowest layers, of `layers`, that keep their weights in an epoch, from 0."""
        if epoch < self.head_epochs:
            return layers - 1
        if self.unfreeze_every:
            return int(self.freeze >> ((epoch - self.head_epochs) // self.unfreeze_every))
        return self.freeze

    def effective_prevalence(self, prevalence: float) -> float:
        """Share of lenses as the loss sees it, where the train split's is `prevalence`."""
        if self.balance:
            return 0.5
        lenses = self.lens_weight * prevalence
        return lenses / (lenses + 1 - prevalence)
