"""The rotation-invariant network of Dieleman, Willett & Dambre (2015), MNRAS 450, 1441.

arXiv:1503.07077. Made to classify galaxies; here it ends in one logit.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from lensfinder.networks.layers import initialise, one_each

VIEW = 69  # pixels a side of what is looked at, at most
PART = 45  # pixels a side of each of its four corners
MIN_SIZE = PART
PARTS = 16
MAXOUT = 2048
PIECES = 2  # linear functions in a maxout unit


class _Maxout(nn.Module):
    """Largest of `PIECES` linear functions (Goodfellow et al. 2013, arXiv:1302.4389)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out * PIECES)

    def forward(self, x_NK: torch.Tensor) -> torch.Tensor:
        pieces_NKP: torch.Tensor = self.linear(x_NK).unflatten(1, (-1, PIECES))
        return pieces_NKP.amax(dim=2)


def parts_of(x_NCHW: torch.Tensor) -> torch.Tensor:
    """Cut stamps into 16 parts each, all with the object in the same corner.

    The central 69 pixels (all of a smaller stamp) at 0 and at 45 degrees, each also mirrored, are
    four views; of each view the four overlapping corners of 45 pixels are turned by 0, 90, 180 and
    270 degrees so that the view's centre comes to lie at the lower right of each.

    Parameters
    ----------
    x_NCHW : torch.Tensor
        Transformed stamps of at least 45 pixels a side. Where a turned view needs pixels beyond
        the stamp it holds 0, the sky level.

    Returns
    -------
    torch.Tensor
        (16 N, C, 45, 45), the parts of a stamp one after another.
    """
    upright = _crop(x_NCHW)
    turned = _turned(x_NCHW, upright.shape[-1])
    views = [upright, turned, upright.flip(3), turned.flip(3)]
    parts = []
    for view in views:
        for turns in range(4):
            # Turning the view brings another of its corners to the upper left each time.
            parts.append(torch.rot90(view, turns, dims=(2, 3))[..., :PART, :PART])
    return torch.stack(parts, dim=1).flatten(0, 1)


def _crop(x_NCHW: torch.Tensor) -> torch.Tensor:
    height, width = x_NCHW.shape[-2:]
    side = min(VIEW, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return x_NCHW[..., top : top + side, left : left + side]


def _turned(x_NCHW: torch.Tensor, side: int) -> torch.Tensor:
    """Turn stamps by 45 degrees about their centre, with bilinear interpolation."""
    height, width = x_NCHW.shape[-2:]
    axis = torch.arange(side, dtype=x_NCHW.dtype, device=x_NCHW.device) - (side - 1) / 2
    y_YX, x_YX = torch.meshgrid(axis, axis, indexing="ij")
    half = math.sqrt(0.5)
    # grid_sample counts from -1 to 1 between the outer edges of the corner pixels.
    from_x_YX = (x_YX - y_YX) * half * 2 / width
    from_y_YX = (x_YX + y_YX) * half * 2 / height
    grid_YX2 = torch.stack([from_x_YX, from_y_YX], dim=-1)
    return functional.grid_sample(
        x_NCHW, grid_YX2.expand(len(x_NCHW), -1, -1, -1), align_corners=False
    )


class Dieleman2015(nn.Module):
    """16 parts of a stamp through one convnet; two maxout layers see all of them.

    The convnet, with valid padding and ReLU: 6x6-32, pool 2, 5x5-64, pool 2, 3x3-128, 3x3-128,
    pool 2. Dropout of 0.5 before each dense layer.

    Parameters
    ----------
    bands : int
        Number of image channels; 3 as published.
    size : int
        Pixels a side, from 45 on; of larger stamps than 69 the centre is looked at, and from 98 on
        the turned views lie wholly inside the stamp.
    outputs : int
        Classes (37 answers as published), or 1 logit.
    """

    def __init__(self, bands: int, size: int, outputs: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(bands, 32, 6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.dense = nn.Sequential(
            nn.Dropout(0.5),
            _Maxout(PARTS * 512, MAXOUT),
            nn.Dropout(0.5),
            _Maxout(MAXOUT, MAXOUT),
            nn.Dropout(0.5),
        )
        self.head = nn.Linear(MAXOUT, outputs)
        initialise(self, dense=True)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map transformed stamps (N, band, y, x) to logits (N,)."""
        features_PF = self.features(parts_of(x_NCHW))
        return one_each(self.head(self.dense(features_PF.unflatten(0, (-1, PARTS)).flatten(1))))
