"""lensnet, our own small residual network: the same answer however a stamp is turned or mirrored.

Its convolutions apply each filter in eight positions (`symmetric`), so that what it learns of an
arc it knows of the arc in any of them, and no average over views is needed. GroupNorm, whose
statistics belong to one stamp, makes a logit independent of the batch, and of how a batch was
split over ranks.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lensfinder.networks.layers import initialise, one_each
from lensfinder.networks.symmetric import POSITIONS, SymmetricConv2d, SymmetricGroupNorm, halve

MIN_SIZE = 25  # four halvings must leave at least two pixels a side

# Features of eight channels each.
FEATURES = (2, 4, 8, 16)


class _Block(nn.Module):
    """Pre-activated residual block of two 3x3 convolutions."""

    def __init__(self, n_in: int, n_out: int, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.norm1 = SymmetricGroupNorm(n_in, n_in)
        self.conv1 = SymmetricConv2d(n_in, n_out, 3, padding=1)
        self.norm2 = SymmetricGroupNorm(n_out, n_out)
        self.conv2 = SymmetricConv2d(n_out, n_out, 3, padding=1)
        self.shortcut = SymmetricConv2d(n_in, n_out, 1) if halves or n_in != n_out else None

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        activated = functional.relu(self.norm1(x_NCHW), inplace=True)
        if self.halves:
            activated = halve(activated)
        branch: torch.Tensor = self.conv1(activated)
        branch = self.conv2(functional.relu(self.norm2(branch), inplace=True))
        shortcut = x_NCHW if self.shortcut is None else self.shortcut(activated)
        return shortcut + branch


class LensNet(nn.Module):
    """A strided stem, one residual block at each of four scales, average and maximum pooling.

    The average tells how much of a feature the stamp holds; the maximum keeps an arc of a few
    pixels that the average would dilute. Both run over the eight positions, too.

    Parameters
    ----------
    bands : int
        Number of image channels.
    size : int
        Pixels a side, from `MIN_SIZE` on.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        # Steps of two pixels lie symmetrically on an odd side with an odd kernel, else an even one.
        kernel = 5 if size % 2 else 6
        self.stem = SymmetricConv2d(
            bands, FEATURES[0], kernel, stride=2, padding=2, bias=True, lifting=True
        )
        pairs = zip((FEATURES[0], *FEATURES), FEATURES, strict=False)
        self.blocks = nn.Sequential(
            *(_Block(n_in, n_out, halves=i > 0) for i, (n_in, n_out) in enumerate(pairs))
        )
        self.norm = SymmetricGroupNorm(FEATURES[-1], FEATURES[-1])
        self.head = nn.Linear(2 * FEATURES[-1], outputs)
        initialise(self)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        x_NCHW = self.blocks(self.stem(x_NCHW))
        n, _, height, width = x_NCHW.shape
        maps_NCHW = functional.relu(self.norm(x_NCHW), inplace=True)
        maps_NFP = maps_NCHW.reshape(n, FEATURES[-1], POSITIONS * height * width)
        pooled_N2F = torch.cat([maps_NFP.mean(dim=2), maps_NFP.amax(dim=2)], dim=1)
        return one_each(self.head(pooled_N2F))
