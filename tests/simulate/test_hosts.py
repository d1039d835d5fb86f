"""Painting on real hosts: measured shapes, no shared hosts, known lenses left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensfinder.simulate import hosts, splits
from lensfinder.simulate.mocks import Sky
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.population import draw_conditions, generator
from lensfinder.simulate.recipe import Population


def galaxy(q: float, phi: float, sigma: float = 4.0, psf_sigma: float = 1.5) -> np.ndarray:
    y, x = np.indices((61, 61)) - 30.0
    major, minor = x * np.cos(phi) + y * np.sin(phi), y * np.cos(phi) - x * np.sin(phi)
    a2, b2 = sigma**2 / q + psf_sigma**2, sigma**2 * q + psf_sigma**2
    return 100 * np.exp(-(major**2) / (2 * a2) - minor**2 / (2 * b2))


@pytest.mark.parametrize(("q", "phi"), [(0.5, 0.3), (0.8, 2.0), (0.6, 1.57)])
def test_shape_is_measured_free_of_psf_and_weight(q: float, phi: float) -> None:
    image = galaxy(q, phi)
    good = np.ones(image.shape, dtype=bool)
    fwhm = 1.5 * 2 * math.sqrt(2 * math.log(2))
    shape = hosts.measure_shape(image, good, 30, 30, psf_fwhm_pixel=fwhm, aperture_sigma_pixel=6.0)
    assert shape.q == pytest.approx(q, abs=0.02)
    assert math.cos(2 * (shape.phi_rad - phi)) > 0.999


def test_nothing_to_measure_is_round() -> None:
    nothing = np.full((21, 21), np.nan)
    shape = hosts.measure_shape(
        nothing, nothing == 0, 10, 10, psf_fwhm_pixel=3.5, aperture_sigma_pixel=6.0
    )
    assert shape == (1.0, 0.0)


def test_sky_is_measured_beside_the_galaxy() -> None:
    rng = np.random.default_rng(1)
    image = galaxy(0.7, 0.5)[None] + rng.normal(3.0, 2.0, (2, 61, 61))
    image[1] = np.nan
    level, rms = hosts.measure_sky(image, np.isfinite(image))
    assert level[0] == pytest.approx(3.0, abs=0.3)
    assert rms[0] == pytest.approx(2.0, rel=0.06)
    assert np.isnan(level[1])
    assert np.isnan(rms[1])


def test_known_lenses_are_left_out_across_ra_zero_and_the_pole() -> None:
    ra = np.array([359.9995, 0.0005, 10.0, 0.002])
    dec = np.array([0.0, 0.0, 89.9999, 0.0])
    away = hosts.away_from(ra, dec, np.array([0.0, 190.0]), np.array([0.0, 89.9999]))
    assert away.tolist() == [False, False, False, True]
    assert hosts.away_from(ra, dec, np.zeros(0), np.zeros(0)).all()


@given(st.floats(0, 360, exclude_max=True), st.floats(-90, 90))
def test_every_position_has_one_cell_and_one_split(ra: float, dec: float) -> None:
    cell = splits.sky_cell(ra, dec)
    assert cell == splits.sky_cell(ra, dec)
    assert splits.split_of(cell, 0.1, 0.2) in splits.SPLITS


def test_splits_have_the_stated_shares_and_grow_without_moving_others() -> None:
    names = [f"host-{i}" for i in range(5000)]
    small = [splits.split_of(name, 0.1, 0.2) for name in names]
    large = [splits.split_of(name, 0.15, 0.3) for name in names]
    assert small.count("test") / 5000 == pytest.approx(0.2, abs=0.02)
    assert small.count("val") / 5000 == pytest.approx(0.1, abs=0.02)
    assert all(b == a for a, b in zip(small, large, strict=True) if a != "train")


def test_a_host_is_never_both_with_and_without_an_arc() -> None:
    positive = [hosts.is_positive(f"galaxy {i}", 0.5) for i in range(2000)]
    assert positive == [hosts.is_positive(f"galaxy {i}", 0.5) for i in range(2000)]
    assert np.mean(positive) == pytest.approx(0.5, abs=0.05)


def test_arc_follows_its_host_and_adds_no_sky(
    population: Population, observation: Observation, sky: Sky
) -> None:
    bands = observation.bands
    shape = hosts.Shape(0.6, 0.4)
    rows = [
        hosts.draw_on_host(population, bands, "r", 4, i, positive=True, host_mag=19.5, shape=shape)
        | draw_conditions(population, sky.psf_fwhm_arcsec, sky.sky_rms_njy, 4, i)
        for i in range(40)
    ]
    assert {row["kind"] for row in rows} == {"lens"}
    turn = np.radians([row["pa_lens_deg"] + 90 for row in rows]) - 0.4
    assert np.cos(2 * turn).mean() > 0.85
    assert np.mean([row["q_lens"] for row in rows]) == pytest.approx(0.6, abs=0.05)
    quiet = np.zeros((4, 3, observation.size, observation.size), dtype=np.float32)
    quiet[0, :, 0, 0] = np.nan
    image, truth = hosts.paint(quiet, rows[:4], observation, [generator(1, 4, i) for i in range(4)])
    assert np.isnan(image[0, :, 0, 0]).all()
    # Where the arc isn't, the host's pixels are as they were (to a millionth of the arc).
    assert np.nanmax(np.abs(image[:, :, :2])) < 0.02 * np.nanmax(image)
    assert (truth["source_snr"] > 25).all()


def test_negatives_on_hosts_get_companions_or_nothing(
    population: Population, observation: Observation
) -> None:
    kinds = [
        hosts.draw_on_host(
            population,
            ("r",),
            "r",
            4,
            i,
            positive=False,
            host_mag=math.nan,
            shape=hosts.Shape(1, 0),
        )["kind"]
        for i in range(200)
    ]
    assert set(kinds) == {"galaxy", "companions"}
    assert 0.4 < kinds.count("companions") / 200 < 0.7
