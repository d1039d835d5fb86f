"""LeNet-5 (LeCun et al. 1998, Proc. IEEE 86, 2278)."""

from __future__ import annotations

import torch
from torch import nn

from lensfinder.networks.layers import one_each

MIN_SIZE = 16  # the second pooling must leave a pixel


class LeNet5(nn.Module):
    """Two 5x5 convolutions with pooling, three dense layers, tanh.

    At 32x32 with 10 classes 61,706 parameters. The paper's 60,000 (section II.B) come out of the
    same layers with three savings of its time: only 60 of the 96 pairs of channels are joined in
    the second convolution (-900), pooling has a weight and a bias a channel (+44), and the last
    layer's 84 x 10 weights and 10 biases are fixed codes (-850).

    Parameters
    ----------
    bands : int
        Number of image channels.
    size : int
        Pixels a side; 32 as published.
    outputs : int
        Classes, or 1 logit.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        left = ((size - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(bands, 6, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
        )
        self.dense = nn.Sequential(
            nn.Linear(16 * left**2, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh()
        )
        self.head = nn.Linear(84, outputs)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        return one_each(self.head(self.dense(self.features(x_NCHW))))
