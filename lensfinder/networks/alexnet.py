"""AlexNet (Krizhevsky, Sutskever & Hinton 2012, NeurIPS 25), with its two halves."""

from __future__ import annotations

import torch
from torch import nn

from lensfinder.networks.layers import initialise, one_each

MIN_SIZE = 67  # 11/4, pool 3/2 and pool 3/2 must leave three pixels for the last pooling


def _response_normalisation() -> nn.LocalResponseNorm:
    """Local response normalisation of section 3.3: n = 5, k = 2, alpha = 1e-4, beta = 0.75.

    torch divides alpha by n, which the paper's formula does not.
    """
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


class AlexNet(nn.Module):
    """Five convolutions and three dense layers, 60,965,224 parameters at 227x227 and 1000 classes.

    This is the published network of two halves, which see each other in the third convolution and
    in the dense layers only (two groups in convolutions 2, 4 and 5). The paper says 224 pixels;
    its layers' shapes need 227.

    Parameters
    ----------
    bands : int
        Number of image channels.
    size : int
        Pixels a side, from 67 on.
    outputs : int
        Classes, or 1 logit.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        left = (size - 11) // 4 + 1
        for _ in range(3):
            left = (left - 3) // 2 + 1
        self.features = nn.Sequential(
            nn.Conv2d(bands, 96, 11, stride=4),
            nn.ReLU(),
            _response_normalisation(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(),
            _response_normalisation(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Flatten(),
        )
        self.dense = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * left**2, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
        )
        self.head = nn.Linear(4096, outputs)
        initialise(self, dense=True)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        return one_each(self.head(self.dense(self.features(x_NCHW))))
