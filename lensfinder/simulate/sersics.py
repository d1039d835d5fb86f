"""Unlensed galaxies and stars on the grid.

On an adaptive grid a galaxy is three parts that add up to its profile everywhere. Away from the
centre it is smooth, and one sample a cell says all. Near the centre cells are sampled more finely,
faded in by a smooth window, so that neither part has an edge. The innermost cusp, which no sampling
catches, is a point with the flux that the profile has there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import gridding, light
from lensfinder.simulate.grid import FineGrid

# Cells about the centre that are sampled more finely, and the width of the window
# exp(-(r / width)^4) by which they fade in.
_CORE_CELLS = 9
_FADE_CELLS = 2.2
# The Gaussian about the cusp, in samples of the core along a round galaxy's radius.
_CUSP_SAMPLES = 1.0
# Abscissae and weights of the integral over the cusp, in v with radius ~ v^4: smooth for n <= 8.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)

Shape = tuple[Tensor, Tensor, Tensor, Tensor]


def add_sersic(
    scene_NCFF: Tensor,
    grid: FineGrid,
    rows: Tensor,
    x: Tensor,
    y: Tensor,
    shape: Shape,
    flux_RC: Tensor,
    reach_arcsec: float | None = None,
    refinement: int = 5,
) -> None:
    """Add R Sersic galaxies, in place.

    Parameters
    ----------
    scene_NCFF : flux per fine pixel
    rows : (R,) index of the mock that each belongs to
    x, y : (R,) centre, arcsec from the central pixel
    shape : r_e_arcsec, n, q, phi_rad, each (R,)
    flux_RC : total flux in each band
    reach_arcsec : half-width of the square about each centre that is drawn; None: all of the grid
    refinement : samples along a side of a cell near the centre, on an adaptive grid
    """
    if len(rows) == 0:
        return
    n_fine, scale = len(grid.axis_arcsec), grid.scale_arcsec
    if reach_arcsec is None:
        left = low = torch.zeros_like(rows)
        width = n_fine
    else:
        half = math.ceil(reach_arcsec / scale)
        left, low, width = grid.nearest(x) - half, grid.nearest(y) - half, 2 * half + 1
    # An integer tensor times a number would be float32 whatever the rest is.
    steps = torch.arange(width, dtype=grid.axis_arcsec.dtype)
    dx = grid.axis_arcsec[0] + (left[:, None] + steps) * scale - x[:, None]
    dy = grid.axis_arcsec[0] + (low[:, None] + steps) * scale - y[:, None]
    profile = light.sersic(dx[:, None, :], dy[:, :, None], *(p[:, None, None] for p in shape))
    profile *= scale**2
    if grid.adaptive:
        profile = _with_core(profile, dx, dy, scale, shape, refinement)
    if reach_arcsec is None and len(set(rows.tolist())) == len(rows):
        scene_NCFF.index_add_(0, rows, profile[:, None] * flux_RC[:, :, None, None])
        return
    for k, (row, i, j) in enumerate(zip(rows.tolist(), left.tolist(), low.tolist(), strict=True)):
        x0, x1, y0, y1 = max(i, 0), min(i + width, n_fine), max(j, 0), min(j + width, n_fine)
        if x0 < x1 and y0 < y1:
            patch = profile[k, y0 - j : y1 - j, x0 - i : x1 - i]
            scene_NCFF[row, :, y0:y1, x0:x1].addcmul_(patch, flux_RC[k, :, None, None])


def _with_core(
    profile_RWW: Tensor, dx_RW: Tensor, dy_RW: Tensor, h: float, shape: Shape, refinement: int
) -> Tensor:
    """The profile, spread, with its core sampled finely. Changes `profile_RWW`."""
    dtype, width = profile_RWW.dtype, profile_RWW.shape[-1]
    reach = torch.arange(_CORE_CELLS) - _CORE_CELLS // 2
    # The cells that hold the centre and those about it, which may lie off the grid.
    centre_i, centre_j = torch.round(-dx_RW[:, 0] / h).long(), torch.round(-dy_RW[:, 0] / h).long()
    column, line = centre_i[:, None] + reach, centre_j[:, None] + reach
    fade = -1 / (_FADE_CELLS * h) ** 4

    x_cell, y_cell = dx_RW[:, :1] + column.to(dtype) * h, dy_RW[:, :1] + line.to(dtype) * h
    left_over = 1 - torch.exp(fade * (x_cell[:, None, :] ** 2 + y_cell[:, :, None] ** 2) ** 2)
    # Off the grid, the nearest cells on it are written twice with what belongs to them.
    on_i, on_j = column.clamp(0, width - 1), line.clamp(0, width - 1)
    row = torch.arange(len(profile_RWW))[:, None, None]
    inside = ((column == on_i)[:, None, :] & (line == on_j)[:, :, None]).to(dtype)
    cells = profile_RWW[row, on_j[:, :, None], on_i[:, None, :]]
    profile_RWW.index_put_(
        (row, on_j[:, :, None], on_i[:, None, :]),
        cells * inside * (left_over - 1),
        accumulate=True,
    )
    out = gridding.smooth(profile_RWW)

    r_e, n, q, phi = (p[:, None, None] for p in shape)
    sub = gridding.sub_offsets(refinement, dtype) * h
    xs = (x_cell[:, :, None] + sub).flatten(1)[:, None, :]
    ys = (y_cell[:, :, None] + sub).flatten(1)[:, :, None]
    sigma = _CUSP_SAMPLES * h / refinement / torch.sqrt(shape[2])
    radius2 = light.squared_elliptical_radius(xs, ys, q, phi)
    fine = light.sersic_at(radius2, r_e, n)
    fine *= (xs**2 + ys**2).square_().mul_(fade).exp_().mul_((h / refinement) ** 2)
    fine *= radius2.mul_(-0.5 / sigma[:, None, None] ** 2).exp_().neg_().add_(1)
    weights = gridding.window_weights(_CORE_CELLS, refinement, dtype)
    spread = weights @ fine @ weights.T

    cusp = cusp_flux(shape[0], shape[1], sigma)
    i, weights_x = gridding.point_taps(-dx_RW[:, 0] / h)
    j, weights_y = gridding.point_taps(-dy_RW[:, 0] / h)
    # The window's first point lies REACH before the core's first cell.
    first_i, first_j = column[:, :1] - gridding.REACH, line[:, :1] - gridding.REACH
    taps = torch.arange(weights_x.shape[1])
    at_i, at_j = i[:, None] + taps - first_i, j[:, None] + taps - first_j
    point = weights_y[:, :, None] * weights_x[:, None, :] * cusp[:, None, None]
    spread[row, at_j[:, :, None], at_i[:, None, :]] += point

    window = torch.arange(spread.shape[-1])
    i, j = first_i + window, first_j + window
    on_i, on_j = i.clamp(0, width - 1), j.clamp(0, width - 1)
    inside = ((i == on_i)[:, None, :] & (j == on_j)[:, :, None]).to(dtype)
    out.index_put_((row, on_j[:, :, None], on_i[:, None, :]), spread * inside, accumulate=True)
    return out


def cusp_flux(r_e_arcsec: Tensor, n: Tensor, sigma_arcsec: Tensor) -> Tensor:
    """Integral of a Sersic profile of unit flux times exp(-rho^2 / (2 sigma^2)), (R,).

    rho is the circularised elliptical radius, so that the axis ratio does not matter.
    """
    dtype = r_e_arcsec.dtype
    # Light beyond 7 sigma counts for 1e-11.
    v = torch.tensor(0.5 * (_NODES + 1), dtype=dtype)
    weights = torch.tensor(0.5 * _WEIGHTS, dtype=dtype) * 4 * v**3
    end = 7 * sigma_arcsec[:, None]
    rho = end * v**4
    one = torch.ones_like(rho)
    profile = light.sersic(
        rho, torch.zeros_like(rho), r_e_arcsec[:, None], n[:, None], one, 0 * one
    )
    inner = profile * torch.exp(-0.5 * (rho / sigma_arcsec[:, None]) ** 2)
    return (inner * 2 * math.pi * rho * end * weights).sum(dim=1)


def add_points(
    scene_NCFF: Tensor, grid: FineGrid, rows: Tensor, x: Tensor, y: Tensor, flux_RC: Tensor
) -> None:
    """Add point sources, in place; points outside the grid are left out.

    On an adaptive grid they are spread like everything else. On a plain one each is shared between
    the four nearest fine pixels: flux and centroid are exact, the image is wider by less than 1 %
    of an FWHM of two pixels. Parameters as in `add_sersic`.
    """
    if len(rows) == 0:
        return
    n_fine = len(grid.axis_arcsec)
    u = (x - grid.axis_arcsec[0]) / grid.scale_arcsec
    v = (y - grid.axis_arcsec[0]) / grid.scale_arcsec
    if grid.adaptive:
        i, weights_x = gridding.point_taps(u)
        j, weights_y = gridding.point_taps(v)
    else:
        i, j = torch.floor(u).long(), torch.floor(v).long()
        weights_x = torch.stack([1 - (u - i), u - i], dim=1)
        weights_y = torch.stack([1 - (v - j), v - j], dim=1)
    taps = torch.arange(weights_x.shape[1])
    ii, jj = (i[:, None] + taps)[:, None, :], (j[:, None] + taps)[:, :, None]
    inside = (jj >= 0) & (jj < n_fine) & (ii >= 0) & (ii < n_fine)
    share = weights_y[:, :, None] * weights_x[:, None, :] * inside
    values = flux_RC[:, :, None, None] * share[:, None]
    band = torch.arange(scene_NCFF.shape[1])[None, :, None, None]
    where = (
        rows[:, None, None, None],
        band,
        jj.clamp(0, n_fine - 1)[:, None],
        ii.clamp(0, n_fine - 1)[:, None],
    )
    scene_NCFF.index_put_(where, values, accumulate=True)
