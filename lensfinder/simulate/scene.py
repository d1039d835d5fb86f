"""Noiseless scenes on the fine grid: hosts, surroundings and features of N mocks at once.

A feature is what a mock is about: the lensed source of a positive; companions, ring or arms of a
negative. It is kept apart from the rest, at unit flux, so that its brightness can be set by the
signal-to-noise ratio that it is to have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lensfinder.simulate import lensing, light
from lensfinder.simulate.kinds import MAX_CLUMPS, MAX_COMPANIONS

# A cusp is averaged over _CORE_SAMPLES^2 points in each of the _CORE_WIDTH^2 fine pixels about it.
_CORE_WIDTH = 9
_CORE_SAMPLES = 6


@dataclass(frozen=True)
class FineGrid:
    """The fine pixels of a stamp and of the margin about it.

    Attributes
    ----------
    axis_arcsec : (F,) position of fine pixel centres relative to the centre of the central pixel
    scale_arcsec : width of a fine pixel
    """

    axis_arcsec: Tensor
    scale_arcsec: float

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

    def take(self, rows: Tensor) -> Columns:
        """The same columns for some of the mocks."""
        return Columns({name: value[rows] for name, value in self.values.items()})

    def phi(self, name: str) -> Tensor:
        """A position angle (deg, east of north) as an angle in the image (rad, from +x)."""
        return torch.deg2rad(self.values[name] + 90)

    def cube(self, *names: str) -> list[Tensor]:
        """Columns as (N, 1, 1), to broadcast against a grid."""
        return [self.values[name][:, None, None] for name in names]


def add_sersic(
    scene_NCFF: Tensor,
    grid: FineGrid,
    rows: Tensor,
    x: Tensor,
    y: Tensor,
    shape: tuple[Tensor, Tensor, Tensor, Tensor],
    flux_RC: Tensor,
    reach_arcsec: float | None = None,
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
    steps = torch.arange(width)
    dx = grid.axis_arcsec[0] + (left[:, None] + steps) * scale - x[:, None]
    dy = grid.axis_arcsec[0] + (low[:, None] + steps) * scale - y[:, None]
    profile = light.sersic(dx[:, None, :], dy[:, :, None], *(p[:, None, None] for p in shape))
    _average_core(profile, dx, dy, scale, shape)
    flux = flux_RC * scale**2
    for k, (row, i, j) in enumerate(zip(rows.tolist(), left.tolist(), low.tolist(), strict=True)):
        x0, x1, y0, y1 = max(i, 0), min(i + width, n_fine), max(j, 0), min(j + width, n_fine)
        if x0 < x1 and y0 < y1:
            patch = profile[k, y0 - j : y1 - j, x0 - i : x1 - i]
            scene_NCFF[row, :, y0:y1, x0:x1] += flux[k, :, None, None] * patch


def _average_core(
    profile_RWW: Tensor,
    dx_RW: Tensor,
    dy_RW: Tensor,
    scale_arcsec: float,
    shape: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Replace the fine pixels about each centre by averages over them, in place.

    One sample a fine pixel misses the cusp of a high Sersic index by more than all other errors.
    """
    width = dx_RW.shape[1]
    reach = torch.arange(_CORE_WIDTH) - _CORE_WIDTH // 2
    # Off the grid, the nearest pixels on it are averaged instead, which does no harm.
    column = (dx_RW.abs().argmin(dim=1)[:, None] + reach).clamp(0, width - 1)
    line = (dy_RW.abs().argmin(dim=1)[:, None] + reach).clamp(0, width - 1)
    sub = (torch.arange(_CORE_SAMPLES, dtype=dx_RW.dtype) + 0.5) / _CORE_SAMPLES - 0.5
    x_sub = dx_RW.gather(1, column)[:, :, None] + sub * scale_arcsec
    y_sub = dy_RW.gather(1, line)[:, :, None] + sub * scale_arcsec
    fine = light.sersic(
        x_sub.flatten(1)[:, None, :],
        y_sub.flatten(1)[:, :, None],
        *(p[:, None, None] for p in shape),
    )
    block = (_CORE_WIDTH, _CORE_SAMPLES)
    averaged = fine.reshape(-1, *block, *block).mean(dim=(2, 4))
    row = torch.arange(len(profile_RWW))[:, None, None]
    profile_RWW[row, line[:, :, None], column[:, None, :]] = averaged


def add_points(
    scene_NCFF: Tensor, grid: FineGrid, rows: Tensor, x: Tensor, y: Tensor, flux_RC: Tensor
) -> None:
    """Add point sources, in place, shared between the four nearest fine pixels.

    Flux and centroid are exact; the image is wider by less than 1 % of an FWHM of two pixels.
    Points outside the grid are left out. Parameters as in `add_sersic`.
    """
    n_fine = len(grid.axis_arcsec)
    column = (x - grid.axis_arcsec[0]) / grid.scale_arcsec
    line = (y - grid.axis_arcsec[0]) / grid.scale_arcsec
    i, j = torch.floor(column).long(), torch.floor(line).long()
    fx, fy = column - i, line - j
    for step_y, weight_y in ((0, 1 - fy), (1, fy)):
        for step_x, weight_x in ((0, 1 - fx), (1, fx)):
            jj, ii = j + step_y, i + step_x
            inside = (jj >= 0) & (jj < n_fine) & (ii >= 0) & (ii < n_fine)
            share = flux_RC * (weight_x * weight_y)[:, None]
            for k in torch.nonzero(inside)[:, 0].tolist():
                scene_NCFF[rows[k], :, jj[k], ii[k]] += share[k]


