"""What is in a scene: grid, columns of truth, and the features of negatives.

A feature is what a mock is about: the lensed source of a positive; companions, ring or arms of a
negative. It is kept apart from the rest, at unit flux, so that its brightness can be set by the
signal-to-noise ratio that it is to have.

Columns that a truth row may leave out (or hold as NaN), and what is rendered then:

- ``lens_slope``: minus the logarithmic slope of the lens' density in three dimensions; 2
- ``grf_kappa_rms``, ``grf_power``, ``grf_seed``: a Gaussian random field that perturbs the lens,
  see `grf.draw_deflection`; standard deviation of its convergence (none), its spectrum's power (6),
  and the integer below 2^53 that it is drawn from (0)
- ``source_stamp``: row of `Observation.sources` that stands in for the source's Sersic profile and
  clumps; ``source_stamp_pixel_arcsec``: its pixel as placed behind the lens (the native one).
  It is turned by ``source_pa_deg``, and has its middle at ``source_x_arcsec``,
  ``source_y_arcsec``. None: the profile
- ``psf_fwhm_<band>_epoch_<k>_arcsec``, k = 1, 2, ...: exposures of a coadd; its PSF is the mean of
  theirs. None: one PSF of ``psf_fwhm_<band>_arcsec``
- ``ring_seed``: integer below 2^24 that the unevenness of a ring is drawn from; none: even
- ``psf_index``: which of `Observation.psf_images`; 0
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lensfinder.simulate import gridding, lensing, light, sersics
from lensfinder.simulate.grid import Columns, FineGrid
from lensfinder.simulate.sersics import Galaxies, Prepared

# Waves round a ring, and standard deviations of their amplitudes in radius, width and, where knots
# have full contrast, brightness: radius varies slowly, brightness from knot to knot.
_RING_WAVES = 9
_ORDER = np.arange(1, _RING_WAVES + 1)
_RING_UNEVENNESS = np.stack([0.10 / _ORDER**1.5, 0.3 / _ORDER, np.full(_RING_WAVES, 0.45)])


def companions(
    grid: FineGrid,
    c: Columns,
    x: Tensor,
    y: Tensor,
    prepare: Callable[[Galaxies, FineGrid], Prepared] = sersics.prepare,
    draw: Callable[[Tensor, FineGrid, Prepared, int], None] = sersics.draw,
) -> Tensor:
    """Companions of R galaxies, of unit flux together, flux per fine pixel, (R, F, F)."""
    n_fine = len(grid.axis_arcsec)
    image = torch.zeros(len(x), 1, n_fine, n_fine, dtype=x.dtype)
    parts = []
    for k in range(1, c.count("companion_{}_fraction") + 1):
        rows = torch.nonzero(torch.isfinite(c[f"companion_{k}_fraction"]))[:, 0]
        mine = c.take(rows)
        r_e, q = mine[f"companion_{k}_re_arcsec"], mine[f"companion_{k}_q"]
        parts.append(
            Galaxies(
                rows,
                x[rows] + mine[f"companion_{k}_x_arcsec"],
                y[rows] + mine[f"companion_{k}_y_arcsec"],
                (r_e, mine[f"companion_{k}_n"], q, mine.phi(f"companion_{k}_pa_deg")),
                mine[f"companion_{k}_fraction"][:, None],
                # An exponential holds 2e-5 of its flux beyond 8 r_e.
                torch.where(mine[f"companion_{k}_n"] <= 1, 8 * r_e / torch.sqrt(q), torch.inf),
                torch.full_like(rows, 5),
            )
        )
    if parts:
        draw(image, grid, prepare(Galaxies.join(parts), grid), 0)
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
    waves = _uneven(c.get("ring_seed", -1.0), c["ring_knot_contrast"])
    image = light.ring(dx, dy, radius, width, q, phi, lopsidedness, contrast, count, phase, waves)
    image = gridding.smooth(image) if grid.adaptive else image
    return image / image.sum(dim=(1, 2), keepdim=True)


def _uneven(seed: Tensor, contrast: Tensor) -> list[light.Wave]:
    """Waves round each of R rings, from its seed; a ring without one is as even as it is told."""
    amplitudes = np.zeros((4, _RING_WAVES, len(seed)))
    for k, number in enumerate(seed.tolist()):
        if number >= 0:
            rng = np.random.default_rng(int(number))
            amplitudes[:3, :, k] = rng.standard_normal((3, _RING_WAVES)) * _RING_UNEVENNESS
            amplitudes[3, :, k] = rng.uniform(0, 2 * math.pi, _RING_WAVES)
    amplitudes[2] *= contrast.numpy()
    parts = torch.from_numpy(amplitudes).to(contrast.dtype)[..., None, None]
    return [light.Wave(*parts[:, m]) for m in range(_RING_WAVES)]


def arms(grid: FineGrid, c: Columns, x: Tensor, y: Tensor) -> Tensor:
    """Spiral arms of R galaxies, each of unit flux on the grid, (R, F, F).

    A galaxy without a disc of its own has arms seen from above.
    """
    dx, dy = grid.offsets(x, y)
    count, r_e, sharpness = c.cube("arm_count", "arm_re_arcsec", "arm_sharpness")
    q = torch.nan_to_num(c["disc_q"], nan=1.0)[:, None, None]
    phi = torch.nan_to_num(c.phi("disc_pa_deg"), nan=0.0)[:, None, None]
    pitch = torch.deg2rad(c["arm_pitch_deg"])[:, None, None]
    phase = torch.deg2rad(c["arm_phase_deg"])[:, None, None] - phi
    image = light.spiral_arms(dx, dy, r_e, q, phi, count, pitch, phase, sharpness)
    image = gridding.smooth(image) if grid.adaptive else image
    return image / image.sum(dim=(1, 2), keepdim=True)


def image_separation_arcsec(c: Columns) -> Tensor:
    """Largest distance between two images of the source's centre, (R,), arcsec.

    Of the smooth lens: a random field moves images by little.
    """
    slope = c.get("lens_slope", 2.0)
    separation = torch.full_like(slope, torch.nan)
    for power_law in (False, True):
        rows = torch.nonzero((slope != 2) == power_law)[:, 0]
        if len(rows):
            mine = c.take(rows)
            separation[rows] = lensing.image_separation(
                mine["source_x_arcsec"],
                mine["source_y_arcsec"],
                mine["theta_e_arcsec"],
                mine["q_lens"],
                mine.phi("pa_lens_deg"),
                mine["shear"],
                mine.phi("pa_shear_deg"),
                slope[rows] if power_law else None,
            )
    return separation


def flux_njy(mag: Tensor) -> Tensor:
    """AB magnitude to nJy (zero point 31.4); NaN gives zero: what a kind does not have."""
    return torch.nan_to_num(torch.exp((31.4 - mag) * (0.4 * math.log(10))), nan=0.0)
