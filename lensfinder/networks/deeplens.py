"""DeepLens, the residual network of Lanusse et al. (2018), MNRAS 473, 3895 (arXiv:1703.02642)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lensfinder.networks.layers import initialise, one_each

MIN_SIZE = 17  # four halvings must leave at least two pixels a side

# (channels of the bottleneck, channels out, stride of the stage's first unit)
STAGES = ((16, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 2), (256, 512, 2))
UNITS_PER_STAGE = 3


class _Unit(nn.Module):
    """One pre-activated bottleneck unit; nothing follows the sum.

    The stride sits on the first 1x1 convolution. Where the shape changes, the shortcut is a
    1x1 convolution with bias of the *activated* input; elsewhere it is the raw input.
    """

    def __init__(self, n_in: int, n_mid: int, n_out: int, stride: int, activate: bool) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(n_in) if activate else None
        self.reduce = nn.Conv2d(n_in, n_mid, 1, stride=stride, bias=False)
        self.norm_reduce = nn.BatchNorm2d(n_mid)
        self.conv = nn.Conv2d(n_mid, n_mid, 3, padding=1, bias=False)
        self.norm_conv = nn.BatchNorm2d(n_mid)
        self.expand = nn.Conv2d(n_mid, n_out, 1)
        reshapes = stride != 1 or n_in != n_out
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride=stride) if reshapes else None

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        activated = (
            x_NCHW if self.norm_in is None else functional.elu(self.norm_in(x_NCHW), inplace=True)
        )
        branch: torch.Tensor = functional.elu(
            self.norm_reduce(self.reduce(activated)), inplace=True
        )
        branch = functional.elu(self.norm_conv(self.conv(branch)), inplace=True)
        shortcut = x_NCHW if self.shortcut is None else self.shortcut(activated)
        expanded: torch.Tensor = self.expand(branch)
        return shortcut + expanded


class DeepLens(nn.Module):
    """46 convolutions on the main branch, batch norm and ELU, global average pooling, one logit.

    Parameters
    ----------
    bands : int
        Number of image channels.
    size : int
        Pixels a side; any odd or even size from `MIN_SIZE` on, since the head pools globally.

    Notes
    -----
    The published head ends in a sigmoid; here the logit comes out, as everywhere in lensfinder.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(bands, 32, 7, padding=3, bias=False)
        self.norm_stem = nn.BatchNorm2d(32)
        units: list[nn.Module] = []
        n_in = 32
        for n_mid, n_out, stage_stride in STAGES:
            for i in range(UNITS_PER_STAGE):
                # The very first unit follows the stem's own norm and ELU, and skips its own.
                stride = stage_stride if i == 0 else 1
                units.append(_Unit(n_in, n_mid, n_out, stride, activate=bool(units)))
                n_in = n_out
        self.units = nn.Sequential(*units)
        self.head = nn.Linear(n_in, outputs)
        initialise(self)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        x_NCHW = functional.elu(self.norm_stem(self.stem(x_NCHW)), inplace=True)
        pooled_NC = self.units(x_NCHW).mean(dim=(2, 3))
        return one_each(self.head(pooled_NC))
