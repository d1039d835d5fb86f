"""VGG-16, configuration D of Simonyan & Zisserman (2015), arXiv:1409.1556."""

from __future__ import annotations

import torch
from torch import nn

from lensfinder.networks.layers import convolution, initialise, one_each

MIN_SIZE = 32  # five halvings

# Channels of the 3x3 convolutions between poolings.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
DENSE = 4096


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions and three dense layers; 138,357,544 parameters at 224 pixels.

    Parameters
    ----------
    bands : int
        Number of image channels.
    size : int
        Pixels a side, from 32 on; the first dense layer grows with it.
    outputs : int
        Classes, or 1 logit.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in, left = bands, size
        for stage in STAGES:
            for n_out in stage:
                layers.append(convolution(n_in, n_out, 3, normalised=False))
                n_in = n_out
            layers.append(nn.MaxPool2d(2))
            left //= 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.dense = nn.Sequential(
            nn.Linear(n_in * left**2, DENSE),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(DENSE, DENSE),
            nn.ReLU(),
            nn.Dropout(0.5),
        )
        self.head = nn.Linear(DENSE, outputs)
        initialise(self, dense=True)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        return one_each(self.head(self.dense(self.features(x_NCHW))))
