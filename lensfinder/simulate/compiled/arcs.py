"""Lensed sources, drawn as `simulate.arcs` draws them: the same cells, samples and windows.

A lens is drawn by itself, so that its parameters are scalars and its samples stay in the cache.
Perturbed lenses and images of real galaxies are left to `simulate.arcs`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import arcs, gridding
from lensfinder.simulate.compiled import profiles, rays
from lensfinder.simulate.compiled.jit import kernel
from lensfinder.simulate.compiled.maths import LOG2_E, Array, Index, exp2, f32, u64
from lensfinder.simulate.compiled.profiles import add, add_square, brightness, outside, smooth
from lensfinder.simulate.compiled.rays import shoot
from lensfinder.simulate.grid import Columns, FineGrid
from lensfinder.simulate.sources import SourceImages

# Of the samples that are worked on at a time: they stay in a core's cache.
_SAMPLES = 48**2
_TAPS, _REACH = gridding.TAPS, gridding.REACH
_FINEST = max(arcs.REFINEMENTS)
_WINDOW_END, _CLUMP_END2 = f32(arcs.WINDOW_END), f32(arcs.CLUMP_END**2)


def lensed_source(
    grid: FineGrid, c: Columns, x: Tensor, y: Tensor, images: SourceImages | None = None
) -> Tensor:
    """As `arcs.lensed_source`, on an adaptive grid in float32."""
    n_fine = len(grid.axis_arcsec)
    image_RPFF = torch.zeros(len(x), arcs.parts_of(c), n_fine, n_fine)
    left_alone = (c.get("grf_kappa_rms", 0.0) > 0) | (c.get("source_stamp", -1.0) >= 0)
    others = torch.nonzero(left_alone)[:, 0]
    if len(others):
        drawn = arcs.lensed_source(grid, c.take(others), x[others], y[others], images)
        image_RPFF[others, : drawn.shape[1]] = drawn
    rows = torch.nonzero(~left_alone)[:, 0]
    if len(rows):
        mine = c.take(rows)
        source = arcs.Source.of(mine, grid)
        width, left, low = arcs.windows(grid, mine, x[rows], y[rows])
        _draw_all(
            image_RPFF.numpy(),
            rows.numpy(),
            grid.axis_arcsec.numpy(),
            f32(grid.scale_arcsec),
            torch.stack([width, left, low], dim=1).numpy(),
            torch.stack([x[rows], y[rows]], dim=1).numpy(),
            rays.lenses(mine),
            profiles.described(source.form, source.terms),
            source.width.numpy(),
            source.refinement.numpy(),
            torch.stack([source.clump_x, source.clump_y, source.sigma, source.fraction], 2).numpy(),
            source.clump_refinement.numpy(),
            _OFFSETS,
            _WEIGHTS,
        )
    return image_RPFF


def _tables() -> tuple[Array, Array]:
    """Where the samples of a cell lie, and their shares, by samples along its side."""
    offsets = np.zeros((_FINEST + 1, _FINEST), np.float32)
    weights = np.zeros((_FINEST + 1, _TAPS, _FINEST), np.float32)
    for r in arcs.REFINEMENTS:
        offsets[r, :r] = gridding.sub_offsets(r, torch.float32).numpy()
        weights[r, :, :r] = gridding.cell_weights(r, torch.float32).numpy()
    return offsets, weights


_OFFSETS, _WEIGHTS = _tables()


@kernel
def _draw_all(
    image_RPFF: Array,
    rows: Index,
    axis: Array,
    h: f32,
    window_R3: Index,
    centre_R2: Array,
    lens_R8: Array,
    source_R6: Array,
    fade_R: Array,
    refinement_R: Index,
    clumps_RK4: Array,
    clump_refinement_RK: Index,
    offsets: Array,
    weights: Array,
) -> None:
    """Draw source and clumps behind each of R lenses; see `_draw` for the arguments."""
    for k in range(len(rows)):
        _draw(
            image_RPFF[rows[k]], axis, h, window_R3[k], centre_R2[k], lens_R8[k], source_R6[k],
            fade_R[k], refinement_R[k], clumps_RK4[k], clump_refinement_RK[k], offsets, weights,
        )  # fmt: skip


@kernel
def _draw(
    image_PFF: Array,
    axis: Array,
    h: f32,
    window_3: Index,
    centre_2: Array,
    lens_8: Array,
    source_6: Array,
    fade: f32,
    refinement: int,
    clumps_K4: Array,
    clump_refinement_K: Index,
    offsets: Array,
    weights: Array,
) -> None:
    """Draw one lens.

    Parameters
    ----------
    image_PFF : source and clumps, zero
    axis, h : of the grid, arcsec
    window_3 : width, left and lower edge of the square that is looked at, cells
    centre_2 : of the lens, arcsec
    lens_8, source_6 : of `rays.lenses` and `profiles.described`
    fade : width of the window about the source's centre, arcsec
    refinement, clump_refinement_K : samples along the side of a cell
    clumps_K4 : x, y, standard deviation and share of the flux
    offsets, weights : of `_tables`
    """
    width, left, low = window_3
    buffers = np.empty((8, width * width), np.float32)
    dx, dy, bx, by, slack, short = (
        buffers[0], buffers[1], buffers[2], buffers[3], buffers[4], buffers[5],
    )  # fmt: skip
    for j in range(width):
        for i in range(width):
            dx[j * width + i] = axis[left + i] - centre_2[0]
            dy[j * width + i] = axis[low + j] - centre_2[1]
    shoot(dx, dy, bx, by, lens_8)
    diagonal = h / np.sqrt(f32(2))
    unbent, bent = f32(1) + lens_8[3], lens_8[0] / np.sqrt(lens_8[1])
    _slack(dx, dy, diagonal * unbent, diagonal * bent, slack)
    about_lens = f32(arcs.WIDTH_ABOUT_LENS) * h
    windows_2 = f32(1) / (fade * fade), f32(1) / (about_lens * about_lens)
    coarse = buffers[6].reshape((width, width))
    _profile(dx, dy, bx, by, h * h, source_6, windows_2, False, buffers[6])
    smooth(coarse, buffers[7].reshape((width, width)))
    add_square(image_PFF[0], low, left, f32(1), coarse, width)
    cells_2M = np.empty((2, width * width), np.int64)
    _shortfall(bx, by, slack, f32(0), f32(0), fade * _WINDOW_END, short)
    _short_of_lens(dx, dy, slack, about_lens * _WINDOW_END, short)
    count = _near(cells_2M, window_3, short)
    r = refinement
    _refine(
        image_PFF[0], cells_2M[:, :count], axis, h, centre_2, lens_8, source_6, windows_2,
        offsets[r, :r], weights[r, :, :r],
    )  # fmt: skip
    for k in range(len(clumps_K4)):
        piece_x, piece_y, sigma, fraction = clumps_K4[k]
        if fraction > 0:
            reach, r = f32(arcs.CLUMP_END) * sigma, clump_refinement_K[k]
            _shortfall(bx, by, slack, piece_x, piece_y, reach, short)
            count = _near(cells_2M, window_3, short)
            _refine(
                image_PFF[1], cells_2M[:, :count], axis, h, centre_2, lens_8, clumps_K4[k],
                windows_2, offsets[r, :r], weights[r, :, :r],
            )  # fmt: skip


@kernel
def _profile(
    x: Array,
    y: Array,
    u: Array,
    v: Array,
    area: f32,
    source_6: Array,
    windows_2: tuple[f32, f32],
    held: bool,
    out: Array,
) -> None:
    """Flux in an area of what the windows hold, or of what they leave to the coarse grid.

    Parameters
    ----------
    x, y : from the lens; u, v : from the source's centre; arcsec
    windows_2 : 1 / width^2 of the windows about the source's centre and about the lens
    """
    xx, xy, yy, shrink, power, log_centre = source_6
    per_fade2, per_lens2 = windows_2
    for s in range(u64(len(out))):
        radius2 = (xx * u[s] + xy * v[s]) * u[s] + yy * (v[s] * v[s])
        light = brightness(radius2, shrink, power, log_centre) * area
        left_over = outside(u[s] * u[s] + v[s] * v[s], per_fade2)
        left_over *= outside(x[s] * x[s] + y[s] * y[s], per_lens2)
        out[s] = light * (f32(1) - left_over if held else left_over)


@kernel
def _gaussian(u: Array, v: Array, area: f32, clump_4: Array, out: Array) -> None:
    """Flux in an area of a clump, which ends somewhere."""
    piece_x, piece_y, sigma, fraction = clump_4
    peak = area * fraction / (f32(2 * math.pi) * sigma * sigma)
    fall, end = f32(-0.5) * LOG2_E / (sigma * sigma), _CLUMP_END2 * sigma * sigma
    for s in range(u64(len(out))):
        du, dv = u[s] - piece_x, v[s] - piece_y
        distance2 = du * du + dv * dv
        light = peak * exp2(fall * distance2)
        out[s] = light if distance2 < end else f32(0)


@kernel
def _slack(x: Array, y: Array, unbent: f32, bent: f32, out: Array) -> None:
    """How far from a cell's centre rays of that cell may end; see `rays.Lenses.stretch`."""
    for s in range(u64(len(out))):
        out[s] = unbent + bent / np.sqrt(max(x[s] * x[s] + y[s] * y[s], f32(1e-12)))


