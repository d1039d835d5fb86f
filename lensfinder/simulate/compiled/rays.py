"""Rays through a lens, as `lensing.ray_shoot` has them."""

from __future__ import annotations

import math

import numpy as np
import torch

from lensfinder.simulate.compiled.jit import kernel
from lensfinder.simulate.compiled.maths import Array, atan_of, exp2, f32, log1p, log2, u64
from lensfinder.simulate.grid import Columns

_ONE, _TWO, _HALF = f32(1), f32(2), f32(0.5)
_MIN_SQUARED_ECCENTRICITY = f32(1e-10)  # as in `lensing`
_TINY = f32(np.finfo(np.float32).tiny)
_CENTRE = f32(1e-9)
_EPS = math.log(np.finfo(np.float32).eps / 4)
_MAX_TERMS = 180


def lenses(c: Columns) -> Array:
    """What R lenses are, and where their sources lie, (R, 8), for `shoot`."""
    columns = (
        c["theta_e_arcsec"],
        c["q_lens"],
        c.phi("pa_lens_deg"),
        c["shear"],
        c.phi("pa_shear_deg"),
        c.get("lens_slope", 2.0),
        c["source_x_arcsec"],
        c["source_y_arcsec"],
    )
    table: Array = torch.stack(columns, dim=1).numpy()
    return table


@kernel
def shoot(x: Array, y: Array, beta_x: Array, beta_y: Array, lens_8: Array) -> None:
    """Write where rays at (x, y) from a lens end, relative to the source's centre.

    Parameters
    ----------
    x, y, beta_x, beta_y : one-dimensional, of one length, arcsec
    lens_8 : of `lenses`
    """
    if lens_8[5] == _TWO:
        _through_isothermal(x, y, beta_x, beta_y, lens_8)
    else:
        _through_power_law(x, y, beta_x, beta_y, lens_8)


@kernel
def _through_isothermal(x: Array, y: Array, beta_x: Array, beta_y: Array, lens_8: Array) -> None:
    """With the deflection of `lensing.sie_deflection`."""
    theta_e, q, phi, shear, shear_phi, _, source_x, source_y = lens_8
    g1, g2 = shear * np.cos(_TWO * shear_phi), shear * np.sin(_TWO * shear_phi)
    cos, sin = np.cos(phi), np.sin(phi)
    eccentricity = np.sqrt(max((_ONE - q) * (_ONE + q), _MIN_SQUARED_ECCENTRICITY))
    scale = theta_e * np.sqrt(q) / eccentricity
    c, s = scale * cos, scale * sin
    for i in range(u64(len(x))):
        x_major = q * (cos * x[i] + sin * y[i])
        y_minor = cos * y[i] - sin * x[i]
        psi = np.sqrt(max(x_major * x_major + y_minor * y_minor, _TINY))
        major = atan_of(eccentricity * x_major, q * psi)
        t = eccentricity * abs(y_minor) / psi
        size = _HALF * log1p(_TWO * t / (_ONE - t))
        minor = size if y_minor > 0 else -size
        beta_x[i] = (_ONE - g1) * x[i] - g2 * y[i] - source_x - (c * major - s * minor)
        beta_y[i] = (_ONE + g1) * y[i] - g2 * x[i] - source_y - (s * major + c * minor)


@kernel
def _through_power_law(x: Array, y: Array, beta_x: Array, beta_y: Array, lens_8: Array) -> None:
    """With the deflection of `lensing.epl_deflection`."""
    theta_e, q, phi, shear, shear_phi, slope, source_x, source_y = lens_8
    g1, g2 = shear * np.cos(_TWO * shear_phi), shear * np.sin(_TWO * shear_phi)
    t = slope - _ONE
    cos, sin = np.cos(phi), np.sin(phi)
    flattening = (_ONE - q) / (_ONE + q)
    terms = math.ceil(_EPS / math.log(min(max(flattening, 1e-3), 0.999)))
    b = theta_e * np.sqrt(q)
    scale = _TWO * b / (_ONE + q)
    count = len(x)
    sum_c, sum_s = np.ones(count, np.float32), np.zeros(count, np.float32)
    step_c, step_s = np.empty(count, np.float32), np.empty(count, np.float32)
    for i in range(u64(count)):
        x_major, y_minor = q * (cos * x[i] + sin * y[i]), cos * y[i] - sin * x[i]
        r2 = max(x_major * x_major + y_minor * y_minor, _TINY)
        step_c[i] = -flattening * (x_major * x_major - y_minor * y_minor) / r2
        step_s[i] = -_TWO * flattening * x_major * y_minor / r2
    for k in range(min(terms, _MAX_TERMS), 0, -1):
        twice = f32(2 * k)
        ratio = (twice - _TWO + t) / (twice + _TWO - t)
        for i in range(u64(count)):
            product_c = step_c[i] * sum_c[i] - step_s[i] * sum_s[i]
            sum_s[i] = ratio * (step_c[i] * sum_s[i] + step_s[i] * sum_c[i])
            sum_c[i] = _ONE + ratio * product_c
    for i in range(u64(count)):
        x_major, y_minor = q * (cos * x[i] + sin * y[i]), cos * y[i] - sin * x[i]
        radius = np.sqrt(max(x_major * x_major + y_minor * y_minor, _TINY))
        direction_c, direction_s = x_major / radius, y_minor / radius
        size = scale * exp2((_ONE - t) * log2(max(radius, _CENTRE) / b))
        major = size * (direction_c * sum_c[i] - direction_s * sum_s[i])
        minor = size * (direction_c * sum_s[i] + direction_s * sum_c[i])
        bent_x, bent_y = cos * major - sin * minor, sin * major + cos * minor
        beta_x[i] = (_ONE - g1) * x[i] - g2 * y[i] - source_x - bent_x
        beta_y[i] = (_ONE + g1) * y[i] - g2 * x[i] - source_y - bent_y
