"""Spectral energy distributions and filters, and the colours that follow from them.

Templates are analytic and stated whole below; colours are AB magnitudes through trapezoid filters.
They stand in for libraries of spectra that would have to be shipped: colours are good to about
0.1 mag, which is less than the scatter that recipes add.

- `passive`: an old population, a polygon in AB magnitude over log wavelength with the break at
  4000 A and the fall into the ultraviolet. Its nodes are ours, laid so that g - r follows the
  lenses of a published forecast and the redder colours those of nearby ellipticals.
- `star_forming`: a young population, a power law in the ultraviolet with a small Balmer break.
- Dust: Calzetti et al. (2000, ApJ 533, 682, eq. 4), as a screen with R_V = 4.05.
- Intergalactic hydrogen: Lyman alpha to delta lines by their mean effective depth (Madau 1995,
  ApJ 441, 18, eqs 12 and 15), and nothing left beyond the Lyman limit.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SedName = Literal["passive", "star_forming"]

# Where a filter's transmission leaves zero, reaches its top, leaves it and is back at zero, in
# Angstrom: trapezoids about the bands of LSST (Ivezic et al. 2019, ApJ 873, 111, fig. 4) and VIS.
FILTER_EDGES_ANGSTROM: dict[str, tuple[float, float, float, float]] = {
    "u": (3150, 3450, 3800, 4050),
    "g": (3900, 4150, 5400, 5650),
    "r": (5380, 5600, 6800, 7050),
    "i": (6780, 7000, 8100, 8300),
    "z": (8030, 8300, 9150, 9350),
    "y": (9100, 9400, 10200, 10700),
    "VIS": (5300, 5700, 8800, 9300),
}

# Rest wavelength in Angstrom, AB magnitude relative to 5500 A; straight in between, flat beyond.
_NODES: dict[SedName, tuple[tuple[float, float], ...]] = {
    "passive": (
        *((2400, 6.80), (2650, 5.80), (2950, 3.80), (3300, 2.82), (3650, 2.62), (3850, 1.66)),
        *((4100, 1.66), (4500, 0.69), (5000, 0.26), (5500, 0.00), (6500, -0.13), (7500, -0.64)),
        *((9000, -0.87), (11000, -1.10)),
    ),
    "star_forming": (
        *((912, -0.35), (3500, 0.53), (3650, 0.50), (4000, 0.15), (5500, 0.00), (7500, -0.14)),
        *((11000, -0.25),),
    ),
}
_LYMAN_LIMIT_ANGSTROM = 911.75
# Wavelength and coefficient of Lyman alpha, beta, gamma and delta.
_LYMAN_LINES = ((1215.67, 0.0036), (1025.72, 0.0017), (972.54, 0.0012), (949.74, 0.00093))
# A galaxy that has dropped out of a band is fainter there by this much, not by infinity.
_DROPPED_OUT_MAG = 8.0
_R_V = 4.05
_SAMPLES = 240

REDSHIFTS = np.concatenate([np.arange(0, 2, 0.02), np.arange(2, 6.01, 0.05)])
REDDENINGS = np.array([0.0, 0.1, 0.2, 0.4, 0.8])


def transmission(band: str, wavelength_angstrom: Floats) -> Floats:
    """Transmission of a filter, 0 to 1."""
    return np.interp(wavelength_angstrom, FILTER_EDGES_ANGSTROM[band], (0.0, 1.0, 1.0, 0.0))


def dust_attenuation_mag(rest_angstrom: Floats) -> Floats:
    """Attenuation k(lambda) of a starburst for E(B-V) = 1 (Calzetti et al. 2000, eq. 4)."""
    inverse_um = 1e4 / np.clip(rest_angstrom, 1200, 22000)
    blue = 2.659 * (-2.156 + inverse_um * (1.509 + inverse_um * (-0.198 + inverse_um * 0.011)))
    red = 2.659 * (-1.857 + 1.040 * inverse_um)
    result: Floats = np.maximum(np.where(inverse_um > 1 / 0.63, blue, red) + _R_V, 0.0)
    return result


def intergalactic_transmission(observed_angstrom: Floats, z: float) -> Floats:
    """Mean share of light that intergalactic hydrogen lets through (Madau 1995)."""
    depth = np.zeros_like(observed_angstrom)
    for line, coefficient in _LYMAN_LINES:
        behind = observed_angstrom < line * (1 + z)
        depth += np.where(behind, coefficient * (observed_angstrom / line) ** 3.46, 0.0)
    through = np.exp(-depth)
    return np.where(observed_angstrom < _LYMAN_LIMIT_ANGSTROM * (1 + z), 0.0, through)


def magnitude(sed: SedName, band: str, z: Floats, reddening: float = 0.0) -> Floats:
    """AB magnitude in a band, up to a constant of the template.

    Parameters
    ----------
    sed : name of the template
    band : one of `FILTER_EDGES_ANGSTROM`
    z : redshifts, (Z,)
    reddening : E(B-V) of the galaxy's own dust

    Returns
    -------
    mag : (Z,)
    """
    edges = FILTER_EDGES_ANGSTROM[band]
    observed = np.linspace(edges[0], edges[-1], _SAMPLES)
    rest = observed / (1 + z[:, None])
    at, mag = np.array(_NODES[sed]).T
    mag_rest = np.interp(np.log(rest), np.log(at), mag) + reddening * dust_attenuation_mag(rest)
    through = np.stack([intergalactic_transmission(observed, one) for one in z.tolist()])
    # An AB magnitude weighs f_nu by photons: d nu / nu = d lambda / lambda.
    weight = transmission(band, observed) / observed
    mean = (10 ** (-0.4 * mag_rest) * through * weight).sum(axis=1) / weight.sum()
    faintest = mag_rest.min(axis=1) + 2 * _DROPPED_OUT_MAG
    result: Floats = -2.5 * np.log10(np.maximum(mean, 10 ** (-0.4 * faintest)))
    return result


@functools.cache
def _magnitudes(sed: SedName, band: str) -> Floats:
    """Magnitudes on the grid of `REDSHIFTS` and `REDDENINGS`, (Z, E)."""
    columns = [magnitude(sed, band, REDSHIFTS, reddening) for reddening in REDDENINGS.tolist()]
    return np.stack(columns, axis=1)


@functools.cache
def colour_minus_r(sed: SedName, band: str) -> Floats:
    """Colour m_band - m_r on the grid of `REDSHIFTS` and `REDDENINGS`, (Z, E)."""
    difference = _magnitudes(sed, band) - _magnitudes(sed, "r")
    return np.clip(difference, -_DROPPED_OUT_MAG, _DROPPED_OUT_MAG)


def k_correction_r(sed: SedName) -> Floats:
    """K-correction in r on the grid of `REDSHIFTS`, (Z,): m_r = M_r + distance modulus + K."""
    mag = _magnitudes(sed, "r")[:, 0]
    result: Floats = mag - mag[0] - 2.5 * np.log10(1 + REDSHIFTS)
    return result
