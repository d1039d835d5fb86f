"""Images of lensed sources.

Lensing keeps surface brightness: a pixel shows the source's at the position where its ray meets
the source plane. On an adaptive grid the brightness is split by a window in the source plane,
which is 1 about the source and its clumps and fades out smoothly. What the window leaves over is
smooth on the grid and sampled once a cell; what it holds is sampled more finely, in those cells
alone whose rays come near the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import grf, gridding, lensing, light
from lensfinder.simulate import sources as source_images
from lensfinder.simulate.grid import Columns, FineGrid

# The window is exp(-(d / width)^4), and counts as nothing beyond this many widths (2e-6).
_WINDOW_END = 1.9
# Its width about the centre, in grid cells and in half-light radii, whichever is more.
_WIDTH_CELLS, _WIDTH_IN_R_E = 2.6, 1.3
# About a clump: in its own standard deviations.
_WIDTH_IN_SIGMA = 4.0
# About the lens, whose deflection has no direction at the centre: in grid cells of the image.
_WIDTH_ABOUT_LENS = 1.2
# Samples along a cell's side: the next of these that puts so many on the source's smallest scale.
_REFINEMENTS = (3, 5, 8)
_SAMPLES_A_SCALE = 3.0
# Sides of the square about a lens that is looked at, in grid cells.
_WINDOWS = (32, 48, 64, 96)

Expand = Callable[[Tensor], Tensor]


def lensed_source(
    grid: FineGrid,
    c: Columns,
    x: Tensor,
    y: Tensor,
    images: source_images.SourceImages | None = None,
) -> Tensor:
    """Image of a source of unit flux behind each of R lenses, flux per fine pixel, (R, F, F).

    Its sum is the magnification of the source.

    Parameters
    ----------
    x, y : (R,) centre of the lens, arcsec from the central pixel
    images : those that `source_stamp` counts

    Raises
    ------
    ValueError
        if a row asks for a source image that is not there
    """
    n_fine = len(grid.axis_arcsec)
    image = torch.zeros(len(x), n_fine, n_fine, dtype=x.dtype)
    slope, kappa_rms = c.get("lens_slope", 2.0), c.get("grf_kappa_rms", 0.0)
    stamp = c.get("source_stamp", -1.0)
    if bool((stamp >= 0).any()) and (images is None or bool((stamp >= len(images)).any())):
        count = 0 if images is None else len(images)
        raise ValueError(
            f"source_stamp is {float(stamp.max()):g}, and there are {count} source images; "
            "expected a row of them, counted from 0"
        )
    # Rows that need the same are worked on together, and the common ones don't pay for the others.
    half = _half_width_cells(grid, c)
    needs = torch.stack([(slope != 2).long(), (kappa_rms > 0).long(), (stamp >= 0).long()], dim=1)
    windows = [w for w in _WINDOWS if grid.adaptive and w < n_fine] + [n_fine]
    window = torch.tensor(windows)[torch.searchsorted(torch.tensor(windows[:-1]), 2 * half)]
    keys = torch.cat([needs, window[:, None]], dim=1)
    for key in torch.unique(keys, dim=0):
        rows = torch.nonzero((keys == key).all(dim=1))[:, 0]
        power_law, perturbed, stamped, width = key.tolist()
        lens = _Lenses(grid, c.take(rows), bool(power_law), bool(perturbed))
        source = (
            _Stamps(lens.columns, images)
            if stamped and images is not None
            else _Profiles(lens.columns, grid.scale_arcsec)
        )
        _draw(image, grid, rows, x[rows], y[rows], lens, source, int(width))
    return image


def _half_width_cells(grid: FineGrid, c: Columns) -> Tensor:
    """Half the side of the square beyond which a source adds nothing, in grid cells, (R,).

    A ray at theta is bent by less than theta_e / sqrt(q) plus shear. An exponential is at 1e-5 of
    its centre 7 half-light radii out; steeper profiles get all of the grid.
    """
    extent = 7 * c["source_re_arcsec"] / torch.sqrt(c["source_q"])
    for k in range(1, c.count("clump_{}_fraction") + 1):
        away = torch.hypot(c[f"clump_{k}_x_arcsec"], c[f"clump_{k}_y_arcsec"])
        reach = away + 5 * c[f"clump_{k}_sigma_arcsec"]
        extent = torch.maximum(extent, torch.nan_to_num(reach, nan=0.0))
    plain = (c["source_n"] <= 1.2) & (c.get("lens_slope", 2.0) == 2)
    plain &= (c.get("grf_kappa_rms", 0.0) == 0) & (c.get("source_stamp", -1.0) < 0)
    bent = c["theta_e_arcsec"] / torch.sqrt(c["q_lens"])
    beta = torch.hypot(c["source_x_arcsec"], c["source_y_arcsec"])
    half = (bent + beta + extent) / (1 - c["shear"]).clamp(min=0.1)
    return torch.where(plain, torch.ceil(half / grid.scale_arcsec), torch.inf)


class _Lenses:
    """What R lenses do to a ray."""

    def __init__(self, grid: FineGrid, c: Columns, power_law: bool, perturbed: bool) -> None:
        self.columns = c
        self._parameters = [
            c["theta_e_arcsec"],
            c["q_lens"],
            c.phi("pa_lens_deg"),
            c["shear"],
            c.phi("pa_shear_deg"),
        ]
        if power_law:
            self._parameters.append(c.get("lens_slope", 2.0))
        self._fields: Tensor | None = None
        if perturbed:
            self._side = 2 * grf.HALF_WIDTH_IN_THETA_E * c["theta_e_arcsec"]
            described = zip(
                c.get("grf_seed", 0).tolist(),
                self._side.tolist(),
                c.get("grf_kappa_rms", 0.0).tolist(),
                c.get("grf_power", 6.0).tolist(),
                strict=True,
            )
            fields = [
                grf.draw_deflection(np.random.default_rng(int(seed)), side, rms, power)
                for seed, side, rms, power in described
            ]
            self._fields = torch.from_numpy(np.stack(fields)).to(c["theta_e_arcsec"].dtype)

    def shoot(self, dx: Tensor, dy: Tensor, expand: Expand) -> tuple[Tensor, Tensor]:
        """Source-plane position relative to the source's centre."""
        c = self.columns
        bx, by = lensing.ray_shoot(dx, dy, *(expand(p) for p in self._parameters))
        if self._fields is not None:
            step = expand(self._side / grf.N_GRID)
            u, v = dx / step + grf.N_GRID / 2, dy / step + grf.N_GRID / 2
            which = expand(torch.arange(len(self._side)))
            alpha_x, alpha_y = grf.deflection(self._fields, which, u.expand_as(bx), v.expand_as(by))
            bx, by = bx - alpha_x, by - alpha_y
        return bx - expand(c["source_x_arcsec"]), by - expand(c["source_y_arcsec"])

    def stretch(self, dx: Tensor, dy: Tensor, expand: Expand) -> Tensor:
        """Upper bound of how far a step in the image takes a ray in the source plane."""
        theta_e, q, _, shear, *_ = (expand(p) for p in self._parameters)
        bound: Tensor = 1 + shear + theta_e / torch.sqrt(q * (dx**2 + dy**2).clamp(min=1e-12))
        return bound if self._fields is None else bound + 0.5


