"""lensnet, our own small residual network: GroupNorm, cheap enough to train on two CPU cores."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lensfinder.networks.layers import initialise, one_each

MIN_SIZE = 25  # four halvings must leave at least two pixels a side

WIDTHS = (16, 32, 64, 128)
GROUPS = 8


class _Block(nn.Module):
    """Pre-activated residual block of two 3x3 convolutions.

    GroupNorm rather than batch norm: its statistics belong to one stamp, so that a logit
    depends neither on the batch, nor on how a batch was split over ranks.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        reshapes = stride != 1 or n_in != n_out
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False) if reshapes else None

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        activated = functional.relu(self.norm1(x_NCHW))
        branch: torch.Tensor = self.conv1(activated)
        branch = self.conv2(functional.relu(self.norm2(branch)))
        shortcut = x_NCHW if self.shortcut is None else self.shortcut(activated)
        return shortcut + branch


class LensNet(nn.Module):
    """A strided stem, one residual block at each of four scales, average and maximum pooling.

    The average tells how much of a feature the stamp holds; the maximum keeps an arc of a few
    pixels that the average would dilute.

    Parameters
    ----------
    bands : int
        Number of image channels.
    size : int
        Pixels a side, from `MIN_SIZE` on.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(bands, WIDTHS[0], 5, stride=2, padding=2)
        blocks = []
        n_in = WIDTHS[0]
        for i, width in enumerate(WIDTHS):
            blocks.append(_Block(n_in, width, stride=1 if i == 0 else 2))
            n_in = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.GroupNorm(GROUPS, n_in)
        self.head = nn.Linear(2 * n_in, outputs)
        initialise(self)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        x_NCHW = self.blocks(self.stem(x_NCHW))
        x_NCHW = functional.relu(self.norm(x_NCHW))
        pooled_N2C = torch.cat([x_NCHW.mean(dim=(2, 3)), x_NCHW.amax(dim=(2, 3))], dim=1)
        return one_each(self.head(pooled_N2C))