def lensed_source(grid: FineGrid, c: Columns, x: Tensor, y: Tensor) -> Tensor:
    """Image of a source of unit flux behind each of R lenses, flux per fine pixel, (R, F, F).

    Lensing keeps surface brightness, so the image is the source's profile at the source-plane
    position of each fine pixel. The sum over an image is its magnification.
    """
    dx, dy = grid.offsets(x, y)
    theta_e, q, shear = c.cube("theta_e_arcsec", "q_lens", "shear")
    phi, shear_phi = c.phi("pa_lens_deg")[:, None, None], c.phi("pa_shear_deg")[:, None, None]
    bx, by = lensing.ray_shoot(dx, dy, theta_e, q, phi, shear, shear_phi)
    source_x, source_y, r_e, n, source_q = c.cube(
        "source_x_arcsec", "source_y_arcsec", "source_re_arcsec", "source_n", "source_q"
    )
    bx, by = bx - source_x, by - source_y
    fractions = [
        torch.nan_to_num(c[f"clump_{k}_fraction"], nan=0.0) for k in range(1, MAX_CLUMPS + 1)
    ]
    smooth = (1 - torch.stack(fractions).sum(dim=0))[:, None, None]
    image = smooth * light.sersic(bx, by, r_e, n, source_q, c.phi("source_pa_deg")[:, None, None])
    for k, fraction in enumerate(fractions, start=1):
        has = torch.nonzero(fraction > 0)[:, 0]
        names = (f"clump_{k}_x_arcsec", f"clump_{k}_y_arcsec", f"clump_{k}_sigma_arcsec")
        clump_x, clump_y, sigma = c.take(has).cube(*names)
        clump = light.gaussian_clump(bx[has] - clump_x, by[has] - clump_y, sigma)
        image[has] += fraction[has, None, None] * clump
    return image * grid.scale_arcsec**2


def companions(grid: FineGrid, c: Columns, x: Tensor, y: Tensor) -> Tensor:
    """Companions of R galaxies, of unit flux together, flux per fine pixel, (R, F, F)."""
    n_fine = len(grid.axis_arcsec)
    image = torch.zeros(len(x), 1, n_fine, n_fine, dtype=x.dtype)
    for k in range(1, MAX_COMPANIONS + 1):
        rows = torch.nonzero(torch.isfinite(c[f"companion_{k}_fraction"]))[:, 0]
        mine = c.take(rows)
        centre_x = x[rows] + mine[f"companion_{k}_x_arcsec"]
        centre_y = y[rows] + mine[f"companion_{k}_y_arcsec"]
        shape = (
            mine[f"companion_{k}_re_arcsec"],
            mine[f"companion_{k}_n"],
            mine[f"companion_{k}_q"],
            mine.phi(f"companion_{k}_pa_deg"),
        )
        flux = mine[f"companion_{k}_fraction"][:, None]
        add_sersic(image, grid, rows, centre_x, centre_y, shape, flux)
    return image[:, 0]


def rings(grid: FineGrid, c: Columns, x: Tensor, y: Tensor) -> Tensor:
    """Rings of R galaxies, each of unit flux on the grid, (R, F, F)."""
    dx, dy = grid.offsets(x, y)
    radius, width, q = c.cube("ring_radius_arcsec", "ring_width_arcsec", "ring_q")
    lopsidedness, contrast, count = c.cube(
        "ring_lopsidedness", "ring_knot_contrast", "ring_knot_count"
    )
    phi = c.phi("ring_pa_deg")[:, None, None]
    phase = torch.deg2rad(c["ring_phase_deg"])[:, None, None]
    image = light.ring(dx, dy, radius, width, q, phi, lopsidedness, contrast, count, phase)
    return image / image.sum(dim=(1, 2), keepdim=True)


def arms(grid: FineGrid, c: Columns, x: Tensor, y: Tensor) -> Tensor:
    """Spiral or tidal arms of R galaxies, each of unit flux on the grid, (R, F, F).

    A galaxy without a disc of its own (an early type in a merger) has arms seen from above.
    """
    dx, dy = grid.offsets(x, y)
    count, r_e, sharpness = c.cube("arm_count", "arm_re_arcsec", "arm_sharpness")
    q = torch.nan_to_num(c["disc_q"], nan=1.0)[:, None, None]
    phi = torch.nan_to_num(c.phi("disc_pa_deg"), nan=0.0)[:, None, None]
    pitch = torch.deg2rad(c["arm_pitch_deg"])[:, None, None]
    phase = torch.deg2rad(c["arm_phase_deg"])[:, None, None] - phi
    image = light.spiral_arms(dx, dy, r_e, q, phi, count, pitch, phase, sharpness)
    return image / image.sum(dim=(1, 2), keepdim=True)


def image_separation_arcsec(c: Columns) -> Tensor:
    """Largest distance between two images of the source's centre, (R,), arcsec."""
    return lensing.image_separation(
        c["source_x_arcsec"],
        c["source_y_arcsec"],
        c["theta_e_arcsec"],
        c["q_lens"],
        c.phi("pa_lens_deg"),
        c["shear"],
        c.phi("pa_shear_deg"),
    )


def flux_njy(mag: Tensor) -> Tensor:
    """AB magnitude to nJy (zero point 31.4); NaN gives zero: what a kind does not have."""
    return torch.nan_to_num(torch.exp((31.4 - mag) * (0.4 * math.log(10))), nan=0.0)