@kernel
def _shortfall(
    u: Array, v: Array, slack: Array, piece_x: f32, piece_y: f32, reach: f32, out: Array
) -> None:
    """By how much the squared distance from a piece is more than what counts as near."""
    for s in range(u64(len(out))):
        du, dv, far = u[s] - piece_x, v[s] - piece_y, slack[s] + reach
        out[s] = du * du + dv * dv - far * far


@kernel
def _short_of_lens(x: Array, y: Array, slack: Array, reach: f32, out: Array) -> None:
    """The same of the distance from the lens, if it is less."""
    for s in range(u64(len(out))):
        far = slack[s] + reach
        out[s] = min(out[s], x[s] * x[s] + y[s] * y[s] - far * far)


@kernel
def _near(cells_2M: Index, window_3: Index, short: Array) -> int:
    """Write line and column of the cells of a square that are near; count them."""
    width, left, low = window_3
    count = 0
    for j in range(width):
        least = f32(0)
        for s in range(u64(j * width), u64((j + 1) * width)):
            least = min(least, short[s])
        if least < 0:
            for i in range(width):
                if short[j * width + i] < 0:
                    cells_2M[0, count], cells_2M[1, count] = low + j, left + i
                    count += 1
    return count


@kernel
def _at(axis: Array, index: Index, centre: f32, out: Array) -> None:
    """Places of some cells relative to the lens."""
    for m in range(u64(len(index))):
        out[m] = axis[u64(index[m])] - centre


