"""Unlensed galaxies, drawn as `simulate.sersics` draws them: same squares, cores and windows."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import gridding, light, sersics
from lensfinder.simulate.compiled import profiles
from lensfinder.simulate.compiled.jit import element, kernel
from lensfinder.simulate.compiled.maths import LOG2_E, Array, Index, exp2, f32, u64
from lensfinder.simulate.compiled.profiles import add, add_square, brightness, outside, smooth
from lensfinder.simulate.grid import FineGrid
from lensfinder.simulate.sersics import CORE_CELLS, SPREAD_CELLS, Galaxies, Prepared

_TAPS = gridding.TAPS


def prepare(galaxies: Galaxies, grid: FineGrid) -> Prepared:
    """As `sersics.prepare`, on an adaptive grid in float32."""
    r_e, n, q, phi = galaxies.shape
    form, terms = light.elliptical_form(q, phi), light.sersic_terms(r_e, n)
    centre_i, centre_j = grid.nearest(galaxies.x), grid.nearest(galaxies.y)
    h, table = grid.scale_arcsec, profiles.described(form, terms)
    left_over = torch.empty(len(r_e), CORE_CELLS, CORE_CELLS)
    spread = torch.zeros(len(r_e), SPREAD_CELLS, SPREAD_CELLS)
    for refinement in torch.unique(galaxies.refinement).tolist():
        some = torch.nonzero(galaxies.refinement == refinement)[:, 0]
        x = sersics.position(grid, galaxies.x[some], centre_i[some])
        y = sersics.position(grid, galaxies.y[some], centre_j[some])
        sigma = sersics.cusp_sigma(h, refinement, q[some])
        _cores(
            left_over.numpy(),
            spread.numpy(),
            some.numpy(),
            torch.stack([x, y, sigma], dim=1).numpy(),
            table,
            f32(h),
            gridding.sub_offsets(refinement, torch.float32).numpy(),
            gridding.cell_weights(refinement, torch.float32).numpy(),
        )
        cusp = sersics.cusp_flux(r_e[some], n[some], sigma)
        sersics.add_cusps(spread, some, x / h, y / h, cusp)
    return Prepared(galaxies, form, terms, centre_i, centre_j, left_over, spread)


@element
def _whole_vectors(count: int) -> int:
    """The next multiple of 16, as many as go into a vector: what is left over is slow."""
    return (count + 15) // 16 * 16


@kernel
def _cores(
    left_over_RKK: Array,
    spread_RLL: Array,
    some: Index,
    place_R3: Array,
    galaxy_R6: Array,
    h: f32,
    offset_r: Array,
    weight_Tr: Array,
) -> None:
    """Write what the cores of some galaxies leave over, and add what they hold.

    Parameters
    ----------
    some : which of the galaxies
    place_R3 : of the central cell relative to the centre of each of them, and the width of what
        counts as its cusp, arcsec
    galaxy_R6 : of `profiles.described`, of all galaxies
    offset_r, weight_Tr : of `gridding`
    """
    r = len(offset_r)
    samples, half = CORE_CELLS * r, CORE_CELLS // 2
    whole = _whole_vectors(samples)
    per_fade2 = f32(1) / (f32(sersics.FADE_CELLS) * h * f32(sersics.FADE_CELLS) * h)
    area = (h / f32(r)) * (h / f32(r))
    xs, line = np.zeros(whole, np.float32), np.empty(whole, np.float32)
    rows = np.empty((SPREAD_CELLS, whole), np.float32)
    for k in range(len(some)):
        x, y, sigma = place_R3[k]
        galaxy = galaxy_R6[some[k]]
        left_over, spread = left_over_RKK[some[k]], spread_RLL[some[k]]
        for j in range(CORE_CELLS):
            dy = y + f32(j - half) * h
            for i in range(CORE_CELLS):
                dx = x + f32(i - half) * h
                left_over[j, i] = outside(dx * dx + dy * dy, per_fade2)
                for a in range(r):
                    xs[i * r + a] = dx + offset_r[a] * h
        fall = f32(-0.5) * LOG2_E / (sigma * sigma)
        rows[:] = f32(0)
        for b in range(samples):
            dy = y + f32(b // r - half) * h + offset_r[b % r] * h
            _held(xs, dy, area, galaxy, per_fade2, fall, line)
            for tap in range(_TAPS):
                add(rows[b // r + tap], weight_Tr[tap, b % r], line)
        for j in range(SPREAD_CELLS):
            for i in range(CORE_CELLS):
                for tap in range(_TAPS):
                    total = f32(0)
                    for a in range(r):
                        total += weight_Tr[tap, a] * rows[j, i * r + a]
                    spread[j, i + tap] += total


@kernel
def _held(
    xs: Array, y: f32, area: f32, galaxy_6: Array, per_fade2: f32, fall: f32, out: Array
) -> None:
    """Flux in an area on a line of samples of a core, without the cusp.

    Parameters
    ----------
    per_fade2 : 1 / width^2 of the window
    fall : of the exponent of the cusp's Gaussian, to base 2, with the squared radius
    """
    xx, xy, yy, shrink, power, log_centre = galaxy_6
    for s in range(u64(len(xs))):
        radius2 = max((xx * xs[s] + xy * y) * xs[s] + yy * (y * y), f32(0))
        held = f32(1) - outside(xs[s] * xs[s] + y * y, per_fade2)
        held *= f32(1) - exp2(fall * radius2)
        out[s] = brightness(radius2, shrink, power, log_centre) * area * held


@kernel
def _profile(xs: Array, first_y: f32, h: f32, area: f32, galaxy_6: Array, out_YX: Array) -> None:
    """Flux in an area on lines of samples, of which the first is at `first_y`."""
    xx, xy, yy, shrink, power, log_centre = galaxy_6
    for j in range(u64(len(out_YX))):
        y = first_y + f32(j) * h
        along, square = xy * y, yy * (y * y)
        for i in range(u64(len(xs))):
            radius2 = (xx * xs[i] + along) * xs[i] + square
            out_YX[j, i] = brightness(radius2, shrink, power, log_centre) * area


def draw(scene_NCFF: Tensor, grid: FineGrid, prepared: Prepared, first: int = 0) -> None:
    """As `sersics.draw`, on an adaptive grid in float32."""
    galaxies, n_fine = prepared.galaxies, len(grid.axis_arcsec)
    mine = (galaxies.rows >= first) & (galaxies.rows < first + len(scene_NCFF))
    some = torch.nonzero(mine & (galaxies.reach_arcsec > 0))[:, 0]
    if len(some) == 0:
        return
    reach, centre_i, centre_j = (
        each[some] for each in (galaxies.reach_arcsec, prepared.centre_i, prepared.centre_j)
    )
    left, low, width = torch.zeros_like(some), torch.zeros_like(some), torch.zeros_like(some)
    for lower, upper in pairwise((*sersics.REACHES_ARCSEC, math.inf)):
        alike = (reach > lower) & (reach <= upper)
        if math.isinf(upper):
            width[alike] = n_fine
            continue
        half = sersics.half_width(upper, grid.scale_arcsec)
        width[alike] = 2 * half + 1
        left[alike], low[alike] = centre_i[alike] - half, centre_j[alike] - half
    x, y = galaxies.x[some], galaxies.y[some]
    _draw_all(
        scene_NCFF.numpy(),
        (galaxies.rows[some] - first).numpy(),
        torch.stack([width, left, low, centre_i - left, centre_j - low], dim=1).numpy(),
        torch.stack(
            [sersics.position(grid, x, left), sersics.position(grid, y, low)], dim=1
        ).numpy(),
        f32(grid.scale_arcsec),
        profiles.described(sersics.each(prepared.form, some), sersics.each(prepared.terms, some)),
        prepared.left_over_RKK[some].numpy(),
        prepared.spread_RLL[some].numpy(),
        galaxies.flux_RC[some].numpy(),
    )


@kernel
def _draw_all(
    scene_NCFF: Array,
    rows: Index,
    square_R5: Index,
    corner_R2: Array,
    h: f32,
    galaxy_R6: Array,
    left_over_RKK: Array,
    spread_RLL: Array,
    flux_RC: Array,
) -> None:
    """Add R galaxies; see `_draw` for the arguments."""
    for k in range(len(rows)):
        _draw(
            scene_NCFF[rows[k]], square_R5[k], corner_R2[k], h, galaxy_R6[k],
            left_over_RKK[k], spread_RLL[k], flux_RC[k],
        )  # fmt: skip


@kernel
def _draw(
    scene_CFF: Array,
    square_5: Index,
    corner_2: Array,
    h: f32,
    galaxy_6: Array,
    left_over_KK: Array,
    spread_LL: Array,
    flux_C: Array,
) -> None:
    """Add one galaxy.

    Parameters
    ----------
    square_5 : width, left and lower edge of what is drawn, and where in it the centre is, cells
    corner_2 : place of its first cell relative to the centre, arcsec
    """
    width, left, low, centre_i, centre_j = square_5
    whole = _whole_vectors(width)
    xs = np.empty(whole, np.float32)
    buffers = np.empty((2, width, whole), np.float32)
    for i in range(whole):
        xs[i] = corner_2[0] + f32(i) * h
    patch = buffers[0]
    _profile(xs, corner_2[1], h, h * h, galaxy_6, patch)
    for core in range(CORE_CELLS):
        j = centre_j - CORE_CELLS // 2 + core
        for k in range(CORE_CELLS):
            i = centre_i - CORE_CELLS // 2 + k
            if 0 <= j < width and 0 <= i < width:
                patch[j, i] *= left_over_KK[core, k]
    smooth(patch[:, :width], buffers[1, :, :width])
    for core in range(SPREAD_CELLS):
        j = centre_j - SPREAD_CELLS // 2 + core
        for k in range(SPREAD_CELLS):
            i = centre_i - SPREAD_CELLS // 2 + k
            if 0 <= j < width and 0 <= i < width:
                patch[j, i] += spread_LL[core, k]
    for band in range(len(flux_C)):
        add_square(scene_CFF[band], low, left, flux_C[band], patch, width)
