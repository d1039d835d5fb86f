"""Rendering: flux and S/N as stated, and the same bytes however the work is shared."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import gammainc

from lensfinder.simulate import light
from lensfinder.simulate.mocks import Setting, Sky, make_modelled
from lensfinder.simulate.observation import Observation
from lensfinder.simulate.population import draw, draw_conditions, draw_surroundings
from lensfinder.simulate.recipe import Population
from lensfinder.simulate.render import CHUNK, render

BANDS = ("g", "r", "i")


def empty(count: int) -> list[dict[str, np.ndarray]]:
    names = ("x_arcsec", "y_arcsec", "re_arcsec", "n", "q", "phi_rad")
    return [
        {**{name: np.zeros(0) for name in names}, "flux_njy": np.zeros((0, len(BANDS)))}
        for _ in range(count)
    ]


def rows_of(population: Population, sky: Sky, kind: str, count: int) -> list[dict]:
    conditions = (sky.psf_fwhm_arcsec, sky.sky_rms_njy)
    return [
        draw(population, BANDS, 3, i, kind=kind) | draw_conditions(population, *conditions, 3, i)
        for i in range(count)
    ]


def test_unlensed_light_keeps_its_flux(population: Population, sky: Sky) -> None:
    wide = Observation(bands=BANDS, size=101, pixel_scale_arcsec=0.2, reference_band="r")
    rows = rows_of(population, sky, "galaxy", 6)
    for row in rows:
        row["bulge_n"], row["bulge_re_arcsec"] = 1.0, 0.3
    rows += rows_of(population, sky, "star", 6)
    image = render(rows, empty(len(rows)), wide).background_NCHW
    expected = [[10 ** (-0.4 * (row[f"mag_{b}"] - 31.4)) for b in BANDS] for row in rows]
    np.testing.assert_allclose(image.sum(axis=(2, 3)), expected, rtol=5e-3)
    # And puts it where it says: the centroid in pixels is dx plus the centre's own offset.
    axis = np.arange(101) - 50
    for row, stamp in zip(rows, image[:, 1], strict=True):
        x = (stamp.sum(axis=0) * axis).sum() / stamp.sum()
        assert x == pytest.approx(row["dx"] + row["centre_x_arcsec"] / 0.2, abs=0.02)


def test_cusps_keep_their_flux(population: Population, sky: Sky) -> None:
    """Whatever the index, the size and the place in a pixel: the profile's own integral."""
    wide = Observation(BANDS, 151, 0.2, "r")
    rows = rows_of(population, sky, "galaxy", 24)
    rng = np.random.default_rng(4)
    for row in rows:
        row["bulge_n"], row["bulge_re_arcsec"] = rng.uniform(1.0, 4.0), rng.uniform(0.3, 0.6)
        row["bulge_q"] = rng.uniform(0.5, 1.0)
    flux = render(rows, empty(24), wide).background_NCHW.sum(axis=(2, 3), dtype=float)[:, 1]
    total = np.array([10 ** (-0.4 * (row["mag_r"] - 31.4)) for row in rows])
    # What lies beyond the stamp: between that of the circles within and about it.
    n, r_e = (np.array([row[f"bulge_{name}"] for row in rows]) for name in ("n", "re_arcsec"))
    b = light.sersic_b(torch.from_numpy(n)).numpy()
    kept = gammainc(2 * n, b * (15.1 * 1.1 / r_e) ** (1 / n))
    error = np.abs(flux / (total * kept) - 1)
    assert np.median(error) < 3e-4
    assert error.max() < 2e-3


@pytest.mark.parametrize("clumps", [False, True])
def test_default_agrees_with_twelvefold_supersampling(
    population: Population, sky: Sky, clumps: bool
) -> None:
    rows = rows_of(population, sky, "lens", 16)
    for row in rows:
        row["feature_snr"], row["feature_mag_r"] = math.nan, 24.0
        row["source_n"] = 1.0
        for k in range(1, 5):
            if not clumps:
                row[f"clump_{k}_fraction"] = math.nan
    ours, finer = (
        render(rows, empty(16), Observation(("r",), 41, 0.2, "r", supersampling=s)).feature_NCHW
        for s in (None, 12)
    )
    flux, expected = (image.sum(axis=(2, 3), dtype=float) for image in (ours, finer))
    assert np.median(np.abs(flux / expected - 1)) < 3e-4
    peak = finer.max(axis=(2, 3))
    assert np.median(np.abs(ours - finer).max(axis=(2, 3)) / peak) < 2e-3


