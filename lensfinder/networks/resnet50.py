"""ResNet-50 (He et al. 2016, arXiv:1512.03385)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lensfinder.networks.layers import convolution, initialise, one_each

MIN_SIZE = 33  # five halvings must leave at least two pixels a side

# (channels of the bottleneck, units, stride of the first unit); four times as many come out.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
EXPANSION = 4


class _Unit(nn.Module):
    """Bottleneck 1x1, 3x3, 1x1 with batch norm; the stride sits on the first, as published."""

    def __init__(self, n_in: int, n_mid: int, stride: int) -> None:
        super().__init__()
        n_out = EXPANSION * n_mid
        self.branch = nn.Sequential(
            convolution(n_in, n_mid, 1, stride),
            convolution(n_mid, n_mid, 3),
            nn.Conv2d(n_mid, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.shortcut = (
            nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
            if stride != 1 or n_in != n_out
            else nn.Identity()
        )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.branch(x_NCHW) + self.shortcut(x_NCHW))


class ResNet50(nn.Module):
    """Stem 7x7-64 of stride 2, pool 3/2, 16 bottleneck units, global average pooling.

    25,557,032 parameters with 3 bands and 1000 classes.

    Parameters
    ----------
    bands : int
        Number of image channels.
    size : int
        Pixels a side, from `MIN_SIZE` on; 224 as published.
    outputs : int
        Classes, or 1 logit.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            convolution(bands, 64, 7, 2), nn.MaxPool2d(3, stride=2, padding=1)
        )
        units = []
        n_in = 64
        for n_mid, count, stage_stride in STAGES:
            for i in range(count):
                units.append(_Unit(n_in, n_mid, stage_stride if i == 0 else 1))
                n_in = EXPANSION * n_mid
        self.units = nn.Sequential(*units)
        self.head = nn.Linear(n_in, outputs)
        initialise(self)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        return one_each(self.head(self.units(self.stem(x_NCHW)).mean(dim=(2, 3))))
