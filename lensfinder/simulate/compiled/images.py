"""Images of the source's centre, found as `lensing.image_separation` finds them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import lensing
from lensfinder.simulate.compiled import rays
from lensfinder.simulate.compiled.jit import kernel
from lensfinder.simulate.compiled.maths import Array, exp2, f32, log2, u64
from lensfinder.simulate.compiled.rays import shoot
from lensfinder.simulate.grid import Columns

_ONE, _TWO = f32(1), f32(2)
_TINY = f32(np.finfo(np.float32).tiny)
_N_GRID, _N_NEWTON, _MOST = lensing.N_GRID, lensing.N_NEWTON, lensing.MOST_IMAGES
_AXIS = np.linspace(-lensing.HALF_WIDTH, lensing.HALF_WIDTH, _N_GRID).astype(np.float32)


def image_separation_arcsec(c: Columns) -> Tensor:
    """As `scene.image_separation_arcsec`, in float32."""
    separation = np.empty(len(c["dx"]), np.float32)
    _all_separations(rays.lenses(c), _AXIS, separation)
    return torch.from_numpy(separation)


@kernel
def _all_separations(lens_R8: Array, axis: Array, out: Array) -> None:
    """Write the largest distance between two images behind each lens, arcsec, or NaN."""
    grid = np.empty((5, len(axis) ** 2), np.float32)
    some = np.empty((4, _MOST), np.float32)
    for k in range(len(lens_R8)):
        theta_e = lens_R8[k, 0]
        count = _candidates(lens_R8[k], axis, grid, some[0], some[1])
        x, y, miss_x, miss_y = some[0, :count], some[1, :count], some[2, :count], some[3, :count]
        for _ in range(_N_NEWTON):
            shoot(x, y, miss_x, miss_y, lens_R8[k])
            _step(x, y, miss_x, miss_y, lens_R8[k])
        shoot(x, y, miss_x, miss_y, lens_R8[k])
        largest = f32(-1)
        near = (f32(1e-4) * theta_e) ** 2
        for i in range(count):
            for j in range(i):
                missed = max(miss_x[i] ** 2 + miss_y[i] ** 2, miss_x[j] ** 2 + miss_y[j] ** 2)
                if missed < near:
                    apart = np.sqrt((x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2)
                    largest = max(largest, apart)
        out[k] = largest if largest > f32(0.05) * theta_e else f32(np.nan)


@kernel
def _candidates(lens_8: Array, axis: Array, grid: Array, x: Array, y: Array) -> int:
    """Write the places of the lowest local minima of the distance from the source; count them."""
    n = len(axis)
    xs, ys, miss_x, miss_y, miss2 = grid[0], grid[1], grid[2], grid[3], grid[4]
    for j in range(n):
        for i in range(n):
            xs[j * n + i], ys[j * n + i] = lens_8[0] * axis[i], lens_8[0] * axis[j]
    shoot(xs, ys, miss_x, miss_y, lens_8)
    for s in range(u64(n * n)):
        miss2[s] = miss_x[s] * miss_x[s] + miss_y[s] * miss_y[s]
    best = np.empty(len(x), np.float32)
    count = 0
    for j in range(n):
        for i in range(n):
            value = miss2[j * n + i]
            # Most cells are above the one before or after them, and looked at no further.
            before, after = miss2[j * n + max(i - 1, 0)], miss2[j * n + min(i + 1, n - 1)]
            if min(before, after) < value:
                continue
            is_least = True
            for v in range(max(j - 1, 0), min(j + 2, n)):
                for u in range(max(i - 1, 0), min(i + 2, n)):
                    is_least &= value <= miss2[v * n + u]
            if is_least and (count < len(best) or value < best[count - 1]):
                at = min(count, len(best) - 1)
                while at > 0 and best[at - 1] > value:
                    best[at], x[at], y[at] = best[at - 1], x[at - 1], y[at - 1]
                    at -= 1
                best[at], x[at], y[at] = value, xs[j * n + i], ys[j * n + i]
                count = min(count + 1, len(best))
    return count


@kernel
def _step(x: Array, y: Array, miss_x: Array, miss_y: Array, lens_8: Array) -> None:
    """Take a damped Newton step towards the images; the Hessian is that of `epl_hessian`."""
    theta_e, q, phi, shear, shear_phi, slope, source_x, source_y = lens_8
    g1, g2 = shear * np.cos(_TWO * shear_phi), shear * np.sin(_TWO * shear_phi)
    cos, sin, t = np.cos(phi), np.sin(phi), slope - _ONE
    most = f32(0.2) * theta_e
    for i in range(len(x)):
        alpha_x = (_ONE - g1) * x[i] - g2 * y[i] - source_x - miss_x[i]
        alpha_y = (_ONE + g1) * y[i] - g2 * x[i] - source_y - miss_y[i]
        r2 = max(x[i] * x[i] + y[i] * y[i], _TINY)
        major, minor = cos * x[i] + sin * y[i], cos * y[i] - sin * x[i]
        rho2 = max(q * major * major + minor * minor / q, _TINY)
        two_kappa = (_TWO - t) * exp2(t * (log2(theta_e) - f32(0.5) * log2(rho2)))
        h_rr = (_ONE - t) * (alpha_x * x[i] + alpha_y * y[i]) / r2
        h_rt = (_ONE - t) * (alpha_y * x[i] - alpha_x * y[i]) / r2
        h_tt = two_kappa - h_rr
        xx, yy, xy = x[i] * x[i] / r2, y[i] * y[i] / r2, x[i] * y[i] / r2
        a_xx = _ONE - g1 - (h_rr * xx - _TWO * h_rt * xy + h_tt * yy)
        a_yy = _ONE + g1 - (h_rr * yy + _TWO * h_rt * xy + h_tt * xx)
        a_xy = -g2 - ((h_rr - h_tt) * xy + h_rt * (xx - yy))
        det = a_xx * a_yy - a_xy * a_xy
        det = f32(1e-6) if abs(det) < f32(1e-6) else det
        step_x = (a_yy * miss_x[i] - a_xy * miss_y[i]) / det
        step_y = (a_xx * miss_y[i] - a_xy * miss_x[i]) / det
        x[i] -= min(max(step_x, -most), most)
        y[i] -= min(max(step_y, -most), most)
