"""Recipes and draws: bad ones are refused as a whole, good ones obey their own bounds."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM
from hypothesis import given, settings
from hypothesis import strategies as st

from lensfinder.simulate import cosmology, kinds, lensing, recipe
from lensfinder.simulate.distributions import RecipeError
from lensfinder.simulate.population import (
    check_bands,
    draw,
    draw_members,
    draw_surroundings,
)
from lensfinder.simulate.recipe import HARD_KINDS, Population

BANDS = ("u", "g", "r", "i", "z", "y", "VIS")


@pytest.fixture(scope="module")
def rows(population: Population) -> list[dict]:
    return [draw(population, BANDS, 7, i) for i in range(3000)]


def test_all_errors_of_a_bad_recipe_at_once() -> None:
    text = recipe.shipped_text("general")
    for good, bad in (
        ("sigma = 0.8, low = 2.5", "sigma = -0.8, low = 2.5"),
        ('\nsnr = { distribution = "log_uniform"', '\nsnr = { distribution = "lognormal"'),
        ("low = 0.25, high = 1.0 }\nclump_count", "low = 0.25, high = 1.2 }\nclump_count"),
        ("psf_scatter = 0.07", "psf_scater = 0.07"),
        ("low = 0.1, high = 0.26", "low = 0.26, high = 0.1"),
        ("merger = 0.07", "mergers = 0.07"),
        ("values = [1, 2, 3], weights = [4, 4, 2]", "values = [1, 2, 3], weights = [4, 4]"),
        ("u = [2.00]", "u = [2.00, nan]"),
    ):
        assert good in text
        text = text.replace(good, bad)
    with pytest.raises(RecipeError) as caught:
        recipe.parse(text, "mine.toml")
    message = str(caught.value)
    for part in (
        "mine.toml has 9 error(s)",
        "early_type.sersic_n.normal.sigma: Input should be greater than 0",
        "source.snr: Input tag 'lognormal' found",
        "source.q",
        "expected [0.05, 1]",
        "conditions.psf_scater: unknown key; expected 'psf_scatter'",
        "conditions.psf_scatter: Field required",
        "low is 0.26 and high is 0.1; expected low < high",
        "negatives.mergers",
        "3 values and 2 weights",
        "colours.star.minus_r.u",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[companions]\ncount = {distribution='choice', values=[8], weights=[1]}", "at most 3"),
        ("[source]\nclump_count = {distribution='choice', values=[9], weights=[1]}", "at most 5"),
        (
            "[source]\nclump_fraction = {distribution='uniform', low=0.3, high=0.4}",
            "4 clumps of clump_fraction up to 0.4 hold 1.6 of the source",
        ),
    ],
)
def test_pieces_are_no_more_than_there_is_room_for(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe.parse(f"base='general'\nname='x'\ndescription=''\n{text}", "mine.toml")


def test_keys_that_a_forecast_overrules_are_refused() -> None:
    text = "base='{}'\nname='x'\ndescription=''\n[lens]\nbeta_over_theta_e = {{" + (
        "distribution='uniform', low=0.1, high=0.2}}\n"
    )
    assert recipe.parse(text.format("general"), "mine.toml")
    with pytest.raises(RecipeError, match=r"lens\.beta_over_theta_e would change nothing"):
        recipe.parse(text.format("collett2015"), "mine.toml")


def test_source_in_front_of_every_lens_is_refused() -> None:
    text = recipe.shipped_text("general").replace(
        'z = { distribution = "normal", mean = 1.9, sigma = 0.8, low = 0.6, high = 4.5 }',
        'z = { distribution = "uniform", low = 0.05, high = 0.3 }',
    )
    with pytest.raises(RecipeError, match=r"source\.z ends at 0\.3, in front of every lens"):
        recipe.parse(text, "mine.toml")


def test_bounds_that_contradict_one_another_are_named(population: Population) -> None:
    text = recipe.shipped_text("general").replace("mag_r_low = 17.0", "mag_r_low = 10.0")
    text = text.replace("mag_r_high = 21.5", "mag_r_high = 10.1")
    impossible = recipe.parse(text, "mine.toml")
    with pytest.raises(RecipeError, match="no early-type galaxy with theta_e"):
        draw(impossible, ("r",), 1, 0, kind="lens")


def test_unknown_recipes_and_bands_are_named(population: Population) -> None:
    with pytest.raises(RecipeError, match="'generl' is unknown; expected one of bologna"):
        recipe.shipped_text("generl")
    with pytest.raises(RecipeError, match="no colours in K"):
        check_bands(population, ("r", "K"))


def test_a_draw_depends_on_seed_and_index_alone(population: Population, rows: list[dict]) -> None:
    for index in (2999, 0, 17):
        again = draw(population, BANDS, 7, index)
        assert list(again) == list(rows[0])
        np.testing.assert_equal(again, rows[index])
    assert draw(population, BANDS, 8, 17)["dx"] != rows[17]["dx"]


def test_fewer_bands_leave_the_rest_of_a_draw_alone(
    population: Population, rows: list[dict]
) -> None:
    for index in range(40):
        for name, value in draw(population, ("r",), 7, index).items():
            # Which of the bands was struck is a question of how many there are.
            if name != "artefact_band":
                np.testing.assert_equal(value, rows[index][name])


def test_fractions_are_those_of_the_recipe(population: Population, rows: list[dict]) -> None:
    count = collections.Counter(row["kind"] for row in rows)
    assert sum(row["label"] for row in rows) == count["lens"]
    assert count["lens"] / len(rows) == pytest.approx(0.5, abs=0.03)
    assert set(count) == {"lens", *population.negatives}
    hard = sum(count[kind] for kind in HARD_KINDS)
    assert hard >= 0.5 * (len(rows) - count["lens"])


def test_lenses_obey_physics_and_recipe(population: Population, rows: list[dict]) -> None:
    cosmos = FlatLambdaCDM(H0=70, Om0=0.3)
    lenses = [row for row in rows if row["kind"] == "lens"]
    theta_e = np.array([row["theta_e_arcsec"] for row in lenses])
    assert theta_e.min() >= 0.7
    assert theta_e.max() <= 2.5
    # Log-uniform, whatever the other bounds refuse.
    uniform = np.sort(np.log(theta_e / 0.7) / np.log(2.5 / 0.7))
    assert np.abs(uniform - (np.arange(len(uniform)) + 0.5) / len(uniform)).max() < 0.05
    for row in lenses[:200]:
        assert row["z_source"] >= row["z_lens"] + 0.3
        assert 150 <= row["sigma_v_km_s"] <= 420
        assert 17.0 <= row["mag_r"] <= 21.5
        assert row["feature_snr"] >= 30
    for row in lenses[:5]:
        d_s = cosmos.angular_diameter_distance(row["z_source"]).value
        d_ls = cosmos.angular_diameter_distance(row["z_lens"], row["z_source"]).value
        ratio = (row["sigma_v_km_s"] / cosmology.SPEED_OF_LIGHT_KM_S) ** 2 * d_ls / d_s
        assert np.degrees(4 * np.pi * ratio) * 3600 == pytest.approx(
            row["theta_e_arcsec"], rel=1e-6
        )


@given(st.floats(0.02, 8))
@settings(max_examples=30, deadline=None)
def test_distances_agree_with_astropy(z: float) -> None:
    cosmos = FlatLambdaCDM(H0=70, Om0=0.3)
    expected = cosmos.comoving_distance(z).value
    assert cosmology.comoving_distance_mpc(z) == pytest.approx(expected, rel=1e-6)
    modulus = cosmos.distmod(z).value
    assert cosmology.distance_modulus(z) == pytest.approx(modulus, abs=1e-5)


def test_negatives_hold_no_truth_of_a_lens(rows: list[dict]) -> None:
    for row in rows:
        if row["label"] == 0:
            for column in ("theta_e_arcsec", "z_source", "source_re_arcsec"):
                assert math.isnan(row[column])


def test_hosts_of_lenses_and_their_negatives_are_alike(rows: list[dict]) -> None:
    """Rank statistics of brightness, colour and size: no telling the classes apart."""
    lens = [row for row in rows if row["kind"] == "lens"]
    others = [row for row in rows if row["kind"] in ("galaxy", "companions")]
    for value in (
        lambda row: row["mag_r"],
        lambda row: row["mag_g"] - row["mag_r"],
        lambda row: row["bulge_re_arcsec"],
        lambda row: row["bulge_q"],
    ):
        a, b = np.array([value(r) for r in lens]), np.array([value(r) for r in others])
        auc = (a[:, None] > b[None, :]).mean()
        assert auc == pytest.approx(0.5, abs=0.06)


def test_discs_of_lenticulars_take_a_share_of_the_light_of_lenses_and_negatives_alike() -> None:
    text = """base = 'general'