@kernel
def _repeat(line: Array, step: f32, out: Array) -> None:
    """Write a line, moved by a step."""
    for m in range(u64(len(line))):
        out[m] = line[m] + step


@kernel
def _spread(
    plane: Array, line: Index, column: Index, fine: Array, weight_Tr: Array, scratch: Array
) -> None:
    """Spread the samples (r * r, M) of cells over the plane; what falls off the edge is lost.

    Parameters
    ----------
    scratch : of r + 1 times M
    """
    r, count = weight_Tr.shape[1], len(line)
    total = scratch[r * count : (r + 1) * count]
    for tap in range(_TAPS):
        for a in range(r):
            row = scratch[a * count : (a + 1) * count]
            row[:] = f32(0)
            for b in range(r):
                add(row, weight_Tr[tap, b], fine[(b * r + a) * count :][:count])
        for other in range(_TAPS):
            total[:] = f32(0)
            for a in range(r):
                add(total, weight_Tr[other, a], scratch[a * count : (a + 1) * count])
            _scatter(plane, line, column, tap - _REACH, other - _REACH, total)


@kernel
def _scatter(plane: Array, line: Index, column: Index, up: int, right: int, value: Array) -> None:
    """Add numbers to points near some cells."""
    side = len(plane)
    for m in range(u64(len(value))):
        j, i = line[m] + up, column[m] + right
        if 0 <= j < side and 0 <= i < side:
            plane[u64(j), u64(i)] += value[m]


@kernel
def _refine(
    plane: Array,
    cells_2M: Index,
    axis: Array,
    h: f32,
    centre_2: Array,
    lens_8: Array,
    piece: Array,
    windows_2: tuple[f32, f32],
    offset_r: Array,
    weight_Tr: Array,
) -> None:
    """Sample cells finely and spread what belongs there.

    Parameters
    ----------
    piece : a source of `profiles.described`, of which the windows hold a part, or a clump
    """
    r = len(offset_r)
    at_a_time = _SAMPLES // (r * r)
    buffers = np.empty((5, _SAMPLES), np.float32)
    scratch = np.empty((r + 1) * at_a_time, np.float32)
    place = np.empty((2, at_a_time), np.float32)
    area = (h / f32(r)) * (h / f32(r))
    for first in range(0, cells_2M.shape[1], at_a_time):
        end = first + at_a_time
        line, column = cells_2M[0, first:end], cells_2M[1, first:end]
        samples = r * r * len(line)
        x, y, u, v = (
            buffers[0, :samples], buffers[1, :samples], buffers[2, :samples], buffers[3, :samples],
        )  # fmt: skip
        fine = buffers[4, :samples]
        count = len(line)
        cell_x, cell_y = place[0, :count], place[1, :count]
        _at(axis, column, centre_2[0], cell_x)
        _at(axis, line, centre_2[1], cell_y)
        for b in range(r):
            for a in range(r):
                k = (b * r + a) * count
                _repeat(cell_x, offset_r[a] * h, x[k : k + count])
                _repeat(cell_y, offset_r[b] * h, y[k : k + count])
        shoot(x, y, u, v, lens_8)
        if len(piece) == 4:
            _gaussian(u, v, area, piece, fine)
        else:
            _profile(x, y, u, v, area, piece, windows_2, True, fine)
        _spread(plane, line, column, fine, weight_Tr, scratch)
