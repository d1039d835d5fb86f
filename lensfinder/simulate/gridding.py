"""From samples anywhere to a coarse grid, without loss below the grid's Nyquist frequency.

Where light is smooth, one sample a grid cell says all. Where it is not (the cusp of a galaxy, an
arc), cells are sampled more finely, and each sample is spread over the nearest grid points with a
cubic B-spline. What a B-spline does to a scene is known, and is divided out together with the PSF,
as gridding does in radio interferometry (Greisen & Ebert; Schwab 1984): unlike a mean over each
cell this keeps positions inside a cell, and folds back next to nothing from beyond the Nyquist
frequency. Smooth light takes part by the same B-spline (`smooth`), so that everything on the grid
has met the same response.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Grid points on each side of a cell's own that a sample in it reaches.
REACH = 2
TAPS = 2 * REACH + 1


def bspline(u: Tensor) -> Tensor:
    """Cubic B-spline of unit integral; u in grid steps."""
    u = u.abs()
    inner = 2 / 3 - u**2 * (1 - u / 2)
    outer = (2 - u).clamp(min=0) ** 3 / 6
    return torch.where(u < 1, inner, outer)


def sub_offsets(refinement: int, dtype: torch.dtype) -> Tensor:
    """Centres of the parts of a cell cut into `refinement` along its side, in cells, (r,)."""
    return (torch.arange(refinement, dtype=dtype) + 0.5) / refinement - 0.5


def cell_weights(refinement: int, dtype: torch.dtype) -> Tensor:
    """Share of each sample of a cell at each grid point about it, (TAPS, r)."""
    taps = torch.arange(-REACH, REACH + 1, dtype=dtype)
    return bspline(taps[:, None] - sub_offsets(refinement, dtype)[None, :])


def window_weights(cells: int, refinement: int, dtype: torch.dtype) -> Tensor:
    """The same for a row of neighbouring cells, (cells + 2 REACH, cells * r)."""
    offsets = torch.arange(cells * refinement, dtype=dtype) + 0.5
    points = torch.arange(cells + 2 * REACH, dtype=dtype) - REACH
    return bspline(points[:, None] - (offsets / refinement - 0.5)[None, :])


def smooth(image: Tensor) -> Tensor:
    """Convolve samples at the grid points, (..., Y, X), with the B-spline between the points.

    The border keeps what the outermost row would have beyond it equal to itself.
    """
    image = _smooth_rows(image)
    return _smooth_rows(image.transpose(-1, -2)).transpose(-1, -2)


def _smooth_rows(image: Tensor) -> Tensor:
    out = image * (4 / 6)
    out[..., 1:, :].add_(image[..., :-1, :], alpha=1 / 6)
    out[..., :-1, :].add_(image[..., 1:, :], alpha=1 / 6)
    out[..., 0, :].add_(image[..., 0, :], alpha=1 / 6)
    out[..., -1, :].add_(image[..., -1, :], alpha=1 / 6)
    return out


def response(ky: Tensor, kx: Tensor, scale_arcsec: float) -> Tensor:
    """Transfer function of spreading, to divide by; frequencies in cycles per arcsec."""
    return (torch.sinc(ky * scale_arcsec) * torch.sinc(kx * scale_arcsec)) ** 4


def add_cells(
    image_NFF: Tensor, row: Tensor, line: Tensor, column: Tensor, samples_SM: Tensor
) -> None:
    """Spread the samples of M cells over images, in place; what falls off the edge is lost.

    Parameters
    ----------
    image_NFF : contiguous
    row, line, column : (M,) image and grid point of each cell
    samples_SM : flux of each sample, (r * r, M), y-major
    """
    if len(row) == 0:
        return
    n_fine = image_NFF.shape[-1]
    refinement = round(len(samples_SM) ** 0.5)
    weights = cell_weights(refinement, samples_SM.dtype)
    both = (weights[:, None, :, None] * weights[None, :, None, :]).reshape(
        TAPS * TAPS, refinement * refinement
    )
    spread = both @ samples_SM
    tap = torch.arange(-REACH, REACH + 1)
    dy, dx = tap.repeat_interleave(TAPS)[:, None], tap.repeat(TAPS)[:, None]
    j, i = line + dy, column + dx
    at = (row * n_fine + j) * n_fine + i
    if (
        int(line.min()) < REACH
        or int(column.min()) < REACH
        or max(int(line.max()), int(column.max())) >= n_fine - REACH
    ):
        inside = (j >= 0) & (j < n_fine) & (i >= 0) & (i < n_fine)
        spread = torch.where(inside, spread, 0.0)
        at = torch.where(inside, at, 0)
    image_NFF.view(-1).index_add_(0, at.reshape(-1), spread.reshape(-1))


def point_taps(u: Tensor) -> tuple[Tensor, Tensor]:
    """Grid points about positions u (in grid steps) and the share of each.

    Returns
    -------
    first : (R,) index of the first point
    weights : (R, TAPS - 1), sum to 1
    """
    low = torch.floor(u)
    steps = torch.arange(-1, REACH + 1, dtype=u.dtype)
    weights = bspline(steps[None, :] - (u - low)[:, None])
    return low.long() - 1, weights