def test_source_snr_is_what_was_asked_for(
    population: Population, sky: Sky, observation: Observation
) -> None:
    rows = rows_of(population, sky, "lens", 20)
    rendered = render(rows, empty(20), observation)
    sigma = np.array([row["sky_rms_r_njy"] for row in rows])
    snr = np.sqrt((rendered.feature_NCHW[:, 1].astype(float) ** 2).sum(axis=(1, 2))) / sigma
    np.testing.assert_allclose(snr, [row["feature_snr"] for row in rows], rtol=1e-4)
    np.testing.assert_allclose(rendered.truth["source_snr"], snr, rtol=1e-4)
    separation = rendered.truth["image_separation_arcsec"]
    theta_e = np.array([row["theta_e_arcsec"] for row in rows])
    assert np.nanmin(separation / theta_e) > 1.0
    assert np.nanmax(separation / theta_e) < 4.0
    assert rendered.truth["magnification"].min() > 1


def test_magnification_of_a_source_on_axis(
    population: Population, sky: Sky, observation: Observation
) -> None:
    """Behind an SIS, a small source at beta is magnified by 2 theta_e / beta."""
    (row,) = rows_of(population, sky, "lens", 1)
    row |= {"theta_e_arcsec": 1.0, "q_lens": 1.0, "shear": 0.0, "source_re_arcsec": 0.05}
    row |= {"source_x_arcsec": 0.5, "source_y_arcsec": 0.0, "clump_1_fraction": math.nan}
    row |= {f"clump_{k}_fraction": math.nan for k in (2, 3, 4)}
    (magnification,) = render([row], empty(1), observation).truth["magnification"]
    assert magnification == pytest.approx(4.0, rel=0.02)


def test_float32_agrees_with_float64(
    population: Population, sky: Sky, observation: Observation
) -> None:
    rows = rows_of(population, sky, "lens", 16)
    surroundings = [draw_surroundings(population, BANDS, k, 6.0) for k in range(16)]
    coarse = render(rows, surroundings, observation)
    fine = render(rows, surroundings, observation, dtype=torch.float64)
    for name in ("background_NCHW", "feature_NCHW"):
        a, b = getattr(coarse, name), getattr(fine, name)
        assert (np.abs(a - b).max(axis=(2, 3)) / b.max(axis=(2, 3))).max() < 1e-4


def test_bytes_do_not_depend_on_how_work_is_shared(
    population: Population, sky: Sky, observation: Observation
) -> None:
    """One range, two in the other order, a part of the last chunk, another number of threads."""

    def make(first: int, last: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        setting = Setting(population, observation, sky, "kids", 9, 0.2, 0.2)
        mocks = make_modelled(setting, range(first, last))
        return mocks.image_NCHW, mocks.columns

    whole, columns = make(0, 2 * CHUNK)
    second, _ = make(CHUNK, 2 * CHUNK)
    part, part_columns = make(0, CHUNK + 7)
    assert second.tobytes() == whole[CHUNK:].tobytes()
    assert part.tobytes() == whole[: CHUNK + 7].tobytes()
    for name, values in columns.items():
        np.testing.assert_array_equal(part_columns[name], values[: CHUNK + 7])
    assert np.isfinite(whole).all()
    assert whole.dtype == np.float32


def test_bad_observations_are_refused() -> None:
    with pytest.raises(ValueError, match="expected an odd number of pixels"):
        Observation(BANDS, 40, 0.2, "r")
    with pytest.raises(ValueError, match="reference band is 'z'"):
        Observation(BANDS, 41, 0.2, "z")
    with pytest.raises(ValueError, match="supersampling is 0"):
        Observation(BANDS, 41, 0.2, "r", supersampling=0)


def test_no_simple_statistic_tells_the_classes_apart(population: Population, sky: Sky) -> None:
    """Total and central flux, rms and background in one band stay under an AUC of 0.7."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    one = Observation(bands=("r",), size=41, pixel_scale_arcsec=0.2, reference_band="r")
    only_r = Sky({"r": 0.7}, {"r": 6.3})
    setting = Setting(population, one, only_r, "kids", 2, 0.1, 0.1)
    mocks = make_modelled(setting, range(0, 8 * CHUNK))
    image, label = mocks.image_NCHW[:, 0], mocks.columns["label"]
    centre = image[:, 17:24, 17:24]
    features = np.stack(
        [image.sum((1, 2)), centre.sum((1, 2)), image.std((1, 2)), np.median(image, (1, 2))], 1
    )
    model = make_pipeline(StandardScaler(), LogisticRegression())
    chance = cross_val_predict(
        model, np.arcsinh(features / 100), label, cv=4, method="predict_proba"
    )
    assert roc_auc_score(label, chance[:, 1]) < 0.7
