"""Deflection, Hessian and images of an elliptical power law with external shear.

Batched torch, any floating dtype. Every function broadcasts its arguments, so a batch of N lenses
is given as tensors of shape (N, 1, 1) against a grid of shape (N, Y, X) or (Y, X).

Conventions: ``theta_e_arcsec`` is circularised (the Einstein ellipse has semi-axes theta_e/sqrt(q)
and theta_e*sqrt(q)), angles are in radians counter-clockwise from +x, and positions are relative
to the centre of the lens. ``slope`` is minus the logarithmic slope of the density in three
dimensions: 2 is isothermal, and so is None, which takes the isothermal ellipsoid's closed form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Below this 1 - q**2 the closed form is evaluated at a tiny ellipticity instead: it stays finite,
# and differs from the circular limit by less than 1e-10, under the rounding of either dtype.
_MIN_SQUARED_ECCENTRICITY = 1e-10
# Most terms of the power law's series: enough for float64 at an axis ratio of 0.1.
_MAX_TERMS = 180
# Images are looked for on a grid of so many points along a side and so many Einstein radii from the
# centre; the best few of these are polished in so many steps.
N_GRID, HALF_WIDTH, MOST_IMAGES, N_NEWTON = 48, 2.5, 8, 12


def sie_deflection(
    x: Tensor, y: Tensor, theta_e_arcsec: Tensor, q: Tensor, phi_rad: Tensor
) -> tuple[Tensor, Tensor]:
    """Deflection of a singular isothermal ellipsoid.

    kappa = theta_e / (2 sqrt(q x'^2 + y'^2 / q)) in the frame of the major axis. Kormann, Schneider
    & Bartelmann 1994 (A&A 284, 285) eq. 27a in the form of Keeton 2001 (astro-ph/0102341) eq. 34
    without a core; equal to Tessore & Metcalf 2015 (A&A 580, A79) at slope t = 1.

    Parameters
    ----------
    x, y : position relative to the lens, arcsec
    theta_e_arcsec : circularised Einstein radius, > 0
    q : minor-to-major axis ratio, in (0, 1]
    phi_rad : angle of the major axis, counter-clockwise from +x

    Returns
    -------
    alpha_x, alpha_y : deflection in arcsec
    """
    cos, sin = torch.cos(phi_rad), torch.sin(phi_rad)
    scale, major, minor = _isothermal(x, y, theta_e_arcsec, q, cos, sin)
    c, s = scale * cos, scale * sin
    return c * major - s * minor, s * major + c * minor


def _isothermal(
    x: Tensor, y: Tensor, theta_e_arcsec: Tensor, q: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale of the deflection, and its components along both axes in units of that.

    Every step that can be is done in place: rays are many, and memory is slower than arithmetic.
    """
    eccentricity = torch.sqrt(torch.clamp((1 - q) * (1 + q), min=_MIN_SQUARED_ECCENTRICITY))
    x_major, y_minor = _sum(q * cos, x, q * sin, y), _sum(-sin, x, cos, y)
    # At the very centre the deflection has no direction; the guard makes it zero, not NaN.
    per_psi = torch.addcmul(x_major * x_major, y_minor, y_minor)
    per_psi.clamp_(min=torch.finfo(x.dtype).tiny).rsqrt_().mul_(eccentricity)
    major = x_major.mul_(per_psi).mul_(1 / q).atan_()
    # The inverse hyperbolic tangent, in a third of the time that torch.atanh takes.
    t = y_minor * per_psi
    size = torch.abs(t, out=per_psi)
    minor = (2 * size).div_(size.neg_().add_(1)).log1p_().mul_(0.5).copysign_(t)
    return theta_e_arcsec * torch.sqrt(q) / eccentricity, major, minor


