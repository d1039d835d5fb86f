"""What is left of a galaxy when it is turned by half a turn and taken off itself.

A smooth galaxy looks the same after half a turn about its centre, and so, nearly, do its arms and
rings. The images of a lensed source don't: they lie at different distances, and one is brighter.
The difference shows arcs that the light of their galaxy hides, and needs no model of that light.
Conselice, Bershady & Jangren 2000 (ApJ 529, 886) measure by it how lopsided galaxies are, and
choose the centre as here: where it leaves least.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# The centre is near the brightest place that is so near the middle, pixels.
_SEARCH_PIXELS = 5
# What decides where it is: half the side of what is looked at, and the Gaussian weight in it.
_PATCH_PIXELS, _WEIGHT_SIGMA_PIXELS = 9, 1.5
_STEPS, _LONGEST_STEP_PIXELS = 4, 0.5
# Lobes of the Lanczos kernel on each side.
_LOBES = 3
# Share of bad pixels in a turned one from which on that is bad, too.
_SPOILT = 0.05


def half_turned(level_NCHW: Tensor, bad_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Turn stamps by half a turn about the galaxies in their middle.

    Parameters
    ----------
    level_NCHW : torch.Tensor
        Finite pixels; stretched ones, since what is ten times as bright should not count a hundred
        times as much in finding the centre.
    bad_NCHW : torch.Tensor
        bool.

    Returns
    -------
    turned_NCHW : torch.Tensor
        Interpolated; all bands of a stamp turn about one centre.
    known_NCHW : torch.Tensor
        bool: where both a pixel and what takes its place are good and lie on the stamp.
    """
    y_N, x_N = _centre(level_NCHW.mean(dim=1))
    rows_NHH, inside_NH = _half_turn(y_N, level_NCHW.shape[2])
    columns_NWW, inside_NW = _half_turn(x_N, level_NCHW.shape[3])
    rows, columns = rows_NHH[:, None], columns_NWW[:, None].transpose(2, 3)
    known_NCHW = (inside_NH[:, :, None] & inside_NW[:, None, :])[:, None] & ~bad_NCHW
    if bad_NCHW.any():
        share_NCHW = rows.abs() @ bad_NCHW.to(rows.dtype) @ columns.abs()
        known_NCHW &= share_NCHW < _SPOILT
    return rows @ level_NCHW @ columns, known_NCHW


def _half_turn(centre_N: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Weights (N, side, side) that turn a line about its centre, and where it is full (N, side)."""
    at_S = torch.arange(side, device=centre_N.device)
    whole_N = torch.floor(2 * centre_N)
    # What a pixel is made of lies as far from the next lower whole pixel, whichever pixel it is.
    taps_T = torch.arange(1 - _LOBES, _LOBES + 1, device=centre_N.device)
    away_NT = (2 * centre_N - whole_N)[:, None] - taps_T
    taps_NT = torch.sinc(away_NT) * torch.sinc(away_NT / _LOBES)
    taps_NT = taps_NT / taps_NT.sum(dim=1, keepdim=True)
    lowest_NS = whole_N.long()[:, None] - at_S + (1 - _LOBES)
    tap_NSS = at_S - lowest_NS[:, :, None]
    inside_NSS = (tap_NSS >= 0) & (tap_NSS < 2 * _LOBES)
    weights_NSS = taps_NT.gather(1, tap_NSS.clamp(0, 2 * _LOBES - 1).flatten(1)).view_as(tap_NSS)
    full_NS = (lowest_NS >= 0) & (lowest_NS + 2 * _LOBES <= side)
    return weights_NSS * inside_NSS, full_NS


def _centre(level_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column about which half a turn changes least, near the middle, (N,), pixels."""
    count, height, width = level_NHW.shape
    half = min(_PATCH_PIXELS, (min(height, width) - 1) // 2)
    reach = min(_SEARCH_PIXELS, (min(height, width) - 1) // 2 - half)
    top, left = height // 2 - reach, width // 2 - reach
    smooth_NHW = functional.avg_pool2d(level_NHW[:, None], 3, stride=1, padding=1)[:, 0]
    box = smooth_NHW[:, top : top + 2 * reach + 1, left : left + 2 * reach + 1]
    brightest_N = box.flatten(1).argmax(dim=1)
    first_y = brightest_N.div(2 * reach + 1, rounding_mode="floor") + top - half
    first_x = brightest_N.remainder(2 * reach + 1) + left - half
    step_P = torch.arange(2 * half + 1, device=level_NHW.device)
    row, column = first_y[:, None] + step_P, first_x[:, None] + step_P
    stamp = torch.arange(count, device=level_NHW.device)
    patch_NPP = level_NHW[stamp[:, None, None], row[:, :, None], column[:, None, :]]
    y = torch.full_like(patch_NPP[:, 0, 0], half)
    x = y.clone()
    for _ in range(_STEPS):
        step_y, step_x = _step(patch_NPP, y, x)
        y, x = ((c + s).clamp(half - 1, half + 1) for c, s in ((y, step_y), (x, step_x)))
    return y + first_y, x + first_x


def _step(patch_NPP: Tensor, y_N: Tensor, x_N: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Newton step of the centre towards least squares of what half a turn changes, pixels."""
    side = patch_NPP.shape[1]
    (rows_NPP, _), (columns_NPP, _) = _half_turn(y_N, side), _half_turn(x_N, side)
    turned_NPP = rows_NPP @ patch_NPP @ columns_NPP.transpose(1, 2)
    at_P = torch.arange(side, dtype=y_N.dtype, device=y_N.device)
    fall = -0.5 / _WEIGHT_SIGMA_PIXELS**2
    weight_y, weight_x = (torch.exp(fall * (at_P - c[:, None]).square()) for c in (y_N, x_N))
    weight_NPP = weight_y[:, :, None] * weight_x[:, None, :]
    # What is turned moves by twice the step of its centre.
    slope_y, slope_x = (2 * slope for slope in torch.gradient(turned_NPP, dim=(1, 2)))

    def summed(first: Tensor, second: Tensor) -> Tensor:
        return (weight_NPP * first * second).sum(dim=(1, 2))

    change_NPP = patch_NPP - turned_NPP
    yy, yx, xx = summed(slope_y, slope_y), summed(slope_y, slope_x), summed(slope_x, slope_x)
    along_y, along_x = summed(slope_y, change_NPP), summed(slope_x, change_NPP)
    # A stamp that is flat has no centre, and stays where it is.
    determinant = (yy * xx - yx.square()).clamp(min=1e-6)
    step_y = (yx * along_x - xx * along_y) / determinant
    step_x = (yx * along_y - yy * along_x) / determinant
    longest = _LONGEST_STEP_PIXELS
    return step_y.clamp(-longest, longest), step_x.clamp(-longest, longest)
