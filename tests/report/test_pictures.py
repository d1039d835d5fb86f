"""Laws of thumbnails, figures and the completeness map behind one of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from lensfinder.report import completeness, figures, metrics, thumbnails

RED, GREEN, BLUE, ALPHA = range(4)


def noisy_stamp(n_bands: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5.0, 2.0, (n_bands, 41, 41))


def with_source(image_CHW: np.ndarray, flux_per_band: list[float]) -> np.ndarray:
    yy, xx = np.mgrid[:41, :41] - 20
    return image_CHW + np.array(flux_per_band)[:, None, None] * np.exp(-(xx**2 + yy**2) / 18)


def test_the_reddest_band_is_shown_red_and_the_bluest_blue() -> None:
    red_HWC = thumbnails.colour_image(with_source(noisy_stamp(3), [10, 30, 90]))
    blue_HWC = thumbnails.colour_image(with_source(noisy_stamp(3), [90, 30, 10]))
    assert red_HWC[20, 20, RED] > red_HWC[20, 20, GREEN] > red_HWC[20, 20, BLUE]
    assert blue_HWC[20, 20, BLUE] > blue_HWC[20, 20, GREEN] > blue_HWC[20, 20, RED]


@pytest.mark.parametrize("n_bands", [1, 2, 3, 4, 6])
def test_any_number_of_bands_gives_an_opaque_picture(n_bands: int) -> None:
    rgba_HWC = thumbnails.colour_image(with_source(noisy_stamp(n_bands), [200.0] * n_bands))
    assert rgba_HWC.shape == (41, 41, 4)
    assert np.all(rgba_HWC[..., ALPHA] == 255)
    assert rgba_HWC[20, 20, :3].max() > 200
    assert rgba_HWC[:8, :8, :3].mean() < 80


def test_one_band_is_grey() -> None:
    rgba_HWC = thumbnails.colour_image(with_source(noisy_stamp(1), [50.0]))
    assert np.ptp(rgba_HWC[..., :3].astype(int), axis=-1).max() == 0


def test_the_scale_follows_the_noise_and_the_sky_level_is_taken_off() -> None:
    image_CHW = with_source(noisy_stamp(3), [30, 40, 50])
    level = np.array([1e3, 2.0, -7.0])[:, None, None]
    same = thumbnails.colour_image(1e3 * (image_CHW + level))
    assert np.abs(same.astype(int) - thumbnails.colour_image(image_CHW)).max() <= 4


def test_missing_pixels_are_transparent_and_never_black() -> None:
    image_CHW = with_source(noisy_stamp(3), [30, 40, 50])
    image_CHW[:, :10] = np.nan
    image_CHW[1, 20, 20] = np.nan
    rgba_HWC = thumbnails.colour_image(image_CHW)
    assert np.all(rgba_HWC[:10, :, ALPHA] == 0)
    assert np.all(rgba_HWC[10:, :, ALPHA] == 255)
    # A pixel with two bands of three keeps its brightness, without a colour.
    assert np.ptp(rgba_HWC[20, 20, :3].astype(int)) == 0
    assert rgba_HWC[20, 20, RED] > 150


@pytest.mark.parametrize("fill", [np.nan, 0.0, 3.0])
def test_a_stamp_without_a_signal_is_drawn_without_a_warning(fill: float) -> None:
    rgba_HWC = thumbnails.colour_image(np.full((3, 11, 11), fill))
    assert np.all(rgba_HWC[..., ALPHA] == (0 if np.isnan(fill) else 255))


def test_png_shows_row_zero_at_the_bottom_and_is_the_same_every_time() -> None:
    rgba_HWC = np.full((5, 4, 4), 255, dtype=np.uint8)
    rgba_HWC[0, :, :3] = 0
    data = thumbnails.png(rgba_HWC)
    assert data == thumbnails.png(rgba_HWC)
    picture = imread(io.BytesIO(data))
    assert np.all(picture[-1, :, :3] == 0.0)
    assert np.all(picture[:-1] == 1.0)


def test_every_lens_with_a_truth_falls_in_one_cell() -> None:
    rng = np.random.default_rng(0)
    theta_e_arcsec = np.r_[rng.uniform(0, 5, 500), 0.6, np.nan]
    source_snr = np.r_[rng.uniform(0, 300, 500), 10.0, 20.0]
    recovered = rng.random(502) < 0.5
    cells = completeness.completeness_map(theta_e_arcsec, source_snr, recovered)
    assert cells.n_without_truth == 1
    assert cells.n_simulated_ST.sum() == 501
    assert cells.n_recovered_ST.sum() == recovered[:501].sum()
    assert np.all(cells.n_recovered_ST <= cells.n_simulated_ST)


def test_a_value_on_an_edge_belongs_to_the_cell_above() -> None:
    cells = completeness.completeness_map(
        np.array([1.0]), np.array([20.0]), np.array([True]),
        np.array([0.0, 1.0, 2.0]), np.array([0.0, 20.0, np.inf]),
    )  # fmt: skip
    assert cells.n_recovered_ST.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("palette", [figures.LIGHT, figures.DARK])
def test_figures_are_pictures_and_the_same_every_time(palette: figures.Palette) -> None:
    rng = np.random.default_rng(1)
    is_lens_N = np.arange(400) < 100
    logit_N = rng.normal(0, 1, 400) + 2 * is_lens_N
    curve = metrics.roc(logit_N, is_lens_N)
    cells = completeness.completeness_map(
        rng.uniform(0, 4, 100), rng.uniform(0, 99, 100), logit_N[:100] > 2
    )
    drawings = [
        lambda: figures.roc_figure(curve, 300, (0.01, 0.5), palette),
        lambda: figures.histogram_figure(
            {"lenses": logit_N[:100], "negatives": logit_N[100:], "sky": np.empty(0)}, 1.0, palette
        ),
        lambda: figures.completeness_figure(cells, palette),
    ]
    for draw in drawings:
        data = draw()
        assert data.startswith(b"\x89PNG")
        assert data == draw()
        assert imread(io.BytesIO(data))[..., :3].std() > 0.01


def test_a_histogram_of_one_value_and_a_roc_of_one_negative_are_drawn() -> None:
    assert figures.histogram_figure({"sky": np.ones(3)}, None).startswith(b"\x89PNG")
    curve = metrics.roc(np.array([1.0, 0.0]), np.array([True, False]))
    assert figures.roc_figure(curve, 1, None).startswith(b"\x89PNG")