def _sum(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Return a x + b y, in as few passes as the shapes allow."""
    first = a * x
    return first.addcmul_(b, y) if first.shape == y.shape else first + b * y


def sie_hessian(
    x: Tensor, y: Tensor, theta_e_arcsec: Tensor, q: Tensor, phi_rad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Second derivatives (xx, yy, xy) of the potential of a singular isothermal ellipsoid.

    The potential is homogeneous of degree one, so its Hessian has no radial part and its trace is
    2 kappa: H = 2 kappa (I - r r^T / r^2) (Kormann et al. 1994, section 2).

    Parameters and conventions as in `sie_deflection`; the results have no unit.
    """
    cos, sin = torch.cos(phi_rad), torch.sin(phi_rad)
    psi = torch.sqrt((q * (cos * x + sin * y)) ** 2 + (cos * y - sin * x) ** 2)
    tiny = torch.finfo(x.dtype).tiny
    two_kappa = theta_e_arcsec * torch.sqrt(q) / psi.clamp(min=tiny)
    r2 = (x**2 + y**2).clamp(min=tiny)
    return two_kappa * y**2 / r2, two_kappa * x**2 / r2, -two_kappa * x * y / r2


def epl_deflection(
    x: Tensor, y: Tensor, theta_e_arcsec: Tensor, q: Tensor, phi_rad: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Deflection of an elliptical power law.

    kappa = (2 - t) / 2 (theta_e / rho)^t with t = slope - 1 and rho^2 = q x'^2 + y'^2 / q. The
    series of Tessore & Metcalf 2015 (A&A 580, A79) about the circle, whose terms
    shrink by (1 - q) / (1 + q); it is cut where they reach the rounding of the dtype for the
    flattest lens of the batch.

    Parameters
    ----------
    x, y, theta_e_arcsec, q, phi_rad : as in `sie_deflection`
    slope : in (1, 3)

    Returns
    -------
    alpha_x, alpha_y : deflection in arcsec
    """
    cos, sin = torch.cos(phi_rad), torch.sin(phi_rad)
    x_major, y_minor = q * (cos * x + sin * y), cos * y - sin * x
    tiny = torch.finfo(x.dtype).tiny
    radius = torch.sqrt(x_major**2 + y_minor**2).clamp(min=tiny)
    c, s = x_major / radius, y_minor / radius
    flattening, t = (1 - q) / (1 + q), slope - 1
    step_c, step_s = -flattening * (c * c - s * s), -2 * flattening * c * s
    largest = min(max(float(flattening.max()), 1e-3), 0.999)
    terms = math.ceil(math.log(torch.finfo(x.dtype).eps / 4) / math.log(largest))
    # Horner's scheme of sum_k a_k w^k with a_k / a_(k-1) = (2 k - 2 + t) / (2 k + 2 - t).
    sum_c, sum_s = torch.ones_like(radius), torch.zeros_like(radius)
    for k in range(min(terms, _MAX_TERMS), 0, -1):
        ratio = (2 * k - 2 + t) / (2 * k + 2 - t)
        product_c = step_c * sum_c - step_s * sum_s
        sum_s = ratio * (step_c * sum_s + step_s * sum_c)
        sum_c = 1 + ratio * product_c
    b = theta_e_arcsec * torch.sqrt(q)
    # At the very centre a cusp steeper than isothermal would give infinity times no direction.
    scale = 2 * b / (1 + q) * torch.exp((1 - t) * torch.log(radius.clamp(min=1e-9) / b))
    alpha_major = scale * (c * sum_c - s * sum_s)
    alpha_minor = scale * (c * sum_s + s * sum_c)
    return cos * alpha_major - sin * alpha_minor, sin * alpha_major + cos * alpha_minor


def epl_hessian(
    x: Tensor, y: Tensor, theta_e_arcsec: Tensor, q: Tensor, phi_rad: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Second derivatives (xx, yy, xy) of the potential of an elliptical power law.

    The deflection is homogeneous of degree 1 - t (Euler: H r = (1 - t) alpha), and the trace is
    2 kappa; together they fix the three components. Parameters as in `epl_deflection`.
    """
    t = slope - 1
    alpha_x, alpha_y = epl_deflection(x, y, theta_e_arcsec, q, phi_rad, slope)
    tiny = torch.finfo(x.dtype).tiny
    r2 = (x**2 + y**2).clamp(min=tiny)
    cos, sin = torch.cos(phi_rad), torch.sin(phi_rad)
    rho = torch.sqrt(q * (cos * x + sin * y) ** 2 + (cos * y - sin * x) ** 2 / q).clamp(min=tiny)
    two_kappa = (2 - t) * torch.exp(t * torch.log(theta_e_arcsec / rho))
    h_rr = (1 - t) * (alpha_x * x + alpha_y * y) / r2
    h_rt = (1 - t) * (alpha_y * x - alpha_x * y) / r2
    h_tt = two_kappa - h_rr
    xx, yy, xy = x**2 / r2, y**2 / r2, x * y / r2
    return (
        h_rr * xx - 2 * h_rt * xy + h_tt * yy,
        h_rr * yy + 2 * h_rt * xy + h_tt * xx,
        (h_rr - h_tt) * xy + h_rt * (xx - yy),
    )


def shear_components(shear: Tensor, phi_rad: Tensor) -> tuple[Tensor, Tensor]:
    """(gamma_1, gamma_2) of an external shear of strength `shear` whose axis stands at `phi_rad`.

    Images are stretched along `phi_rad`: alpha = (g1 x + g2 y, g2 x - g1 y).
    """
    return shear * torch.cos(2 * phi_rad), shear * torch.sin(2 * phi_rad)


def ray_shoot(
    x: Tensor,
    y: Tensor,
    theta_e_arcsec: Tensor,
    q: Tensor,
    phi_rad: Tensor,
    shear: Tensor,
    shear_phi_rad: Tensor,
    slope: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Source-plane position of image-plane positions behind a power law with external shear.

    Parameters
    ----------
    x, y : image-plane position relative to the lens, arcsec
    theta_e_arcsec, q, phi_rad : of the SIE, as in `sie_deflection`
    shear : strength of the external shear, in [0, 1)
    shear_phi_rad : direction in which the shear stretches images
    slope : of the density, as in `epl_deflection`; None: isothermal

    Returns
    -------
    beta_x, beta_y : source-plane position, arcsec
    """
    g1, g2 = shear_components(shear, shear_phi_rad)
    beta_x, beta_y = _sum(1 - g1, x, -g2, y), _sum(-g2, x, 1 + g1, y)
    if slope is not None:
        alpha_x, alpha_y = epl_deflection(x, y, theta_e_arcsec, q, phi_rad, slope)
        return beta_x - alpha_x, beta_y - alpha_y
    cos, sin = torch.cos(phi_rad), torch.sin(phi_rad)
    scale, major, minor = _isothermal(x, y, theta_e_arcsec, q, cos, sin)
    c, s = scale * cos, scale * sin
    # The lens may be of more dimensions than shear and rays.
    beta_x = torch.addcmul(beta_x, major, c, value=-1).addcmul_(minor, s)
    beta_y = torch.addcmul(beta_y, major, s, value=-1).addcmul_(minor, c, value=-1)
    return beta_x, beta_y


def inverse_magnification(
    x: Tensor,
    y: Tensor,
    theta_e_arcsec: Tensor,
    q: Tensor,
    phi_rad: Tensor,
    shear: Tensor,
    shear_phi_rad: Tensor,
    slope: Tensor | None = None,
) -> Tensor:
    """det(d beta / d theta); 1/mu, signed by parity. Parameters as in `ray_shoot`."""
    a_xx, a_yy, a_xy = _jacobian(x, y, theta_e_arcsec, q, phi_rad, shear, shear_phi_rad, slope)
    return a_xx * a_yy - a_xy**2


def _jacobian(
    x: Tensor,
    y: Tensor,
    theta_e_arcsec: Tensor,
    q: Tensor,
    phi_rad: Tensor,
    shear: Tensor,
    shear_phi_rad: Tensor,
    slope: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    if slope is None:
        h_xx, h_yy, h_xy = sie_hessian(x, y, theta_e_arcsec, q, phi_rad)
    else:
        h_xx, h_yy, h_xy = epl_hessian(x, y, theta_e_arcsec, q, phi_rad, slope)
    g1, g2 = shear_components(shear, shear_phi_rad)
    return 1 - h_xx - g1, 1 - h_yy + g1, -h_xy - g2


def image_separation(
    beta_x: Tensor,
    beta_y: Tensor,
    theta_e_arcsec: Tensor,
    q: Tensor,
    phi_rad: Tensor,
    shear: Tensor,
    shear_phi_rad: Tensor,
    slope: Tensor | None = None,
    n_grid: int = N_GRID,
    n_newton: int = N_NEWTON,
    max_images: int = MOST_IMAGES,
) -> Tensor:
    """Largest distance between two images of a point source, in arcsec.

    Candidates are the local minima of |beta(theta) - beta_source|^2 on a grid of half-width
    2.5 theta_e, polished by damped Newton steps; those that don't converge are no images.

    Parameters
    ----------
    beta_x, beta_y : source position, arcsec, shape (N,)
    theta_e_arcsec, q, phi_rad, shear, shear_phi_rad, slope : of the lens, shape (N,)

    Returns
    -------
    separation : shape (N,), arcsec, good to 1e-4 of theta_e; NaN where there are fewer than two
        images, or where a source on the caustic keeps the steps from converging
    """
    given = (theta_e_arcsec, q, phi_rad, shear, shear_phi_rad, slope)
    lens = [p[:, None] for p in given if p is not None]
    lens_grid = [p[:, :, None] for p in lens]
    # An even number of points keeps the grid off the centre, where the deflection is undefined.
    axis = torch.linspace(-HALF_WIDTH, HALF_WIDTH, n_grid, dtype=beta_x.dtype)
    x_grid = lens_grid[0] * axis[None, None, :]
    y_grid = lens_grid[0] * axis[None, :, None]
    bx, by = ray_shoot(x_grid, y_grid, *lens_grid)
    miss2 = (bx - beta_x[:, None, None]) ** 2 + (by - beta_y[:, None, None]) ** 2
    lowest = -torch.nn.functional.max_pool2d(-miss2[:, None], 3, stride=1, padding=1)[:, 0]
    ranked = torch.where(miss2 <= lowest, miss2, torch.inf).flatten(1)
    best, index = torch.topk(ranked, max_images, dim=1, largest=False)
    x = lens[0] * axis[index % n_grid]
    y = lens[0] * axis[torch.div(index, n_grid, rounding_mode="floor")]
    step_limit = 0.2 * lens[0]
    for _ in range(n_newton):
        bx, by = ray_shoot(x, y, *lens)
        rx, ry = bx - beta_x[:, None], by - beta_y[:, None]
        a_xx, a_yy, a_xy = _jacobian(x, y, *lens)
        det = a_xx * a_yy - a_xy**2
        det = torch.where(det.abs() < 1e-6, torch.full_like(det, 1e-6), det)
        x = x - torch.clamp((a_yy * rx - a_xy * ry) / det, -step_limit, step_limit)
        y = y - torch.clamp((a_xx * ry - a_xy * rx) / det, -step_limit, step_limit)
    bx, by = ray_shoot(x, y, *lens)
    miss = torch.hypot(bx - beta_x[:, None], by - beta_y[:, None])
    found = torch.isfinite(best) & (miss < 1e-4 * lens[0])
    distance = torch.hypot(x[:, :, None] - x[:, None, :], y[:, :, None] - y[:, None, :])
    distance = torch.where(found[:, :, None] & found[:, None, :], distance, torch.nan)
    largest = torch.nan_to_num(distance, nan=-1.0).flatten(1).max(dim=1).values
    # Two candidates may have run to one image: a separation this small is not two images.
    return torch.where(largest > 0.05 * theta_e_arcsec, largest, torch.nan)
