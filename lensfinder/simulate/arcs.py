"""Images of lensed sources.

Lensing keeps surface brightness: a pixel shows the source's at the position where its ray meets
the source plane. On an adaptive grid the brightness is split by a window in the source plane,
which is 1 about the source's centre and fades out smoothly. What the window leaves over is smooth
on the grid and sampled once a cell; what it holds is sampled more finely, in those cells alone
whose rays come near. Clumps and images of galaxies end somewhere, and are all inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lensfinder.simulate import gridding, light
from lensfinder.simulate import sources as source_images
from lensfinder.simulate.grid import Columns, FineGrid
from lensfinder.simulate.rays import Lenses

# The window is exp(-(d / width)^4), and counts as nothing beyond this many widths (2e-6).
WINDOW_END = 1.9
# Its width about the centre, in grid cells and in half-light radii, whichever is more.
_WIDTH_CELLS, _WIDTH_IN_R_E = 2.6, 1.3
# About the lens, whose deflection has no direction at the centre: in grid cells of the image.
WIDTH_ABOUT_LENS = 1.2
# A clump ends here, in its standard deviations (4e-6 of its peak).
CLUMP_END = 5.0
# Samples along a cell's side: the next of these that puts so many on the minor half-light radius
# of a profile, or on the standard deviation of a clump.
REFINEMENTS = (2, 3, 5, 8)
_SAMPLES_A_RADIUS, _SAMPLES_A_SIGMA = 3.0, 1.25
# Of the fine samples that are worked on at a time: they stay in a core's cache.
_SAMPLES_AT_A_TIME = 2**15
# Sides of the square about a lens that is looked at, in grid cells.
_WINDOWS = (32, 48, 64, 96)

# Samples along a cell's side of the image of a galaxy.
_STAMP_REFINEMENT = 5

# Row and number of a piece of a source.
Index = tuple[Tensor, Tensor]
Three = tuple[Tensor, Tensor, Tensor]


def lensed_source(
    grid: FineGrid,
    c: Columns,
    x: Tensor,
    y: Tensor,
    images: source_images.SourceImages | None = None,
) -> Tensor:
    """Image of a source of unit flux behind each of R lenses, flux per fine pixel, (R, P, F, F).

    First the profile or image of a galaxy, then, where some source has them, the clumps, which can
    have other colours. The sum over both is the magnification of the source.

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
    image = torch.zeros(len(x), parts_of(c), n_fine, n_fine, dtype=x.dtype)
    slope, kappa_rms = c.get("lens_slope", 2.0), c.get("grf_kappa_rms", 0.0)
    stamp = c.get("source_stamp", -1.0)
    if bool((stamp >= 0).any()) and (images is None or bool((stamp >= len(images)).any())):
        count = 0 if images is None else len(images)
        raise ValueError(
            f"source_stamp is {float(stamp.max()):g}, and there are {count} source images; "
            "expected a row of them, counted from 0"
        )
    # Rows that need the same are worked on together, and the common ones don't pay for the others.
    squares = windows(grid, c, x, y)
    needs = torch.stack([(slope != 2).long(), (kappa_rms > 0).long(), (stamp >= 0).long()], dim=1)
    for key in torch.unique(needs, dim=0):
        rows = torch.nonzero((needs == key).all(dim=1))[:, 0]
        power_law, perturbed, stamped = key.tolist()
        mine = c.take(rows)
        lens = Lenses(mine, bool(power_law), bool(perturbed))
        parts = _stamps(mine, images) if stamped and images is not None else _profiles(mine, grid)
        width, left, low = (each[rows] for each in squares)
        image[rows, : len(parts)] = _draw(grid, x[rows], y[rows], lens, parts, (width, left, low))
    return image


def parts_of(c: Columns) -> int:
    """How many parts sources have that can differ in colour: 2 if any has clumps."""
    numbers = range(1, c.count("clump_{}_fraction") + 1)
    return 1 + any(bool((c[f"clump_{k}_fraction"] > 0).any()) for k in numbers)


