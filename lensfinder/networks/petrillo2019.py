"""The KiDS network of Petrillo et al. (2019), MNRAS 482, 807 (arXiv:1807.04764).

A pre-activation ResNet-18 (He et al. 2016, arXiv:1603.05027).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lensfinder.networks.layers import initialise, one_each

MIN_SIZE = 33  # five halvings must leave at least two pixels a side

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride of the first block
BLOCKS_PER_STAGE = 2


class _Block(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU; nothing follows the sum.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        reshapes = stride != 1 or n_in != n_out
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if reshapes else None

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        activated = functional.relu(self.norm1(x_NCHW))
        branch: torch.Tensor = self.conv2(functional.relu(self.norm2(self.conv1(activated))))
        return branch + (x_NCHW if self.shortcut is None else self.shortcut(activated))


class Petrillo2019(nn.Module):
    """Stem 7x7-64 of stride 2, pool 3/2, four stages of two basic blocks, global pooling.

    Parameters
    ----------
    bands : int
        Number of image channels; 1 (r) or 3 (gri) as published.
    size : int
        Pixels a side, from `MIN_SIZE` on.
    outputs : int
        Classes, or 1 logit.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = []
        n_in = 64
        for n_out, stage_stride in STAGES:
            for i in range(BLOCKS_PER_STAGE):
                blocks.append(_Block(n_in, n_out, stage_stride if i == 0 else 1))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(n_in)
        self.head = nn.Linear(n_in, outputs)
        initialise(self)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        x_NCHW = self.blocks(self.pool(self.stem(x_NCHW)))
        pooled_NC = functional.relu(self.norm(x_NCHW)).mean(dim=(2, 3))
        return one_each(self.head(pooled_NC))
