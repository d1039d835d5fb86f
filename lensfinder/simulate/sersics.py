"""Unlensed galaxies and stars on the grid.

On an adaptive grid a galaxy is three parts that add up to its profile everywhere. Away from the
centre it is smooth, and one sample a cell says all. Near the centre cells are sampled more finely,
faded in by a smooth window, so that neither part has an edge. The innermost cusp, which no sampling
catches, is a point with the flux that the profile has there.

The cores of all galaxies of a chunk are made together (`prepare`), and galaxies that reach as far
are drawn together: on tensors this small, the number of operations is what takes time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import gridding, light
from lensfinder.simulate.grid import FineGrid

# Cells about the centre that are sampled more finely, and the width of the window
# exp(-(r / width)^4) by which they fade in.
CORE_CELLS = 9
FADE_CELLS = 2.2
# What the core is spread over.
SPREAD_CELLS = CORE_CELLS + 2 * gridding.REACH
# The Gaussian about the cusp, in samples of the core along a round galaxy's radius.
_CUSP_SAMPLES = 1.0
# Abscissae and weights of the integral over the cusp, in v with radius ~ v^4: smooth for n <= 8.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
# Galaxies are drawn in squares of these half-widths, arcsec; those that reach farther get all of
# the grid.
REACHES_ARCSEC = (0.0, 2.0, 4.0, 8.0)
# Of the cores that are made at a time: what a core's cache holds.
_CORES_AT_A_TIME = 128

# Indexes numbers of R galaxies to broadcast against R grids.
_CUBE = (slice(None), None, None)

Shape = tuple[Tensor, Tensor, Tensor, Tensor]
Three = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Galaxies:
    """R Sersic galaxies.

    Attributes
    ----------
    rows : (R,) index of the mock that each belongs to
    x, y : (R,) centre, arcsec from the central pixel
    shape : r_e_arcsec, n, q, phi_rad, each (R,)
    flux_RC : total flux in each band
    reach_arcsec : (R,) half-width of the square about each centre that is drawn; infinite: all of
        the grid
    refinement : (R,) samples along a side of a cell near the centre, on an adaptive grid
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    shape: Shape
    flux_RC: Tensor
    reach_arcsec: Tensor
    refinement: Tensor

    def take(self, some: Tensor) -> Galaxies:
        """Some of them, by index or by a mask."""
        r_e, n, q, phi = (part[some] for part in self.shape)
        return Galaxies(
            self.rows[some],
            self.x[some],
            self.y[some],
            (r_e, n, q, phi),
            self.flux_RC[some],
            self.reach_arcsec[some],
            self.refinement[some],
        )

    @classmethod
    def join(cls, parts: Sequence[Galaxies]) -> Galaxies:
        """Several as one."""

        def all_of(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        shapes = zip(*(part.shape for part in parts), strict=True)
        r_e, n, q, phi = (torch.cat(column) for column in shapes)
        return cls(
            all_of("rows"),
            all_of("x"),
            all_of("y"),
            (r_e, n, q, phi),
            all_of("flux_RC"),
            all_of("reach_arcsec"),
            all_of("refinement"),
        )


@dataclass(frozen=True)
class Prepared:
    """Galaxies whose cores are made.

    Attributes
    ----------
    galaxies : that they belong to
    form : of their ellipses
    terms : of their profiles
    centre_i, centre_j : (R,) cell that holds each centre, which may lie off the grid
    left_over_RKK : what the core leaves of the samples of the cells about each centre
    spread_RLL : the core, flux per cell, for a total flux of 1
    """

    galaxies: Galaxies
    form: light.Form
    terms: light.Terms
    centre_i: Tensor
    centre_j: Tensor
    left_over_RKK: Tensor
    spread_RLL: Tensor


def prepare(galaxies: Galaxies, grid: FineGrid) -> Prepared:
    """Make the cores of galaxies."""
    r_e, n, q, phi = galaxies.shape
    form, terms = light.elliptical_form(q, phi), light.sersic_terms(r_e, n)
    centre_i, centre_j = grid.nearest(galaxies.x), grid.nearest(galaxies.y)
    count, dtype = len(r_e), galaxies.x.dtype
    left_over = torch.empty(count, CORE_CELLS, CORE_CELLS, dtype=dtype)
    spread = torch.empty(count, SPREAD_CELLS, SPREAD_CELLS, dtype=dtype)
    if grid.adaptive:
        for refinement in torch.unique(galaxies.refinement).tolist():
            alike = torch.nonzero(galaxies.refinement == refinement)[:, 0]
            for some in torch.split(alike, _CORES_AT_A_TIME):
                left_over[some], spread[some] = _cores(
                    position(grid, galaxies.x[some], centre_i[some]),
                    position(grid, galaxies.y[some], centre_j[some]),
                    (r_e[some], n[some], q[some]),
                    each(form, some),
                    each(terms, some),
                    refinement,
                    grid.scale_arcsec,
                )
    return Prepared(galaxies, form, terms, centre_i, centre_j, left_over, spread)


def each(three: Three, index: Any) -> Three:
    """Index each of three tensors."""
    a, b, c = three
    return a[index], b[index], c[index]


def position(grid: FineGrid, x: Tensor, index: Tensor) -> Tensor:
    """Of a grid point relative to x, arcsec."""
    return grid.axis_arcsec[0] + index.to(x.dtype) * grid.scale_arcsec - x


def half_width(reach_arcsec: float, scale_arcsec: float) -> int:
    """Half the side of the square that is drawn, in cells; the core has to find its place, too."""
    return max(math.ceil(reach_arcsec / scale_arcsec), SPREAD_CELLS // 2)


def draw(scene_NCFF: Tensor, grid: FineGrid, prepared: Prepared, first: int = 0) -> None:
    """Add those of the galaxies that belong to the mocks of a scene, in place.

    Parameters
    ----------
    scene_NCFF : flux per fine pixel, contiguous
    first : mock that the scene begins with
    """
    galaxies = prepared.galaxies
    mine = (galaxies.rows >= first) & (galaxies.rows < first + len(scene_NCFF))
    reach = galaxies.reach_arcsec
    for low, high in pairwise((*REACHES_ARCSEC, math.inf)):
        some = torch.nonzero(mine & (reach > low) & (reach <= high))[:, 0]
        if len(some):
            _draw_alike(scene_NCFF, grid, prepared, some, high, first)


def _draw_alike(
    scene_NCFF: Tensor,
    grid: FineGrid,
    prepared: Prepared,
    some: Tensor,
    reach_arcsec: float,
    first: int,
) -> None:
    """Add some galaxies in squares of one size."""
    galaxies, n_fine, scale = prepared.galaxies, len(grid.axis_arcsec), grid.scale_arcsec
    centre_i, centre_j = prepared.centre_i[some], prepared.centre_j[some]
    whole = math.isinf(reach_arcsec)
    if whole:
        left = low = torch.zeros_like(some)
        width = n_fine
    else:
        half = half_width(reach_arcsec, scale)
        left, low, width = centre_i - half, centre_j - half, 2 * half + 1
    # An integer tensor times a number would be float32 whatever the rest is.
    steps = torch.arange(width, dtype=grid.axis_arcsec.dtype) * scale
    dx = position(grid, galaxies.x[some], left)[:, None] + steps
    dy = position(grid, galaxies.y[some], low)[:, None] + steps
    radius2 = light.form_at(dx[:, None, :], dy[:, :, None], each(prepared.form, (some, None, None)))
    profile = light.sersic_of(radius2, each(prepared.terms, (some, None, None)), scale**2)
    if grid.adaptive and not whole:
        core = slice(half - CORE_CELLS // 2, half + CORE_CELLS // 2 + 1)
        profile[:, core, core] *= prepared.left_over_RKK[some]
        profile = gridding.smooth(profile)
        core = slice(half - SPREAD_CELLS // 2, half + SPREAD_CELLS // 2 + 1)
        profile[:, core, core] += prepared.spread_RLL[some]
    elif grid.adaptive:
        for k, inside, cut in _overlaps(centre_i, centre_j, CORE_CELLS, n_fine):
            profile[k][inside] *= prepared.left_over_RKK[some[k]][cut]
        profile = gridding.smooth(profile)
        for k, inside, cut in _overlaps(centre_i, centre_j, SPREAD_CELLS, n_fine):
            profile[k][inside] += prepared.spread_RLL[some[k]][cut]
    rows, flux = (galaxies.rows[some] - first).tolist(), galaxies.flux_RC[some][:, :, None, None]
    if whole:
        for k, row in enumerate(rows):
            scene_NCFF[row].addcmul_(profile[k], flux[k])
        return
    # On small pieces numpy takes a third of the time that torch does; both see the same memory.
    scene, patches, fluxes = scene_NCFF.numpy(), profile.numpy(), flux.numpy()
    for k, inside, cut in _overlaps(left + half, low + half, width, n_fine):
        scene[rows[k], :, *inside] += patches[k][cut] * fluxes[k]


def _overlaps(
    centre_i: Tensor, centre_j: Tensor, width: int, n_fine: int
) -> list[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
    """Where squares of `width` cells lie on the grid: number, place on it, and part of the square.

    Those that lie off the grid are left out.
    """
    found = []
    half = width // 2
    for k, (i, j) in enumerate(zip(centre_i.tolist(), centre_j.tolist(), strict=True)):
        x0, x1 = max(i - half, 0), min(i + half + 1, n_fine)
        y0, y1 = max(j - half, 0), min(j + half + 1, n_fine)
        if x0 < x1 and y0 < y1:
            left, low = half - i, half - j
            cut = slice(y0 + low, y1 + low), slice(x0 + left, x1 + left)
            found.append((k, (slice(y0, y1), slice(x0, x1)), cut))
    return found


def _cores(
    x: Tensor,
    y: Tensor,
    size: tuple[Tensor, Tensor, Tensor],
    form: light.Form,
    terms: light.Terms,
    refinement: int,
    h: float,
) -> tuple[Tensor, Tensor]:
    """What cores leave over, (R, K, K), and what they hold, (R, L, L).

    Parameters
    ----------
    x, y : (R,) place of the central cell relative to the galaxy's centre, arcsec
    size : r_e_arcsec, n, q
    form, terms : of `light`
    refinement : samples along a cell's side
    h : side of a cell, arcsec
    """
    dtype, q = x.dtype, size[2]
    reach = torch.arange(CORE_CELLS) - CORE_CELLS // 2
    fade = -1 / (FADE_CELLS * h) ** 4
    x_cell, y_cell = x[:, None] + reach.to(dtype) * h, y[:, None] + reach.to(dtype) * h
    left_over = x_cell[:, None, :].square() + y_cell[:, :, None].square()
    left_over.square_().mul_(fade).exp_().neg_().add_(1)

    sub = gridding.sub_offsets(refinement, dtype) * h
    xs = (x_cell[:, :, None] + sub).flatten(1)[:, None, :]
    ys = (y_cell[:, :, None] + sub).flatten(1)[:, :, None]
    sigma = cusp_sigma(h, refinement, q)
    radius2 = light.form_at(xs, ys, each(form, _CUBE))
    window = (xs.square() + ys.square()).square_().mul_(fade)
    fine = light.sersic_of(radius2, each(terms, _CUBE), (h / refinement) ** 2)
    fine *= window.exp_()
    fine *= radius2.mul_(-0.5 / sigma.square()[:, None, None]).exp_().neg_().add_(1)
    weights = gridding.window_weights(CORE_CELLS, refinement, dtype)
    spread = weights @ fine @ weights.T

    cusp = cusp_flux(size[0], size[1], sigma)
    add_cusps(spread, torch.arange(len(x)), x / h, y / h, cusp)
    return left_over, spread


def cusp_sigma(h_arcsec: float, refinement: int, q: Tensor) -> Tensor:
    """Width of the Gaussian about the centre that counts as the cusp, (R,), arcsec."""
    return _CUSP_SAMPLES * h_arcsec / refinement / torch.sqrt(q)


def add_cusps(spread_RLL: Tensor, some: Tensor, x: Tensor, y: Tensor, cusp: Tensor) -> None:
    """Add the cusps of some galaxies as points, in place.

    Parameters
    ----------
    spread_RLL : of `Prepared`
    some : (M,) which galaxies
    x, y : (M,) place of the central cell relative to each centre, in cells
    cusp : (M,) of `cusp_flux`
    """
    # The window's first point lies REACH before the core's first cell.
    first = SPREAD_CELLS // 2
    i, weights_x = gridding.point_taps(first - x)
    j, weights_y = gridding.point_taps(first - y)
    taps = torch.arange(weights_x.shape[1])
    at_i, at_j = i[:, None] + taps, j[:, None] + taps
    point = weights_y[:, :, None] * (weights_x * cusp[:, None])[:, None, :]
    spread_RLL[some[:, None, None], at_j[:, :, None], at_i[:, None, :]] += point


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
    terms = each(light.sersic_terms(r_e_arcsec, n), (slice(None), None))
    inner = light.sersic_of(rho.square(), terms)
    inner *= torch.exp(-0.5 * (rho / sigma_arcsec[:, None]) ** 2)
    return (inner * 2 * math.pi * rho * end * weights).sum(dim=1)


def add_points(scene_NCFF: Tensor, grid: FineGrid, stars: Galaxies, first: int = 0) -> None:
    """Add point sources, in place; points outside the grid are left out.

    On an adaptive grid they are spread like everything else. On a plain one each is shared between
    the four nearest fine pixels: flux and centroid are exact, the image is wider by less than 1 %
    of an FWHM of two pixels.

    Parameters
    ----------
    stars : whose shape does not matter
    first : mock that the scene begins with
    """
    stars = stars.take((stars.rows >= first) & (stars.rows < first + len(scene_NCFF)))
    if len(stars.rows) == 0:
        return
    n_fine = len(grid.axis_arcsec)
    u = (stars.x - grid.axis_arcsec[0]) / grid.scale_arcsec
    v = (stars.y - grid.axis_arcsec[0]) / grid.scale_arcsec
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
    values = stars.flux_RC[:, :, None, None] * share[:, None]
    band = torch.arange(scene_NCFF.shape[1])[None, :, None, None]
    where = (
        (stars.rows - first)[:, None, None, None],
        band,
        jj.clamp(0, n_fine - 1)[:, None],
        ii.clamp(0, n_fine - 1)[:, None],
    )
    scene_NCFF.index_put_(where, values, accumulate=True)
