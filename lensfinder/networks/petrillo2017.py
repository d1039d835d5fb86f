"""The KiDS network of Petrillo et al. (2017), MNRAS 472, 1129 (arXiv:1702.07675)."""

from __future__ import annotations

import torch
from torch import nn

from lensfinder.networks.layers import convolution, initialise, one_each

MIN_SIZE = 16
DENSE = 1024


class Petrillo2017(nn.Module):
    """Four convolutions and three dense layers; batch norm and ReLU, same padding.

    As others re-coded it: 7x7-32, pool 2, 3x3-64, pool 2, 3x3-128, 3x3-128, dense 1024, dense
    1024, output. Nearly all of its parameters stand in the first dense layer, whose size goes with
    the stamp's.

    Parameters
    ----------
    bands : int
        Number of image channels; 1 (r) as published.
    size : int
        Pixels a side; 101 as published.
    outputs : int
        Classes, or 1 logit.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(bands, 32, 7),
            nn.MaxPool2d(2),
            convolution(32, 64, 3),
            nn.MaxPool2d(2),
            convolution(64, 128, 3),
            convolution(128, 128, 3),
            nn.Flatten(),
        )
        self.dense = nn.Sequential(
            nn.Linear(128 * (size // 4) ** 2, DENSE, bias=False),
            nn.BatchNorm1d(DENSE),
            nn.ReLU(),
            nn.Linear(DENSE, DENSE, bias=False),
            nn.BatchNorm1d(DENSE),
            nn.ReLU(),
        )
        self.head = nn.Linear(DENSE, outputs)
        initialise(self, dense=True)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        return one_each(self.head(self.dense(self.features(x_NCHW))))
