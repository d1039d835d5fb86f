"""Small-scale structure of a lens: a Gaussian random field that perturbs its potential.

A field is a periodic square about the lens, drawn from (seed, index) in Fourier space; its
deflection is the gradient, taken there exactly, and read off between grid points by cubic
convolution. The mean deflection of the square is zero, so that a source stays where it was put.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# Grid points along a side: with P ~ k^-6 the waves that this leaves out bend light by 3 % of the
# field's own deflection.
N_GRID = 64
# Half the side of the square, in Einstein radii. Beyond it the field repeats.
HALF_WIDTH_IN_THETA_E = 4.0


def draw_deflection(
    rng: np.random.Generator, side_arcsec: float, kappa_rms: float, power: float = 6.0
) -> np.ndarray:
    """Deflection of a random potential with P(k) ~ k^-power on a periodic square.

    Parameters
    ----------
    rng : of the object
    side_arcsec : of the square
    kappa_rms : standard deviation of the field's convergence over the square, >= 0; 0.01 makes
        arcs uneven, 0.1 breaks them
    power : of the potential's spectrum, >= 0

    Returns
    -------
    alpha_2YX : (2, N_GRID, N_GRID) arcsec, along x and along y; point (0, 0) is the lower left
        corner of the square
    """
    n = N_GRID
    white = np.fft.rfft2(rng.standard_normal((n, n)))
    step = 2 * math.pi / side_arcsec
    ky = (np.fft.fftfreq(n, d=1 / n) * step)[:, None]
    kx = (np.fft.rfftfreq(n, d=1 / n) * step)[None, :]
    k2 = kx**2 + ky**2
    k2[0, 0] = 1.0
    psi = white * k2 ** (-power / 4)
    # A wave at the Nyquist frequency has no gradient on the grid; a constant deflects nothing.
    psi[0, 0] = 0.0
    psi[n // 2, :] = 0.0
    psi[:, n // 2] = 0.0
    kappa = np.fft.irfft2(-0.5 * k2 * psi, s=(n, n))
    psi *= kappa_rms / kappa.std()
    gradient = [np.fft.irfft2(1j * k * psi, s=(n, n)) for k in (kx, ky)]
    return np.stack(gradient)


def deflection(alpha_N2YX: Tensor, rows: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Read fields between their grid points, by cubic convolution (Keys 1981, a = -1/2).

    Parameters
    ----------
    alpha_N2YX : fields of `draw_deflection`
    rows : which field each point lies in; broadcasts against u and v
    u, v : position along x and y in grid points from the lower left corner; periodic

    Returns
    -------
    alpha_x, alpha_y : arcsec, in the shape of u and v
    """
    n = alpha_N2YX.shape[-1]
    i, j = torch.floor(u), torch.floor(v)
    weights_x, weights_y = _keys(u - i), _keys(v - j)
    i, j = i.long(), j.long()
    flat_x, flat_y = alpha_N2YX[:, 0].reshape(-1), alpha_N2YX[:, 1].reshape(-1)
    base = rows * (n * n)
    alpha_x, alpha_y = torch.zeros_like(u), torch.zeros_like(u)
    for dj, weight_y in zip(range(-1, 3), weights_y, strict=True):
        line = base + torch.remainder(j + dj, n) * n
        for di, weight_x in zip(range(-1, 3), weights_x, strict=True):
            at = line + torch.remainder(i + di, n)
            weight = weight_x * weight_y
            alpha_x = alpha_x + weight * flat_x[at]
            alpha_y = alpha_y + weight * flat_y[at]
    return alpha_x, alpha_y


def _keys(f: Tensor) -> list[Tensor]:
    """Weights of the points at -1, 0, 1, 2 for a point at f in [0, 1)."""
    f2, f3 = f * f, f * f * f
    return [
        -0.5 * f3 + f2 - 0.5 * f,
        1.5 * f3 - 2.5 * f2 + 1,
        -1.5 * f3 + 2 * f2 + 0.5 * f,
        0.5 * f3 - 0.5 * f2,
    ]
