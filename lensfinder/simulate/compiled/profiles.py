"""Sersic profiles, as `light.sersic_of` has them, and the spreading of `gridding`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import light
from lensfinder.simulate.compiled.jit import element, kernel
from lensfinder.simulate.compiled.maths import LOG2_E, Array, exp2, f32, log2, u64

# As `light` levels profiles out; to base 2.
_FAINTEST = f32(50 * math.log2(math.e))
_TINY = f32(np.finfo(np.float32).tiny)
_SIDE, _MIDDLE = f32(1 / 6), f32(4 / 6)


def described(form: light.Form, terms: light.Terms) -> Array:
    """Ellipses and profiles of R galaxies, (R, 6), for `brightness`; logarithms to base 2."""
    shrink, power, log_centre = terms
    columns: tuple[Tensor, ...] = (
        *form,
        (shrink + math.log(math.log2(math.e))) * math.log2(math.e),
        power,
        log_centre * math.log2(math.e),
    )
    table: Array = torch.stack(columns, dim=1).numpy()
    return table


@element
def brightness(radius2: f32, shrink: f32, power: f32, log_centre: f32) -> f32:
    """Surface brightness at a squared elliptical radius, arcsec**-2; see `described`."""
    scaled = exp2(shrink + power * log2(max(radius2, _TINY)))
    return exp2(log_centre - min(scaled, _FAINTEST))


@element
def outside(distance2: f32, per_width2: f32) -> f32:
    """One minus the window exp(-(d / width)^4)."""
    ratio = distance2 * per_width2
    return f32(1) - exp2(-(ratio * ratio) * LOG2_E)


@kernel
def smooth(image_YX: Array, scratch_YX: Array) -> None:
    """As `gridding.smooth`, in place; `scratch_YX` is of the same shape."""
    height, width = image_YX.shape
    for j in range(u64(height)):
        for i in range(u64(1), u64(width - 1)):
            beside = image_YX[j, i - u64(1)] + image_YX[j, i + u64(1)]
            scratch_YX[j, i] = _MIDDLE * image_YX[j, i] + _SIDE * beside
    for j in range(height):
        for i, inner in ((0, 1), (width - 1, width - 2)):
            beside = image_YX[j, i] + image_YX[j, inner]
            scratch_YX[j, i] = _MIDDLE * image_YX[j, i] + _SIDE * beside
    for j in range(u64(height)):
        below, above = u64(max(int(j) - 1, 0)), u64(min(int(j) + 1, height - 1))
        for i in range(u64(width)):
            beside = scratch_YX[below, i] + scratch_YX[above, i]
            image_YX[j, i] = _MIDDLE * scratch_YX[j, i] + _SIDE * beside


@kernel
def add(row: Array, factor: f32, line: Array) -> None:
    """Add a multiple of a line to a row."""
    for i in range(u64(len(line))):
        row[i] += factor * line[i]


@kernel
def add_square(plane: Array, low: int, left: int, factor: f32, patch_YX: Array, width: int) -> None:
    """Add a multiple of a square to a plane; what lies beyond it is lost.

    Parameters
    ----------
    low, left : cell of the plane that the first one of the square falls on
    width : of the square; its lines may be longer
    """
    n_fine = len(plane)
    if left >= n_fine or left <= -width:
        return
    first, end = u64(max(0, -left)), u64(min(width, n_fine - left))
    for j in range(max(0, -low), min(width, n_fine - low)):
        to, of = u64(low + j), u64(j)
        for i in range(first, end):
            plane[to, i + u64(left)] += factor * patch_YX[of, i]