def windows(grid: FineGrid, c: Columns, x: Tensor, y: Tensor) -> Three:
    """Width, left and lower edge of the square about each of R lenses that is looked at, cells.

    Beyond it a source adds nothing: a ray at theta is bent by less than theta_e / sqrt(q) plus
    shear, and an exponential is at 1e-5 of its centre 7 half-light radii out; steeper profiles get
    all of the grid.

    Parameters
    ----------
    x, y : (R,) centre of each lens, arcsec from the central pixel
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
    half = torch.where(plain, torch.ceil(half / grid.scale_arcsec), torch.inf)
    n_fine = len(grid.axis_arcsec)
    widths = [w for w in _WINDOWS if grid.adaptive and w < n_fine] + [n_fine]
    place = torch.searchsorted(torch.tensor(widths[:-1], dtype=half.dtype), 2 * half)
    width = torch.tensor(widths)[place]
    left, low = (
        torch.minimum((grid.nearest(centre) - width // 2).clamp(min=0), n_fine - width)
        for centre in (x, y)
    )
    return width, left, low


@dataclass(frozen=True)
class _Part:
    """Up to K pieces of each of R sources that are of one form.

    Attributes
    ----------
    at : brightness, arcsec**-2, at positions relative to the centre of a piece; given row and
        number of the piece
    x, y : (R, K) centre relative to the source's, arcsec
    width : (R, K) of the window about the centre, or, if `ends`, where the piece ends; 0: there is
        no such piece
    ends : whether it is dark beyond `width`, and no sample is left to the coarse grid
    refinement : (R, K) samples along a cell's side
    """

    at: Callable[[Tensor, Tensor, Index], Tensor]
    x: Tensor
    y: Tensor
    width: Tensor
    ends: bool
    refinement: Tensor

    def near(self, rows: Tensor, bx: Tensor, by: Tensor, slack: Tensor, k: int) -> Tensor:
        """Which cells of the grids (R, W, W) of some rows need fine samples of piece k."""
        dx, dy = bx - self.x[rows, k, None, None], by - self.y[rows, k, None, None]
        width = self.width[rows, k, None, None]
        reach = slack + width * (1.0 if self.ends else WINDOW_END)
        return (dx.square_().add_(dy.square_()) < reach.square_()) & (width > 0)


def _refinement(samples: Tensor) -> Tensor:
    """The next of `REFINEMENTS`."""
    steps = torch.tensor(REFINEMENTS)
    at = torch.searchsorted(steps.to(samples.dtype), samples.contiguous())
    return steps[at.clamp(max=len(steps) - 1)]


@dataclass(frozen=True)
class Source:
    """Sersic profiles of R sources, and their Gaussian clumps.

    Attributes
    ----------
    form, terms : of `light`; what clumps shine is taken off
    width : (R,) of the window about the centre, arcsec
    refinement : (R,) samples along a cell's side within it
    clump_x, clump_y, sigma : (R, K) arcsec from the source's centre
    fraction : (R, K) of the flux; 0: there is no such clump
    clump_refinement : (R, K)
    """

    form: light.Form
    terms: light.Terms
    width: Tensor
    refinement: Tensor
    clump_x: Tensor
    clump_y: Tensor
    sigma: Tensor
    fraction: Tensor
    clump_refinement: Tensor

    @classmethod
    def of(cls, c: Columns, grid: FineGrid) -> Source:
        """What truth rows say."""
        r_e, n, q = c["source_re_arcsec"], c["source_n"], c["source_q"]
        cell = grid.scale_arcsec
        clumps = torch.zeros(4, len(r_e), 0, dtype=r_e.dtype)
        if count := c.count("clump_{}_fraction"):
            names = ("x_arcsec", "y_arcsec", "sigma_arcsec", "fraction")
            columns = [[c[f"clump_{k + 1}_{name}"] for k in range(count)] for name in names]
            clumps = torch.stack([torch.stack(each, dim=1) for each in columns]).nan_to_num(nan=0.0)
            clumps = clumps[:, :, (clumps[3] > 0).any(dim=0)]
        x, y, sigma, fraction = clumps.unbind()
        sigma = torch.where(fraction > 0, sigma, 1.0)
        shrink, power, log_centre = light.sersic_terms(r_e, n)
        left = (1 - fraction.sum(dim=1)).clamp(min=0)
        return cls(
            light.elliptical_form(q, c.phi("source_pa_deg")),
            (shrink, power, log_centre + torch.log(left)),
            torch.clamp(_WIDTH_IN_R_E * r_e, min=_WIDTH_CELLS * cell),
            _refinement(_SAMPLES_A_RADIUS * cell / (r_e * torch.sqrt(q))),
            *(x, y, sigma, fraction),
            _refinement(_SAMPLES_A_SIGMA * cell / sigma),
        )


def _profiles(c: Columns, grid: FineGrid) -> list[_Part]:
    """Sersic profiles, and their Gaussian clumps."""
    source = Source.of(c, grid)
    form, (shrink, power, log_centre) = source.form, source.terms

    def profile(bx: Tensor, by: Tensor, index: Index) -> Tensor:
        row = index[0]
        radius2 = light.form_at(bx, by, (form[0][row], form[1][row], form[2][row]))
        return light.sersic_of(radius2, (shrink[row], power[row], log_centre[row]))

    zero, width = torch.zeros_like(power)[:, None], source.width[:, None]
    parts = [_Part(profile, zero, zero, width, False, source.refinement[:, None])]
    if source.fraction.shape[1]:
        sigma, fraction = source.sigma, source.fraction
        peak = fraction / (2 * math.pi * sigma.square())
        fall = -0.5 / sigma.square()

        def clump(bx: Tensor, by: Tensor, index: Index) -> Tensor:
            distance2 = bx.square().add_(by.square())
            end = CLUMP_END**2 * sigma[index].square()
            lit = distance2 < end
            return distance2.mul_(fall[index]).exp_().mul_(peak[index]).mul_(lit)

        ends = torch.where(fraction > 0, CLUMP_END * sigma, 0.0)
        parts.append(
            _Part(clump, source.clump_x, source.clump_y, ends, True, source.clump_refinement)
        )
    return parts


def _stamps(c: Columns, images: source_images.SourceImages) -> list[_Part]:
    """Images of real galaxies."""
    dtype = c["source_x_arcsec"].dtype
    stack = torch.from_numpy(images.images_SYX).to(dtype)
    which = c.get("source_stamp", 0).long()
    native = torch.from_numpy(images.pixel_arcsec).to(dtype)[which]
    placed = c.get("source_stamp_pixel_arcsec", math.nan)
    pixel = torch.where(placed > 0, placed, native)
    phi = c.phi("source_pa_deg") - math.pi / 2

    def image(bx: Tensor, by: Tensor, index: Index) -> Tensor:
        row = index[0]
        return source_images.brightness(stack, which[row], bx, by, pixel[row], phi[row])

    zero = torch.zeros_like(pixel)[:, None]
    radius = torch.from_numpy(images.radius_pixel()).to(dtype)[which] * pixel
    refinement = torch.full_like(which, _STAMP_REFINEMENT)[:, None]
    return [_Part(image, zero, zero, radius[:, None], True, refinement)]


def _draw(
    grid: FineGrid, x: Tensor, y: Tensor, lens: Lenses, parts: Sequence[_Part], squares: Three
) -> Tensor:
    """Draw P parts of R sources, in a square about each lens; flux per fine pixel, (R, P, F, F).

    Parameters
    ----------
    x, y : (R,) centre of the lens
    squares : of `windows`
    """
    n_fine = len(grid.axis_arcsec)
    image = torch.zeros(len(x), len(parts), n_fine, n_fine, dtype=x.dtype)
    # Row, line, column and piece of each cell that needs fine samples, for each part.
    cells: list[list[Tensor]] = [[] for _ in parts]
    for width in torch.unique(squares[0]).tolist():
        rows = torch.nonzero(squares[0] == width)[:, 0]
        left, low = squares[1][rows], squares[2][rows]
        steps = torch.arange(width)
        dx = (grid.axis_arcsec[left[:, None] + steps] - x[rows, None])[:, None, :]
        dy = (grid.axis_arcsec[low[:, None] + steps] - y[rows, None])[:, :, None]
        here = lens.take(rows)
        bx, by = here.shoot(dx, dy, lambda p: p[:, None, None])
        if grid.adaptive:
            slack = (grid.scale_arcsec / math.sqrt(2)) * here.stretch(
                dx, dy, lambda p: p[:, None, None]
            )
            for part, found in zip(parts, cells, strict=True):
                row, line, column, piece = _near(part, rows, bx, by, dx, dy, slack, grid)
                found.append(torch.stack([rows[row], line + low[row], column + left[row], piece]))
        for p, part in enumerate(parts):
            if grid.adaptive and part.ends:
                continue
            brightness = _sampled_once(part, rows, bx, by, dx, dy, grid)
            corners = zip(rows.tolist(), left.tolist(), low.tolist(), strict=True)
            for k, (to, i, j) in enumerate(corners):
                image[to, p, j : j + width, i : i + width] = brightness[k]
    for p, (part, found) in enumerate(zip(parts, cells, strict=True)):
        if found:
            plane = torch.zeros_like(image[:, p])
            _refine(plane, grid, x, y, lens, part, torch.cat(found, dim=1))
            image[:, p] += plane
    return image


def _near(
    part: _Part,
    rows: Tensor,
    bx: Tensor,
    by: Tensor,
    dx: Tensor,
    dy: Tensor,
    slack: Tensor,
    grid: FineGrid,
) -> Tensor:
    """Row, line, column and piece of cells of grids (R, W, W) that need fine samples, (4, M)."""
    near = torch.stack([part.near(rows, bx, by, slack, k) for k in range(part.x.shape[1])], dim=1)
    if not part.ends:
        reach = WIDTH_ABOUT_LENS * grid.scale_arcsec * WINDOW_END
        near |= (dx.square() + dy.square() < (slack + reach).square_())[:, None]
    row, piece, line, column = torch.nonzero(near, as_tuple=True)
    return torch.stack([row, line, column, piece])


def _sampled_once(
    part: _Part,
    rows: Tensor,
    bx: Tensor,
    by: Tensor,
    dx: Tensor,
    dy: Tensor,
    grid: FineGrid,
) -> Tensor:
    """What one sample a cell says of R sources on grids (R, W, W); flux per fine pixel."""
    total = torch.zeros_like(bx)
    for k in range(part.x.shape[1]):
        index = rows[:, None, None], torch.full_like(rows, k)[:, None, None]
        brightness = part.at(bx - part.x[index], by - part.y[index], index)
        if grid.adaptive:
            about_lens = dx.square() + dy.square()
            brightness *= _left_over(bx, by, part.width[index], about_lens, grid.scale_arcsec)
        total += brightness
    total *= grid.scale_arcsec**2
    return gridding.smooth(total) if grid.adaptive else total


def _left_over(bx: Tensor, by: Tensor, width: Tensor, about_lens: Tensor, h: float) -> Tensor:
    """What the windows about a source's centre and about its lens leave to the coarse grid."""
    outside = _outside(bx.square().add_(by.square()), width)
    return outside.mul_(_outside(about_lens, torch.tensor(WIDTH_ABOUT_LENS * h)))


