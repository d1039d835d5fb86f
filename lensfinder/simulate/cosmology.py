"""Distances in a flat LCDM universe (H0 = 70 km/s/Mpc, Omega_m = 0.3), tabulated once.

astropy.cosmology takes about a millisecond for one distance, which is what a whole mock may cost.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

HUBBLE_KM_S_MPC = 70.0
OMEGA_M = 0.3
Z_MAX = 10.0
SPEED_OF_LIGHT_KM_S = 299792.458
ARCSEC_PER_RAD = 180 * 3600 / math.pi


@functools.cache
def table() -> tuple[np.ndarray, np.ndarray]:
    """Redshift and comoving distance in Mpc (Simpson's rule on each step; 1e-9 relative)."""
    z = np.linspace(0, Z_MAX, 20001)
    step = z[1] - z[0]

    def inverse_e(redshift: np.ndarray) -> np.ndarray:
        e: np.ndarray = np.sqrt(OMEGA_M * (1 + redshift) ** 3 + 1 - OMEGA_M)
        return 1 / e

    slices = (inverse_e(z[:-1]) + 4 * inverse_e(z[:-1] + step / 2) + inverse_e(z[1:])) * step / 6
    distance = np.concatenate([[0.0], np.cumsum(slices)])
    return z, distance * SPEED_OF_LIGHT_KM_S / HUBBLE_KM_S_MPC


def comoving_distance_mpc(z: float) -> float:
    """Line-of-sight comoving distance in Mpc, for 0 <= z <= 10.

    Linear between table points, which is good to 1e-6 from z = 0.02 on, and to 1e-4 Mpc below.
    """
    table_z, table_mpc = table()
    # By hand, since np.interp on one number costs more than everything else here.
    position = z / (table_z[1] - table_z[0])
    low = min(int(position), len(table_z) - 2)
    fraction = position - low
    return float(table_mpc[low] * (1 - fraction) + table_mpc[low + 1] * fraction)


def kpc_per_arcsec(z: float) -> float:
    """Transverse size of an arcsec at redshift z, in proper kpc."""
    return comoving_distance_mpc(z) / (1 + z) * 1e3 / ARCSEC_PER_RAD


def distance_modulus(z: float) -> float:
    """Apparent minus absolute magnitude, without K-correction."""
    return 5 * math.log10(comoving_distance_mpc(z) * (1 + z)) + 25


def einstein_radius_arcsec(
    sigma_v_km_s: npt.NDArray[np.float64], d_ls_over_d_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Einstein radius of an SIE, theta_E = 4 pi (sigma / c)^2 D_ls / D_s (Kormann et al. 1994)."""
    return 4 * math.pi * (sigma_v_km_s / SPEED_OF_LIGHT_KM_S) ** 2 * d_ls_over_d_s * ARCSEC_PER_RAD


def theta_e_arcsec(sigma_v_km_s: float, z_lens: float, z_source: float) -> float:
    """Einstein radius of the SIE with this velocity dispersion."""
    ratio = 1 - comoving_distance_mpc(z_lens) / comoving_distance_mpc(z_source)
    return float(4 * math.pi * (sigma_v_km_s / SPEED_OF_LIGHT_KM_S) ** 2 * ratio * ARCSEC_PER_RAD)


def sigma_v_km_s(theta_e_arcsec: float, z_lens: float, z_source: float) -> float:
    """Velocity dispersion of the SIE with this Einstein radius.

    Inverse of theta_E = 4 pi (sigma / c)^2 D_ls / D_s (Kormann et al. 1994, eq. 15); in a flat
    universe D_ls / D_s = 1 - chi_l / chi_s.
    """
    ratio = 1 - comoving_distance_mpc(z_lens) / comoving_distance_mpc(z_source)
    theta_e_rad = theta_e_arcsec / ARCSEC_PER_RAD
    return SPEED_OF_LIGHT_KM_S * math.sqrt(theta_e_rad / (4 * math.pi * ratio))
