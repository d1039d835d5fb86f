"""Surface brightness: unit flux, half of it within r_e, symmetry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lenstronomy.LightModel.Profiles.sersic import SersicElliptic
from lenstronomy.Util.param_util import phi_q2_ellipticity
from scipy.special import gammaincinv

from lensfinder.simulate import light


def tensors(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(v, dtype=torch.float64) for v in values]


@given(st.floats(0.5, 8))
def test_b_n_halves_the_light(n: float) -> None:
    b = float(light.sersic_b(torch.tensor(n, dtype=torch.float64)))
    assert b == pytest.approx(gammaincinv(2 * n, 0.5), rel=3e-5 if n >= 1 else 5e-4)


@given(st.floats(0.2, 2), st.floats(0.5, 6), st.floats(0.2, 1))
@settings(max_examples=30, deadline=None)
def test_sersic_has_unit_flux(r_e: float, n: float, q: float) -> None:
    # In elliptical polar coordinates with r = r_e u^n the integrand is smooth.
    u = torch.linspace(1e-6, 60, 40001, dtype=torch.float64)
    radius = r_e * (u / float(light.sersic_b(torch.tensor(n)))) ** n
    major = radius / np.sqrt(q)
    profile = light.sersic(major, torch.zeros_like(major), *tensors(r_e, n, q, 0.0))
    flux = torch.trapezoid(2 * np.pi * radius * profile, radius)
    assert float(flux) == pytest.approx(1, abs=2e-3)


def test_sersic_agrees_with_lenstronomy() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-3, 3, (2, 500))
    for _ in range(20):
        r_e, n, q, phi = rng.uniform((0.2, 0.6, 0.3, 0), (2, 5, 1, np.pi))
        ours = light.sersic(torch.tensor(x), torch.tensor(y), *tensors(r_e, n, q, phi)).numpy()
        # lenstronomy's b_n is a linear approximation: the same profile under another r_e.
        b, b_theirs = float(light.sersic_b(torch.tensor(n))), 1.9992 * n - 0.3271
        e1, e2 = phi_q2_ellipticity(phi, q)
        r_theirs = r_e * (b_theirs / b) ** n
        theirs = SersicElliptic().function(x, y, 1.0, r_theirs, n, e1, e2)
        centre = float(light.sersic(*tensors(0, 0, r_e, n, q, phi)))
        np.testing.assert_allclose(ours, theirs * np.exp(-b_theirs) * centre, rtol=1e-6, atol=1e-12)


@given(st.floats(0.2, 1), st.floats(0, np.pi), st.floats(-3, 3), st.floats(-3, 3))
def test_radius_is_circularised_and_turns_with_its_axis(
    q: float, phi: float, x: float, y: float
) -> None:
    got = float(light.squared_elliptical_radius(*tensors(x, y, q, phi)))
    major, minor = np.cos(phi) * x + np.sin(phi) * y, np.cos(phi) * y - np.sin(phi) * x
    assert got == pytest.approx(q * major**2 + minor**2 / q, rel=1e-9, abs=1e-12)


def test_a_ring_has_unit_flux() -> None:
    axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
    x, y = axis[None, :], axis[:, None]
    area = float(axis[1] - axis[0]) ** 2
    ring = light.ring(x, y, *tensors(2.0, 0.2, 0.6, 0.4, 0.3, 0.5, 5.0, 1.0))
    assert float(ring.sum()) * area == pytest.approx(1, abs=0.03)
    assert float(ring.min()) >= 0


def test_arms_repeat_by_their_number() -> None:
    axis = torch.linspace(-3, 3, 61, dtype=torch.float64)
    x, y = axis[None, :].expand(61, 61), axis[:, None].expand(61, 61)
    arms = light.spiral_arms(x, y, *tensors(1.0, 1.0, 0.0, 2.0, 0.4, 0.7, 3.0))
    assert torch.allclose(arms, arms.flip(0, 1), atol=1e-12)
    assert not torch.allclose(arms, arms.T, atol=1e-3)
