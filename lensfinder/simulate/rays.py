"""Rays through the lenses of truth rows: smooth, or perturbed by a random field."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import grf, lensing
from lensfinder.simulate.grid import Columns

# Gives a number for each lens the shape that broadcasts against rays.
Expand = Callable[[Tensor], Tensor]


class Lenses:
    """What R lenses do to a ray."""

    def __init__(self, c: Columns, power_law: bool, perturbed: bool) -> None:
        self._source = (c["source_x_arcsec"], c["source_y_arcsec"])
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

    def take(self, rows: Tensor) -> Lenses:
        """Some of them."""
        some = copy.copy(self)
        some._source = (self._source[0][rows], self._source[1][rows])
        some._parameters = [p[rows] for p in self._parameters]
        if self._fields is not None:
            some._side, some._fields = self._side[rows], self._fields[rows]
        return some

    def shoot(self, dx: Tensor, dy: Tensor, expand: Expand) -> tuple[Tensor, Tensor]:
        """Source-plane position relative to the source's centre."""
        bx, by = lensing.ray_shoot(dx, dy, *(expand(p) for p in self._parameters))
        if self._fields is not None:
            step = expand(self._side / grf.N_GRID)
            u, v = dx / step + grf.N_GRID / 2, dy / step + grf.N_GRID / 2
            which = expand(torch.arange(len(self._side)))
            alpha_x, alpha_y = grf.deflection(self._fields, which, u.expand_as(bx), v.expand_as(by))
            bx, by = bx - alpha_x, by - alpha_y
        return bx.sub_(expand(self._source[0])), by.sub_(expand(self._source[1]))

    def stretch(self, dx: Tensor, dy: Tensor, expand: Expand) -> Tensor:
        """Upper bound of how far a step in the image takes a ray in the source plane."""
        theta_e, q, _, shear, *_ = (expand(p) for p in self._parameters)
        bound: Tensor = 1 + shear + theta_e / torch.sqrt(q * (dx**2 + dy**2).clamp(min=1e-12))
        return bound if self._fields is None else bound + 0.5
