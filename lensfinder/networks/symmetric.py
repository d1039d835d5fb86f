"""Layers that turn and mirror their output when their input is turned or mirrored.

A feature is not one map but eight: the answers to one filter in each of its turned and mirrored
positions (Cohen & Welling 2016, arXiv:1602.07576). Channels are ordered (feature, position), the
position last. Turning the input turns the maps and permutes the positions; what is pooled over
both is invariant. Where a layer halves the sides it must do so about the middle of the stamp.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

POSITIONS = 8
_Array = NDArray[np.int64]


def _turn(number: int) -> Callable[[_Array], _Array]:
    """Return one of the eight symmetries of a square, as acts on (..., y, x)."""
    quarter, mirrored = number % 4, number >= 4

    def turned(x: _Array) -> _Array:
        return np.rot90(x[..., ::-1] if mirrored else x, quarter, (-2, -1))

    return turned


def _backwards() -> _Array:
    """Tabulate the position of g⁻¹ h, of shape (g, h)."""
    square = np.arange(4).reshape(2, 2)
    seen = {_turn(g)(square).tobytes(): g for g in range(POSITIONS)}
    table = np.empty((POSITIONS, POSITIONS), np.int64)
    for g in range(POSITIONS):
        for k in range(POSITIONS):
            # g k = h, so that g⁻¹ h = k.
            table[g, seen[_turn(g)(_turn(k)(square)).tobytes()]] = k
    return table


def _places(positions: int, kernel: int) -> list[int]:
    """Say where in a filter each weight of its eight positions stands, (g, h, y, x) flattened."""
    numbers = np.arange(positions * kernel**2).reshape(positions, kernel, kernel)
    if positions == 1:
        placed = [_turn(g)(numbers) for g in range(POSITIONS)]
    else:
        placed = [_turn(g)(numbers[row]) for g, row in enumerate(_backwards())]
    flat: list[int] = np.stack(placed).ravel().tolist()
    return flat


class SymmetricConv2d(nn.Conv2d):
    """A convolution whose filters are applied in eight positions.

    Costs what a convolution of ``8 n_out`` channels costs, with an eighth of its weights.

    Parameters
    ----------
    n_in : int
        Features of the input, or its bands if `lifting`.
    n_out : int
        Features of the output, of eight channels each.
    kernel : int
        Pixels a side.
    stride : int
        The caller sees to it that kernel, padding and stride lie symmetrically on the input.
    lifting : bool
        The input is an image: its channels are no positions.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        lifting: bool = False,
    ) -> None:
        positions = 1 if lifting else POSITIONS
        super().__init__(n_in * positions, n_out, kernel, stride=stride, padding=padding, bias=bias)
        self.positions = positions
        # Without a layout of its own: what is applied is gathered from it anyway.
        self.weight = nn.Parameter(self.weight.detach().flatten(2))
        # No buffer: it must be known, too, where a network is made without its weights.
        self.places = torch.tensor(_places(positions, kernel), device="cpu")

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Map (N, n_in [8], y, x) to (N, n_out 8, y, x)."""
        n_out, wide, _ = self.weight.shape
        n_in, kernel = wide // self.positions, self.kernel_size[0]
        all_OIGHK = self.weight.reshape(n_out, n_in, -1)[:, :, self.places].reshape(
            n_out, n_in, POSITIONS, self.positions, kernel * kernel
        )
        weight = all_OIGHK.permute(0, 2, 1, 3, 4).reshape(n_out * POSITIONS, wide, kernel, kernel)
        bias = None if self.bias is None else self.bias.repeat_interleave(POSITIONS)
        return functional.conv2d(x_NCHW, weight, bias, self.stride, self.padding)


class SymmetricGroupNorm(nn.GroupNorm):
    """GroupNorm with the same scale and shift for the eight positions of a feature.

    Parameters
    ----------
    groups : int
        Each of whole features.
    features : int
    """

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Normalise (N, features 8, y, x)."""
        weight, bias = (v.repeat_interleave(POSITIONS) for v in (self.weight, self.bias))
        return functional.group_norm(x_NCHW, self.num_groups, weight, bias, self.eps)


def halve(x_NCHW: torch.Tensor) -> torch.Tensor:
    """Average neighbours, every second pixel, symmetrically about the middle of each side.

    An odd side n gives (n + 1) / 2 pixels, an even one n / 2. Stamps are square.
    """
    if x_NCHW.shape[-1] % 2:
        return functional.avg_pool2d(x_NCHW, 3, 2, padding=1, count_include_pad=False)
    return functional.avg_pool2d(x_NCHW, 2)
