"""Spectra, colours and the forecast: identities, and percentiles beside published ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from lensfinder.simulate import cosmology, forecast, recipe, seds
from lensfinder.simulate.distributions import RecipeError
from lensfinder.simulate.population import draw
from lensfinder.simulate.recipe import Population

PERCENTILES = (5, 16, 50, 84, 95)
BANDS = ("g", "r", "i")


@pytest.fixture(scope="module")
def collett() -> Population:
    return recipe.parse(recipe.shipped_text("collett2015"), "collett2015")


@pytest.fixture(scope="module")
def lenses(collett: Population) -> dict[str, np.ndarray]:
    rows = [draw(collett, BANDS, 1, i, kind="lens") for i in range(1200)]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    beta = np.hypot(columns["source_x_arcsec"], columns["source_y_arcsec"])
    columns["beta_over_theta_e"] = beta / columns["theta_e_arcsec"]
    columns["lens_g_minus_r"] = columns["mag_g"] - columns["mag_r"]
    return columns


# Of a published forecast of LSST's lenses. The last number is the tolerance: a factor, or
# magnitudes. It holds for all five percentiles; a sample of 1200 alone scatters by 3 to 6 %.
PUBLISHED = {
    "z_lens": ((0.17, 0.27, 0.49, 0.83, 1.12), 0.12),
    "z_source": ((0.83, 1.24, 2.06, 2.96, 3.69), 0.16),
    "theta_e_arcsec": ((0.61, 0.82, 1.15, 1.61, 2.02), 0.13),
    "sigma_v_km_s": ((194, 220, 258, 302, 332), 0.05),
    "q_lens": ((0.44, 0.56, 0.73, 0.86, 0.93), 0.08),
    "bulge_re_arcsec": ((0.38, 0.49, 0.72, 1.13, 1.59), 0.12),
    "source_re_arcsec": ((0.04, 0.07, 0.18, 0.37, 0.59), 0.35),
    "beta_over_theta_e": ((0.08, 0.14, 0.33, 0.59, 0.73), 0.30),
    "feature_mag_r": ((24.1, 25.0, 26.0, 27.1, 27.6), 0.4),
    "mag_r": ((16.3, 17.7, 19.9, 22.5, 24.3), 0.6),
    "lens_g_minus_r": ((1.27, 1.64, 1.91, 2.36, 2.78), 0.13),
    "feature_g_minus_r": ((-0.20, -0.09, 0.04, 0.52, 1.09), 0.26),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_percentiles_are_near_the_published_ones(name: str, lenses: dict[str, np.ndarray]) -> None:
    published, tolerance = PUBLISHED[name]
    ours = np.percentile(lenses[name], PERCENTILES)
    if "mag" in name or "minus" in name:
        assert ours == pytest.approx(np.array(published), abs=tolerance)
    else:
        assert np.abs(np.log(ours / np.array(published))).max() < tolerance


def test_einstein_radii_follow_from_dispersion_and_redshifts(lenses: dict[str, np.ndarray]) -> None:
    for k in range(0, 1200, 7):
        values = (float(lenses[name][k]) for name in ("sigma_v_km_s", "z_lens", "z_source"))
        expected = cosmology.theta_e_arcsec(*values)
        assert lenses["theta_e_arcsec"][k] == pytest.approx(expected, rel=1e-6)
    assert (lenses["z_source"] > lenses["z_lens"]).all()


def test_draws_are_joint(lenses: dict[str, np.ndarray]) -> None:
    """Massive deflectors bend more and are rounder; distant ones are fainter and redder."""

    def rank(a: str, b: str) -> float:
        return float(spearmanr(lenses[a], lenses[b]).statistic)

    assert rank("sigma_v_km_s", "theta_e_arcsec") > 0.5
    assert rank("z_lens", "mag_r") > 0.8
    assert rank("z_lens", "lens_g_minus_r") > 0.75
    assert rank("z_lens", "z_source") > 0.1
    assert rank("sigma_v_km_s", "q_lens") > 0.1
    assert rank("feature_mag_r", "beta_over_theta_e") < -0.1


def test_impossible_forecasts_are_refused(collett: Population) -> None:
    text = recipe.shipped_text("collett2015")
    for good, bad, message in (
        ("z_low = 0.02", "z_low = 9.0", "z_low is 9.0 and z_high is 2.0"),
        ("z_low = 0.02\nz_high = 2.0", "z_low = 8.0\nz_high = 9.0", "in front of every lens"),
        ("q_low = 0.2", "q_low = 1.2", "forecast.deflectors.q_low"),
        ("z0_per_mag = 0.099", "z0_per_mag = 1.0", "z0 falls to 0"),
    ):
        assert good in text
        with pytest.raises(RecipeError, match=message):
            recipe.parse(text.replace(good, bad), "mine.toml")
    assert collett.forecast is not None
    blind = collett.forecast.selection.model_copy(update={"snr_low": 1e9})
    nothing = collett.forecast.model_copy(update={"selection": blind})
    rng = np.random.default_rng(1)
    few = forecast.discovered(rng, forecast.propose(rng, nothing, 5000), nothing)
    assert len(few.z_lens) == 0


def test_dust_reddens_as_it_is_said_to() -> None:
    """Attenuation falls with wavelength, and is R_V E(B-V) in V."""
    z = np.array([0.5, 2.0])
    for sed in ("passive", "star_forming"):
        clean = seds.magnitude(sed, "g", z) - seds.magnitude(sed, "i", z)
        dusty = seds.magnitude(sed, "g", z, 0.3) - seds.magnitude(sed, "i", z, 0.3)
        assert (dusty > clean).all()
    wavelength = np.linspace(1300, 20000, 300)
    assert (np.diff(seds.dust_attenuation_mag(wavelength)) < 0).all()
    assert seds.dust_attenuation_mag(np.array([5500.0]))[0] == pytest.approx(4.05, abs=0.1)


def test_filters_are_as_stated() -> None:
    for band, edges in seds.FILTER_EDGES_ANGSTROM.items():
        wavelength = np.linspace(edges[0] - 100, edges[3] + 100, 4000)
        through = seds.transmission(band, wavelength)
        assert through[0] == through[-1] == 0
        assert through.max() == 1
        half = wavelength[through >= 0.5]
        assert half[0] == pytest.approx((edges[0] + edges[1]) / 2, abs=1)
        assert half[-1] == pytest.approx((edges[2] + edges[3]) / 2, abs=1)


def test_hydrogen_hides_what_is_bluer_than_the_lyman_limit() -> None:
    observed = np.linspace(3000, 9000, 500)
    assert (seds.intergalactic_transmission(observed, 0.5) == 1).all()
    z = 4.0
    through = seds.intergalactic_transmission(observed, z)
    assert (through[observed < 911.75 * (1 + z)] == 0).all()
    assert (through[observed > 1215.67 * (1 + z)] == 1).all()
    # Of galaxies at z = 4 nothing is left in u.
    u_minus_r = seds.colour_minus_r("star_forming", "u")
    assert np.interp(z, seds.REDSHIFTS, u_minus_r[:, 0]) > 3


def test_a_colour_is_what_the_spectrum_says_at_any_redshift() -> None:
    """K-corrections and colours of a spectrum are one thing: m_i - m_r changes as both do."""
    k = seds.k_correction_r("passive")
    assert k[0] == 0
    at = int(np.argmin(np.abs(seds.REDSHIFTS - 0.5)))
    z = float(seds.REDSHIFTS[at])
    direct = seds.magnitude("passive", "r", np.array([0.0, z]))
    assert k[at] == pytest.approx(direct[1] - direct[0] - 2.5 * math.log10(1 + z), abs=1e-9)


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_that_comes_along_draws_every_kind(name: str) -> None:
    population = recipe.parse(recipe.shipped_text(name), name)
    bands = population.stamps.bands if population.stamps is not None else BANDS
    for kind in ("lens", *population.negatives):
        row = draw(population, bands, 1, 3, kind=kind)
        assert all(math.isfinite(row[f"mag_{band}"]) for band in bands)


def test_a_recipe_of_ones_own_stands_on_a_base() -> None:
    own = (
        "base = 'general'\nname = 'mine'\ndescription = 'blue'\n"
        "[lens]\ntheta_e_arcsec = { distribution = 'uniform', low = 1.0, high = 1.1 }\n"
        "[negatives]\nstar = 1.0\n[sky_fraction]\n"
    )
    text = recipe.shipped_text("general")
    mine, general = (recipe.parse(each, "x") for each in (own, text))
    assert mine.lens.theta_e_arcsec.support() == (1.0, 1.1)
    assert mine.lens.shear == general.lens.shear
    assert mine.negatives == {"star": 1.0}
    assert mine.colours == general.colours
    for bad, message in (
        (own.replace("'general'", "'genral'"), "base is 'genral'; expected a recipe"),
        (own.replace("name = 'mine'\n", ""), "name: Field required"),
        (own.replace("[lens]", "[lenz]"), "lenz: unknown key; expected 'lens'"),
        (own + "[lenticular]\nfractoin = 0.1\n", "lenticular.fractoin: unknown key; expected 'fr"),
        (text[: text.index("[group]")] + text[text.index("[artefact]") :], r"no section \[group\]"),
    ):
        with pytest.raises(RecipeError, match=message):
            recipe.parse(bad, "mine.toml")
