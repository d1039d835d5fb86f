"""Painting on real hosts: measured shapes, no shared hosts, known lenses left out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensfinder.simulate import cosmology, hosts, recipe, splits
from lensfinder.simulate.mocks import Sky
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.population import draw_conditions, generator
from lensfinder.simulate.recipe import Population


def galaxy(q: float, phi: float, sigma: float = 4.0, psf_sigma: float = 1.5) -> np.ndarray:
    y, x = np.indices((61, 61)) - 30.0
    major, minor = x * np.cos(phi) + y * np.sin(phi), y * np.cos(phi) - x * np.sin(phi)
    a2, b2 = sigma**2 / q + psf_sigma**2, sigma**2 * q + psf_sigma**2
    return 100 * np.exp(-(major**2) / (2 * a2) - minor**2 / (2 * b2))


def galaxy_of(
    shape: hosts.Shape, mag: float = 19.5, z: float = math.nan, peak_njy: float = 500.0
) -> hosts.HostGalaxy:
    return hosts.HostGalaxy(mag, z, shape, peak_njy)


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
        hosts.draw_on_host(population, bands, "r", 4, i, positive=True, host=galaxy_of(shape))
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
            host=galaxy_of(hosts.Shape(1, 0), mag=math.nan),
        )["kind"]
        for i in range(200)
    ]
    assert set(kinds) == {"galaxy", "companions"}
    assert 0.4 < kinds.count("companions") / 200 < 0.7


def test_einstein_radius_is_consistent_with_brightness_and_redshift(population: Population) -> None:
    """It follows from dispersion and redshifts, and brighter galaxies bend light more."""

    def lenses(mag: float, z: float) -> list[dict]:
        host = galaxy_of(hosts.Shape(0.8, 0.0), mag, z)
        return [
            hosts.draw_on_host(population, ("r",), "r", 4, i, positive=True, host=host)
            for i in range(60)
        ]

    for row in lenses(19.0, 0.35):
        assert row["z_lens"] == 0.35
        expected = cosmology.theta_e_arcsec(row["sigma_v_km_s"], 0.35, row["z_source"])
        assert row["theta_e_arcsec"] == pytest.approx(expected, rel=1e-6)
        beta = math.hypot(row["source_x_arcsec"], row["source_y_arcsec"])
        assert beta <= 1.3 * row["theta_e_arcsec"]
    bright, faint = ([row["theta_e_arcsec"] for row in lenses(m, 0.35)] for m in (17.8, 20.2))
    assert np.median(bright) > 1.2 * np.median(faint)


def test_a_peak_ratio_sets_the_peak_of_the_arc(population: Population, sky: Sky) -> None:
    """On positives and negatives alike; where it is told, the arc's own photons add noise."""
    recipe_of = recipe.parse(recipe.shipped_text("petrillo2017"), "petrillo2017")
    observation = Observation(("r",), 61, 0.2, "r")
    conditions = draw_conditions(population, {"r": 0.7}, {"r": 6.3}, 1, 0)
    host = galaxy_of(hosts.Shape(0.7, 1.0), peak_njy=800.0)
    rows = [
        hosts.draw_on_host(recipe_of, ("r",), "r", 3, i, positive=i % 2 == 0, host=host)
        | conditions
        for i in range(16)
    ]
    quiet = np.zeros((16, 1, 61, 61), dtype=np.float32)
    rngs = [generator(1, 4, i) for i in range(16)]
    image, truth = hosts.paint(quiet, rows, observation, rngs)
    for k, row in enumerate(rows):
        if row["kind"] == "galaxy":
            assert np.abs(image[k]).max() == 0
        else:
            assert 0.02 * 800 <= image[k].max() <= 0.30 * 800
            assert image[k].max() == pytest.approx(row["feature_peak_ratio"] * 800, rel=1e-5)
    # A host whose core is masked has no peak: the S/N of the recipe decides.
    masked = galaxy_of(hosts.Shape(0.7, 1.0), peak_njy=0.0)
    row = hosts.draw_on_host(recipe_of, ("r",), "r", 3, 0, positive=True, host=masked)
    bright, _ = hosts.paint(quiet[:1], [row | conditions], observation, rngs[:1])
    assert np.isfinite(bright).all()
    assert bright.max() > 0
    shot = replace(observation, electrons_per_njy=(0.5,))
    noisy, _ = hosts.paint(quiet, rows, shot, rngs)
    assert (noisy[image == 0] == 0).all()
    assert np.isfinite(truth["source_snr"][[row["kind"] == "lens" for row in rows]]).all()