@dataclass(frozen=True)
class _Window:
    """Squared distances from the centres of the window's parts, and widths of these."""

    distance2: list[Tensor]
    width: list[Tensor | float]

    def add(self, distance2: Tensor, width: Tensor | float) -> None:
        """One more part."""
        self.distance2.append(distance2)
        self.width.append(width)

    def weight(self) -> Tensor:
        """1 where the source is, 0 far from it."""
        outside: Tensor | None = None
        for d2, width in zip(self.distance2, self.width, strict=True):
            here = 1 - torch.exp(-(((d2 / width**2) ** 2).clamp(max=80)))
            outside = here if outside is None else outside * here
        assert outside is not None
        return 1 - outside

    def touches(self, slack: Tensor) -> Tensor:
        """Whether it is felt within `slack` of a point."""
        near = [
            d2 < (_WINDOW_END * width + slack) ** 2
            for d2, width in zip(self.distance2, self.width, strict=True)
        ]
        return torch.stack(near).any(dim=0) if len(near) > 1 else near[0]


class _Profiles:
    """Sersic profiles with Gaussian clumps."""

    def __init__(self, c: Columns, cell_arcsec: float) -> None:
        self._shape = (
            c["source_re_arcsec"],
            c["source_n"],
            c["source_q"],
            c.phi("source_pa_deg"),
        )
        self._width = torch.clamp(
            _WIDTH_IN_R_E * c["source_re_arcsec"], min=_WIDTH_CELLS * cell_arcsec
        )
        smallest = c["source_re_arcsec"] * torch.sqrt(c["source_q"])
        self._clumps = []
        self._smooth = torch.ones_like(smallest)
        for k in range(1, c.count("clump_{}_fraction") + 1):
            fraction = torch.nan_to_num(c[f"clump_{k}_fraction"], nan=0.0)
            if not bool((fraction > 0).any()):
                continue
            has = fraction > 0
            # Where a row has no such clump, a dark one stands in the centre.
            x, y = (torch.where(has, c[f"clump_{k}_{a}_arcsec"], 0.0) for a in "xy")
            sigma = torch.where(has, c[f"clump_{k}_sigma_arcsec"], 0.1)
            self._clumps.append((x, y, sigma, fraction))
            self._smooth = self._smooth - fraction
            smallest = torch.where(has, torch.minimum(smallest, 1.5 * sigma), smallest)
        wanted = _SAMPLES_A_SCALE * cell_arcsec / smallest
        steps = torch.tensor(_REFINEMENTS)
        self.refinement = steps[
            torch.searchsorted(steps.to(wanted.dtype), wanted).clamp(max=len(steps) - 1)
        ]

    def at(self, bx: Tensor, by: Tensor, expand: Expand) -> tuple[Tensor, _Window]:
        """Brightness, arcsec**-2, and the window."""
        total = light.sersic(bx, by, *(expand(p) for p in self._shape))
        total *= expand(self._smooth)
        window = _Window([bx**2 + by**2], [expand(self._width)])
        for x, y, sigma, fraction in self._clumps:
            ux, uy, width = bx - expand(x), by - expand(y), expand(sigma)
            total += expand(fraction) * light.gaussian_clump(ux, uy, width)
            window.distance2.append(ux**2 + uy**2)
            window.width.append(_WIDTH_IN_SIGMA * width)
        return total, window


