"""Deflection, magnification and images of an SIE with shear: an oracle, and laws without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.Util.param_util import phi_q2_ellipticity

from lensfinder.simulate import lensing

PARAMETERS = st.tuples(
    st.floats(0.3, 4),  # theta_e_arcsec
    st.floats(0.2, 1),  # q
    st.floats(0, np.pi),  # phi
    st.floats(0, 0.3),  # shear
    st.floats(0, np.pi),  # direction of the shear
)


def tensors(*values: float, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.tensor(v, dtype=dtype) for v in values]


def grid(half: float = 6.0, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.linspace(-half, half, n, dtype=torch.float64)
    return axis[None, :].expand(n, n), axis[:, None].expand(n, n)


def systems(count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    low, high = (0.5, 0.25, 0, 0, 0), (3.0, 0.99, np.pi, 0.2, np.pi)
    return rng.uniform(low, high, (count, 5))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_deflection_agrees_with_lenstronomy(dtype: torch.dtype, tolerance: float) -> None:
    oracle = LensModel(["SIE", "SHEAR"])
    x, y = grid()
    for theta_e, q, phi, shear, shear_phi in systems(40):
        parameters = tensors(theta_e, q, phi, shear, shear_phi, dtype=dtype)
        beta_x, beta_y = lensing.ray_shoot(x.to(dtype), y.to(dtype), *parameters)
        e1, e2 = phi_q2_ellipticity(phi, q)
        g1, g2 = shear * np.cos(2 * shear_phi), shear * np.sin(2 * shear_phi)
        kwargs = [
            {"theta_E": theta_e, "e1": e1, "e2": e2, "center_x": 0, "center_y": 0},
            {"gamma1": g1, "gamma2": g2, "ra_0": 0, "dec_0": 0},
        ]
        alpha_x, alpha_y = oracle.alpha(x.numpy().ravel(), y.numpy().ravel(), kwargs)
        peak = np.hypot(alpha_x, alpha_y).max()
        got = np.stack([(x - beta_x).numpy().ravel(), (y - beta_y).numpy().ravel()])
        assert np.abs(got - [alpha_x, alpha_y]).max() < tolerance * peak


def test_magnification_agrees_with_lenstronomy() -> None:
    oracle = LensModel(["EPL", "SHEAR"])  # whose Hessian is analytic
    x, y = grid()
    for theta_e, q, phi, shear, shear_phi in systems(20):
        parameters = tensors(theta_e, q, phi, shear, shear_phi)
        e1, e2 = phi_q2_ellipticity(phi, q)
        g1, g2 = shear * np.cos(2 * shear_phi), shear * np.sin(2 * shear_phi)
        kwargs = [
            {"theta_E": theta_e, "gamma": 2.0, "e1": e1, "e2": e2},
            {"gamma1": g1, "gamma2": g2},
        ]
        expected = 1 / oracle.magnification(x.numpy().ravel(), y.numpy().ravel(), kwargs)
        got = lensing.inverse_magnification(x, y, *parameters).numpy().ravel()
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_any_argument_may_be_a_batch() -> None:
    """Whichever of them has more dimensions, and what was given stays as it was."""
    single = (1.1, 0.4, 1.3, 0.6, 0.7, 0.05, 0.2)
    for batched in range(len(single)):
        given = list(tensors(*single))
        given[batched] = given[batched] * torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
        before = [value.clone() for value in given]
        bx, by = lensing.ray_shoot(*given)
        alpha_x, _ = lensing.sie_deflection(*given[:5])
        assert bx.shape == by.shape == (3,)
        assert alpha_x.shape == ((3,) if batched < 5 else ())
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
        for k in range(3):
            one = [value if value.ndim == 0 else value[k] for value in given]
            assert torch.allclose(torch.stack(lensing.ray_shoot(*one)), torch.stack([bx[k], by[k]]))


@given(PARAMETERS)
@settings(max_examples=40, deadline=None)
def test_hessian_is_the_derivative_of_the_deflection(values: tuple[float, ...]) -> None:
    theta_e, q, phi = tensors(*values[:3])
    x = torch.tensor([0.7, -1.9, 3.1], dtype=torch.float64)
    y = torch.tensor([1.1, 0.4, -2.2], dtype=torch.float64)
    h_xx, h_yy, h_xy = lensing.sie_hessian(x, y, theta_e, q, phi)

    def slope(step_x: float, step_y: float) -> torch.Tensor:
        there, here = (
            torch.stack(lensing.sie_deflection(x + k * step_x, y + k * step_y, theta_e, q, phi))
            for k in (1, -1)
        )
        return (there - here) / (2 * (step_x + step_y))

    (d_xx, d_yx), (d_xy, d_yy) = slope(1e-5, 0), slope(0, 1e-5)
    # Where q is next to one the deflection is evaluated at a tiny ellipticity.
    for got, want in ((h_xx, d_xx), (h_yy, d_yy), (h_xy, d_xy), (h_xy, d_yx)):
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-6)


@given(st.floats(0.1, 5), st.floats(0, np.pi))
@settings(max_examples=30, deadline=None)
def test_round_sie_is_an_sis(theta_e: float, phi: float) -> None:
    x, y = grid()
    alpha_x, alpha_y = lensing.sie_deflection(x, y, *tensors(theta_e, 1.0, phi))
    r = torch.hypot(x, y)
    assert torch.allclose(alpha_x, theta_e * x / r, atol=1e-9 * theta_e)
    assert torch.allclose(alpha_y, theta_e * y / r, atol=1e-9 * theta_e)


@given(PARAMETERS)
@settings(max_examples=30, deadline=None)
def test_mirror_and_rotation(values: tuple[float, ...]) -> None:
    theta_e, q, phi, shear, shear_phi = values
    x, y = grid(n=12)
    bx, by = lensing.ray_shoot(x, y, *tensors(*values))
    mirrored = tensors(theta_e, q, -phi, shear, -shear_phi)
    mx, my = lensing.ray_shoot(x, -y, *mirrored)
    assert torch.allclose(mx, bx, atol=1e-10)
    assert torch.allclose(my, -by, atol=1e-10)
    turn = 0.83
    cos, sin = np.cos(turn), np.sin(turn)
    turned = tensors(theta_e, q, phi + turn, shear, shear_phi + turn)
    rx, ry = lensing.ray_shoot(cos * x - sin * y, sin * x + cos * y, *turned)
    assert torch.allclose(rx, cos * bx - sin * by, atol=1e-10)
    assert torch.allclose(ry, sin * bx + cos * by, atol=1e-10)


def test_magnification_tends_to_one_far_out() -> None:
    far = torch.tensor([1e3, 1e5], dtype=torch.float64)
    inverse = lensing.inverse_magnification(far, far, *tensors(1.5, 0.6, 0.4, 0.0, 0.0))
    assert abs(inverse[0] - 1) < 2e-3
    assert abs(inverse[1] - 1) < 2e-5


def test_deflection_is_finite_at_the_centre() -> None:
    zero = torch.zeros(1)
    alpha = lensing.sie_deflection(zero, zero, *tensors(1.0, 0.7, 0.3, dtype=torch.float32))
    assert all(float(a) == 0 for a in alpha)


@given(st.floats(0.5, 3), st.floats(0.1, 0.95), st.floats(0, 2 * np.pi))
@settings(max_examples=30, deadline=None)
def test_two_images_of_an_sis_are_two_einstein_radii_apart(
    theta_e: float, beta: float, azimuth: float
) -> None:
    place = theta_e * beta * np.array([np.cos(azimuth), np.sin(azimuth)])
    numbers = (place[0], place[1], theta_e, 1.0, 0.0, 0.0, 0.0)
    separation = lensing.image_separation(*(t[None] for t in tensors(*numbers)))
    assert float(separation) == pytest.approx(2 * theta_e, rel=2e-4)


def test_one_image_has_no_separation() -> None:
    numbers = (3.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    assert torch.isnan(lensing.image_separation(*(t[None] for t in tensors(*numbers))))
