"""Surface brightness of galaxies: Sersic profiles, and the structure that hard negatives need.

Batched torch, any floating dtype; arguments broadcast, so N galaxies are tensors of shape
(N, 1, 1) against a grid of shape (N, Y, X). Profiles of unit total flux, in arcsec**-2. Radii are
circularised (sqrt(a b)), angles in radians counter-clockwise from +x, positions relative to the
centre of the object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Profiles level out here, 1e-22 of the peak: further out they would be denormal numbers, on which
# a CPU is ten times slower.
_FAINTEST_EXPONENT = 50.0

# See `elliptical_form` and `sersic_terms`.
Form = tuple[Tensor, Tensor, Tensor]
Terms = tuple[Tensor, Tensor, Tensor]


def sersic_b(n: Tensor) -> Tensor:
    """b_n for which r_e holds half of the light.

    Ciotti & Bertin 1999 (A&A 352, 447) eq. 18; right to 4e-4 for n >= 0.5 and to 3e-5 for
    n >= 1.
    """
    return (
        2 * n
        - 1 / 3
        + 4 / (405 * n)
        + 46 / (25515 * n**2)
        + 131 / (1148175 * n**3)
        - 2194697 / (30690717750 * n**4)
    )


def elliptical_form(q: Tensor, phi_rad: Tensor) -> Form:
    """Coefficients of x^2, x y and y^2 in the square of the circularised elliptical radius.

    Parameters
    ----------
    q : minor-to-major axis ratio, in (0, 1]
    phi_rad : angle of the major axis, counter-clockwise from +x
    """
    cos, sin = torch.cos(phi_rad), torch.sin(phi_rad)
    xx = q * cos.square() + sin.square() / q
    yy = q * sin.square() + cos.square() / q
    return xx, 2 * sin * cos * (q - 1 / q), yy


def form_at(x: Tensor, y: Tensor, form: Form) -> Tensor:
    """The square of the circularised elliptical radius, in the unit of x squared."""
    xx, xy, yy = form
    # In this order a grid given as a row x and a column y costs three operations on the grid.
    return (xx * x + xy * y).mul_(x).add_(yy * y.square())


def squared_elliptical_radius(x: Tensor, y: Tensor, q: Tensor, phi_rad: Tensor) -> Tensor:
    """Square of the circularised elliptical radius, q x'^2 + y'^2 / q, in the unit of x squared.

    Parameters
    ----------
    x, y : position relative to the centre
    q, phi_rad : as in `elliptical_form`
    """
    return form_at(x, y, elliptical_form(q, phi_rad))


def sersic(
    x: Tensor, y: Tensor, r_e_arcsec: Tensor, n: Tensor, q: Tensor, phi_rad: Tensor
) -> Tensor:
    """Sersic profile of unit total flux (Graham & Driver 2005, PASA 22, 118, eq. 1 and 4).

    Parameters
    ----------
    x, y : position relative to the centre, arcsec
    r_e_arcsec : circularised half-light radius, > 0
    n : Sersic index, >= 0.5
    q, phi_rad : as in `elliptical_form`

    Returns
    -------
    brightness : arcsec**-2; its integral over the plane is 1
    """
    return sersic_of(squared_elliptical_radius(x, y, q, phi_rad), sersic_terms(r_e_arcsec, n))


def sersic_terms(r_e_arcsec: Tensor, n: Tensor) -> Terms:
    """What a profile of unit flux needs beside the radius, for `sersic_of`.

    b (r / r_e)^(1/n) is exp(shrink + power ln r^2), and the brightness exp(log_centre - that).
    """
    b = sersic_b(n)
    log_flux = math.log(2 * math.pi) + torch.log(n) + 2 * torch.log(r_e_arcsec)
    log_flux = log_flux - 2 * n * torch.log(b) + torch.lgamma(2 * n)
    return torch.log(b) - torch.log(r_e_arcsec) / n, 0.5 / n, -log_flux


def sersic_of(radius2: Tensor, terms: Terms, area_arcsec2: float = 1.0) -> Tensor:
    """Flux in an area at squared circularised elliptical radii, arcsec^2."""
    shrink, power, log_centre = terms
    # Rounding may leave r^2 below zero at the centre.
    scaled = torch.addcmul(shrink, radius2.clamp(min=0).log_(), power)
    scaled.exp_().clamp_(max=_FAINTEST_EXPONENT)
    return torch.sub(log_centre + math.log(area_arcsec2), scaled, out=scaled).exp_()


class Wave(NamedTuple):
    """Amplitudes of a wave round a ring, and where it has its crest.

    Attributes
    ----------
    of_radius : relative to the radius
    of_width, of_brightness : of their natural logarithms
    phase_rad : of the wave
    """

    of_radius: Tensor
    of_width: Tensor
    of_brightness: Tensor
    phase_rad: Tensor


def ring(
    x: Tensor,
    y: Tensor,
    radius_arcsec: Tensor,
    width_arcsec: Tensor,
    q: Tensor,
    phi_rad: Tensor,
    lopsidedness: Tensor,
    knot_contrast: Tensor,
    knot_count: Tensor,
    knot_phase_rad: Tensor,
    uneven: Sequence[Wave] = (),
) -> Tensor:
    """A star-forming ring: a Gaussian annulus, brighter on one side and beaded with knots.

    Parameters
    ----------
    radius_arcsec, width_arcsec : circularised radius and Gaussian sigma of the annulus
    q, phi_rad : as in `squared_elliptical_radius`
    lopsidedness, knot_contrast : amplitudes of the m = 1 and m = knot_count modulation, in [0, 1]
    knot_phase_rad : azimuth of the brightest side
    uneven : waves round the ring that change its radius and width, and what it shines

    Returns
    -------
    brightness : arcsec**-2, of about unit flux where the width is small against the radius
    """
    radius = torch.sqrt(squared_elliptical_radius(x, y, q, phi_rad).clamp(min=0))
    azimuth = _disc_azimuth(x, y, q, phi_rad) - knot_phase_rad
    stretch, widening, brightening = (torch.zeros_like(azimuth) for _ in range(3))
    for number, wave in enumerate(uneven, start=1):
        angle = number * azimuth + wave.phase_rad
        cos = torch.cos(angle)
        stretch += wave.of_radius * cos
        widening += wave.of_width * cos
        brightening += wave.of_brightness * cos
    from_ridge = (radius - radius_arcsec * (1 + stretch)) / (width_arcsec * torch.exp(widening))
    annulus = torch.exp(brightening - (from_ridge.square() / 2).clamp(max=_FAINTEST_EXPONENT))
    norm: Tensor = (2 * math.pi) ** 1.5 * radius_arcsec * width_arcsec
    modulation = 1 + lopsidedness * torch.cos(azimuth)
    knots: Tensor = 1 + knot_contrast * torch.cos(knot_count * azimuth)
    return annulus * modulation * knots / norm


def spiral_arms(
    x: Tensor,
    y: Tensor,
    r_e_arcsec: Tensor,
    q: Tensor,
    phi_rad: Tensor,
    arm_count: Tensor,
    pitch_rad: Tensor,
    phase_rad: Tensor,
    sharpness: Tensor,
) -> Tensor:
    """Logarithmic spiral arms on an exponential disc.

    The disc times exp(sharpness (cos(m (azimuth - ln r / tan pitch - phase)) - 1)), faded inside
    0.6 r_e where the bulge or a bar reigns. Arms are bright ridges on zero, so that they can have
    a colour of their own; they are not normalised (see `render`, which divides by their sum).

    Parameters
    ----------
    r_e_arcsec, q, phi_rad : half-light radius and orientation of the disc
    arm_count : number of arms m
    pitch_rad : pitch angle, in (0, pi/2); negative winds the other way
    phase_rad : azimuth of an arm at r = r_e
    sharpness : >= 0; 0 is an unmodulated disc
    """
    radius = torch.sqrt(squared_elliptical_radius(x, y, q, phi_rad).clamp(min=0)) / r_e_arcsec
    winding = torch.log(radius.clamp(min=1e-3)) / torch.tan(pitch_rad)
    angle = arm_count * (_disc_azimuth(x, y, q, phi_rad) - winding - phase_rad)
    ridge = torch.exp(sharpness * (torch.cos(angle) - 1))
    inner_fade = 1 - torch.exp(-((radius / 0.6) ** 4))
    return ridge * inner_fade * torch.exp(-1.678 * radius)


def _disc_azimuth(x: Tensor, y: Tensor, q: Tensor, phi_rad: Tensor) -> Tensor:
    """Azimuth in the plane of a disc that is seen inclined with axis ratio q."""
    cos, sin = torch.cos(phi_rad), torch.sin(phi_rad)
    return torch.atan2((cos * y - sin * x) / q, cos * x + sin * y)