def _outside(distance2: Tensor, width: Tensor) -> Tensor:
    """One minus a window."""
    quartic = (distance2 / width.square()).square_().clamp_(max=80)
    return quartic.neg_().exp_().neg_().add_(1)


def _refine(
    image_RFF: Tensor,
    grid: FineGrid,
    x: Tensor,
    y: Tensor,
    lens: Lenses,
    part: _Part,
    cells_4M: Tensor,
) -> None:
    """Sample cells finely and spread what belongs there, in place.

    Parameters
    ----------
    cells_4M : row, line, column and number of the piece
    """
    refinement = part.refinement[cells_4M[0], cells_4M[3]]
    for r in torch.unique(refinement).tolist():
        alike_4M = cells_4M[:, refinement == r]
        for some in torch.split(alike_4M, _SAMPLES_AT_A_TIME // r**2, dim=1):
            _refine_alike(image_RFF, grid, x, y, lens, part, some, r)


def _refine_alike(
    image_RFF: Tensor,
    grid: FineGrid,
    x: Tensor,
    y: Tensor,
    lens: Lenses,
    part: _Part,
    cells_4M: Tensor,
    refinement: int,
) -> None:
    row, line, column, piece = cells_4M
    h, index = grid.scale_arcsec, (row, piece)
    sub = gridding.sub_offsets(refinement, image_RFF.dtype) * h
    dx = (grid.axis_arcsec[column] - x[row]) + sub.repeat(refinement)[:, None]
    dy = (grid.axis_arcsec[line] - y[row]) + sub.repeat_interleave(refinement)[:, None]
    bx, by = lens.shoot(dx, dy, lambda p: p[row])
    bx -= part.x[index]
    by -= part.y[index]
    fine = part.at(bx, by, index)
    if not part.ends:
        about_lens = dx.square_().add_(dy.square_())
        fine *= _left_over(bx, by, part.width[index], about_lens, h).neg_().add_(1)
    fine *= (h / refinement) ** 2
    gridding.add_cells(image_RFF, row, line, column, fine)
