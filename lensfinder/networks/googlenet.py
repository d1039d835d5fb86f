"""GoogLeNet (Szegedy et al. 2015, arXiv:1409.4842): inception modules and auxiliary classifiers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lensfinder.networks.layers import convolution, initialise, one_each

MIN_SIZE = 32  # five halvings

# Table 1, channels of: 1x1, reduction before 3x3, 3x3, reduction before 5x5, 5x5, after pooling.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOL_AFTER = ("3b", "4e")
AUXILIARY_AFTER = ("4a", "4d")


def _response_normalisation() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def _halving() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class _Inception(nn.Module):
    """Four branches side by side; 1x1 bottlenecks before the wide kernels and after the pool."""

    def __init__(
        self, n_in: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pooled: int
    ) -> None:
        super().__init__()
        self.one = convolution(n_in, one, 1, normalised=False)
        self.three = nn.Sequential(
            convolution(n_in, reduce3, 1, normalised=False),
            convolution(reduce3, three, 3, normalised=False),
        )
        self.five = nn.Sequential(
            convolution(n_in, reduce5, 1, normalised=False),
            convolution(reduce5, five, 5, normalised=False),
        )
        self.pooled = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1), convolution(n_in, pooled, 1, normalised=False)
        )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        branches = (self.one, self.three, self.five, self.pooled)
        return torch.cat([branch(x_NCHW) for branch in branches], dim=1)


class _Auxiliary(nn.Module):
    """Average pooling 5x5 of stride 3, 1x1-128, dense 1024, dropout 0.7, output."""

    def __init__(self, n_in: int, side: int, outputs: int) -> None:
        super().__init__()
        # The map of a small stamp is narrower than the kernel, and is averaged whole.
        self.kernel = min(5, side)
        left = (side - self.kernel) // 3 + 1
        self.reduce = convolution(n_in, 128, 1, normalised=False)
        self.dense = nn.Linear(128 * left**2, 1024)
        self.drop = nn.Dropout(0.7)
        self.head = nn.Linear(1024, outputs)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NCHW = self.reduce(functional.avg_pool2d(x_NCHW, self.kernel, 3))
        return one_each(self.head(self.drop(functional.relu(self.dense(x_NCHW.flatten(1))))))


class GoogLeNet(nn.Module):
    """22 layers, 6,998,552 parameters at 1000 classes without the auxiliary classifiers.

    Parameters
    ----------
    bands : int
        Number of image channels.
    size : int
        Pixels a side, from `MIN_SIZE` on; 224 as published.
    outputs : int
        Classes, or 1 logit.
    auxiliary : bool
        With the two classifiers after the 3rd and the 6th module. In training mode what they say
        comes after the network's own output, in a tuple; in evaluation mode they are left out.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            convolution(bands, 64, 7, 2, normalised=False),
            _halving(),
            _response_normalisation(),
            convolution(64, 64, 1, normalised=False),
            convolution(64, 192, 3, normalised=False),
            _response_normalisation(),
            _halving(),
        )
        self.modules_ = nn.ModuleDict()
        self.auxiliaries = nn.ModuleDict()
        # Side of the maps of modules 4a to 4e: a stride, two poolings of the stem, one after 3b.
        n_in, side = 192, (size + 1) // 2 // 2 // 2 // 2
        for name, channels in MODULES.items():
            self.modules_[name] = _Inception(n_in, *channels)
            one, _, three, _, five, pooled = channels
            n_in = one + three + five + pooled
            if auxiliary and name in AUXILIARY_AFTER:
                self.auxiliaries[name] = _Auxiliary(n_in, side, outputs)
        self.pool = _halving()
        self.drop = nn.Dropout(0.4)
        self.head = nn.Linear(n_in, outputs)
        initialise(self)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        x_NCHW = self.stem(x_NCHW)
        said = []
        for name, module in self.modules_.items():
            x_NCHW = module(x_NCHW)
            if self.training and name in self.auxiliaries:
                said.append(self.auxiliaries[name](x_NCHW))
            if name in POOL_AFTER:
                x_NCHW = self.pool(x_NCHW)
        logit_N = one_each(self.head(self.drop(x_NCHW.mean(dim=(2, 3)))))
        return (logit_N, *said) if said else logit_N