class _Stamps:
    """Images of real galaxies."""

    def __init__(self, c: Columns, images: source_images.SourceImages) -> None:
        dtype = c["source_x_arcsec"].dtype
        self._images = torch.from_numpy(images.images_SYX).to(dtype)
        self._which = c.get("source_stamp", 0).long()
        native = torch.from_numpy(images.pixel_arcsec).to(dtype)[self._which]
        placed = c.get("source_stamp_pixel_arcsec", math.nan)
        self._pixel = torch.where(placed > 0, placed, native)
        self._phi = c.phi("source_pa_deg") - math.pi / 2
        radii = torch.from_numpy(images.radius_pixel()).to(dtype)[self._which]
        # All of an image is inside of the window, which is 1 there to rounding.
        self._radius = radii * self._pixel
        self.refinement = torch.full_like(self._which, _REFINEMENTS[1])

    def at(self, bx: Tensor, by: Tensor, expand: Expand) -> tuple[Tensor, _Window]:
        """Brightness, arcsec**-2, and the window."""
        total = source_images.brightness(
            self._images, expand(self._which), bx, by, expand(self._pixel), expand(self._phi)
        )
        return total, _Solid([bx**2 + by**2], [expand(self._radius)])


class _Solid(_Window):
    """A window that is 1, for what is zero beyond its width."""

    def add(self, distance2: Tensor, width: Tensor | float) -> None:
        """Holds everything already."""

    def weight(self) -> Tensor:
        return torch.ones_like(self.distance2[0])

    def touches(self, slack: Tensor) -> Tensor:
        return self.distance2[0] < (self.width[0] + slack) ** 2


def _draw(
    image_RFF: Tensor,
    grid: FineGrid,
    rows: Tensor,
    x: Tensor,
    y: Tensor,
    lens: _Lenses,
    source: _Profiles | _Stamps,
    width: int,
) -> None:
    """Draw the sources of some rows, each in a square of `width` cells about its lens."""
    n_fine, h = len(grid.axis_arcsec), grid.scale_arcsec

    def on_grid(p: Tensor) -> Tensor:
        return p[:, None, None]

    left = (grid.nearest(x) - width // 2).clamp(0, n_fine - width)
    low = (grid.nearest(y) - width // 2).clamp(0, n_fine - width)
    steps = torch.arange(width)
    dx_RW = grid.axis_arcsec[left[:, None] + steps] - x[:, None]
    dy_RW = grid.axis_arcsec[low[:, None] + steps] - y[:, None]
    dx, dy = dx_RW[:, None, :], dy_RW[:, :, None]
    brightness, window = source.at(*lens.shoot(dx, dy, on_grid), on_grid)
    brightness *= h**2
    if grid.adaptive:
        window.add(dx**2 + dy**2, _WIDTH_ABOUT_LENS * h)
        slack = (h / math.sqrt(2)) * lens.stretch(dx, dy, on_grid)
        row, line, column = torch.nonzero(window.touches(slack), as_tuple=True)
        brightness *= 1 - window.weight()
        brightness = gridding.smooth(brightness)
        refinement = source.refinement[row]
        for r in sorted(set(refinement.tolist())):
            some = torch.nonzero(refinement == r)[:, 0]
            _refine(
                brightness, dx_RW, dy_RW, row[some], line[some], column[some], lens, source, r, h
            )
    for k, (to, i, j) in enumerate(zip(rows.tolist(), left.tolist(), low.tolist(), strict=True)):
        image_RFF[to, j : j + width, i : i + width] = brightness[k]


def _refine(
    image_RWW: Tensor,
    dx_RW: Tensor,
    dy_RW: Tensor,
    row: Tensor,
    line: Tensor,
    column: Tensor,
    lens: _Lenses,
    source: _Profiles | _Stamps,
    refinement: int,
    h: float,
) -> None:
    """Sample M cells finely and spread what the window holds, in place."""

    def on_cells(p: Tensor) -> Tensor:
        return p[row]

    sub = gridding.sub_offsets(refinement, image_RWW.dtype) * h
    dx = dx_RW[row, column] + sub.repeat(refinement)[:, None]
    dy = dy_RW[row, line] + sub.repeat_interleave(refinement)[:, None]
    fine, window = source.at(*lens.shoot(dx, dy, on_cells), on_cells)
    window.add(dx**2 + dy**2, _WIDTH_ABOUT_LENS * h)
    fine *= window.weight()
    fine *= (h / refinement) ** 2
    gridding.add_cells(image_RWW, row, line, column, fine)
