"""The grid a scene is sampled on, and truth columns as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FineGrid:
    """The fine pixels of a stamp and of the margin about it.

    Attributes
    ----------
    axis_arcsec : (F,) position of fine pixel centres relative to the centre of the central pixel
    scale_arcsec : width of a fine pixel
    adaptive : True: cells that need it are sampled more finely, and everything is spread by the
        B-spline of `gridding`; False: one sample a fine pixel, as it is
    """

    axis_arcsec: Tensor
    scale_arcsec: float
    adaptive: bool = False

    def offsets(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the whole grid relative to N points, as (N, 1, F) and (N, F, 1)."""
        axis = self.axis_arcsec
        return axis[None, None, :] - x[:, None, None], axis[None, :, None] - y[:, None, None]

    def nearest(self, position_arcsec: Tensor) -> Tensor:
        """Index of the fine pixel nearest to each position; may lie outside the grid."""
        return torch.round((position_arcsec - self.axis_arcsec[0]) / self.scale_arcsec).long()


@dataclass(frozen=True)
class Columns:
    """Truth columns of N mocks as tensors of shape (N,)."""

    values: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def get(self, name: str, default: float) -> Tensor:
        """A column that rows may leave out, with `default` where it is missing or NaN."""
        if name not in self.values:
            return torch.full_like(self.values["dx"], default)
        return torch.nan_to_num(self.values[name], nan=default)

    def count(self, name: str) -> int:
        """How many columns there are like ``clump_{}_fraction``, numbered from 1."""
        k = 0
        while name.format(k + 1) in self.values:
            k += 1
        return k

    def take(self, rows: Tensor) -> Columns:
        """The same columns for some of the mocks."""
        table = torch.stack(list(self.values.values()))[:, rows]
        return Columns(dict(zip(self.values, table.unbind(), strict=True)))

    def phi(self, name: str) -> Tensor:
        """A position angle (deg, east of north) as an angle in the image (rad, from +x)."""
        return torch.deg2rad(self.values[name] + 90)

    def cube(self, *names: str) -> list[Tensor]:
        """Columns as (N, 1, 1), to broadcast against a grid."""
        return [self.values[name][:, None, None] for name in names]