name = 'lenticulars'
description = ''
[lenticular]
fraction = 0.4
disc_share = { distribution = "uniform", low = 0.1, high = 0.7 }
disc_q = { distribution = "uniform", low = 0.2, high = 1.0 }
disc_r_e_over_whole = { distribution = "uniform", low = 1.0, high = 1.8 }
bulge_r_e_over_whole = { distribution = "uniform", low = 0.4, high = 0.9 }
"""
    lenticulars = recipe.parse(text, "lenticulars")
    for kind in ("lens", "galaxy", "companions"):
        drawn = [draw(lenticulars, BANDS, 3, index, kind=kind) for index in range(400)]
        discs = [row for row in drawn if math.isfinite(row["disc_re_arcsec"])]
        assert len(discs) / len(drawn) == pytest.approx(0.4, abs=0.08)
        for row in discs:
            shares = [10 ** (0.4 * (row[f"mag_{b}"] - row[f"mag_disc_{b}"])) for b in BANDS]
            assert shares == pytest.approx([shares[0]] * len(BANDS))
            assert 0.1 <= shares[0] <= 0.7
            assert row["disc_pa_deg"] == row["bulge_pa_deg"]
        magnitudes = [row["mag_r"] for row in drawn]
        assert min(magnitudes) >= 17.0
        assert max(magnitudes) <= 21.5
    group = [draw(lenticulars, BANDS, 3, index, kind="lens") for index in range(400)]
    for row in (row for row in group if row["group_count"] >= 1):
        brightest = draw_members(lenticulars, ("r",), row)["flux_njy"].max()
        assert 31.4 - 2.5 * math.log10(brightest) >= row["mag_r"] + 0.2 - 1e-6


def test_cut_encloses_the_area_it_should() -> None:
    """A round lens images twice up to beta = theta_e; a flat one keeps the scale of its cut."""
    assert kinds.inside_cut(0.999, 1.0, 1.0, 1.0)
    assert not kinds.inside_cut(1.001, 1.0, 1.0, 1.0)
    rng = np.random.default_rng(1)
    q = 0.5
    points = rng.uniform(-1.5, 1.5, (4000, 2))
    inside = [kinds.inside_cut(math.hypot(x, y), math.atan2(y, x), 1.0, q) for x, y in points]
    f = math.sqrt(1 - q * q)
    edge = math.sqrt(q) / f * np.array([math.acos(q), math.acosh(1 / q)])
    assert np.abs(points[inside]).max(axis=0) == pytest.approx(edge, abs=0.06)


def test_surroundings_fill_the_field_evenly(population: Population) -> None:
    fields = [draw_surroundings(population, ("g", "r"), seed, 8.0) for seed in range(1500)]
    counts = np.array([len(field["x_arcsec"]) for field in fields])
    density = population.surroundings.density_per_arcmin2
    assert counts.mean() == pytest.approx(density * (16 / 60) ** 2, rel=0.06)
    x = np.concatenate([field["x_arcsec"] for field in fields])
    assert abs(x.mean()) < 0.3
    assert np.abs(x).max() <= 8.0
    assert all(np.isfinite(field["flux_njy"]).all() for field in fields)


def test_shares_on_the_sky_go_with_the_kind_and_sum_to_one() -> None:
    text = recipe.shipped_text("general")
    population = recipe.parse(text, "general")
    for index in range(60):
        row = draw(population, ("g", "r", "i"), 1, index)
        share = population.sky_fraction.get(row["kind"])
        assert row["sky_fraction"] == share if share else math.isnan(float(row["sky_fraction"]))
    with pytest.raises(RecipeError, match=r"shares sum to 1\.1; expected 1"):
        recipe.parse(text.replace("galaxy = 0.29\n", "galaxy = 0.39\n"), "general")


@pytest.mark.parametrize("slope", [1.4, 1.7, 1.9])
def test_sources_inside_the_cut_of_a_flat_profile_have_several_images(slope: float) -> None:
    rng = np.random.default_rng(5)
    cut = kinds.cut_over_isothermal(slope)
    beta, azimuth, lens_q = rng.uniform(0, 1, 900), rng.uniform(0, 2 * np.pi, 900), 0.8
    inside = [kinds.inside_cut(b / cut, a, 1.0, lens_q) for b, a in zip(beta, azimuth, strict=True)]
    assert 0 < sum(inside) < 900
    some = torch.tensor(np.flatnonzero(inside))
    x, y = (torch.tensor(beta * f(azimuth))[some] for f in (np.cos, np.sin))
    one = torch.ones_like(x)
    separation = lensing.image_separation(
        x, y, one, lens_q * one, 0 * one, 0 * one, 0 * one, slope * one
    )
    assert torch.isfinite(separation).double().mean() > 0.95
    assert kinds.cut_over_isothermal(2.2) == kinds.cut_over_isothermal(2.0) == 1.0
