"""Laws of thumbnails, figures and the completeness map behind one of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from lensfinder.report import bandpixels, bootstrap, calibration, completeness, figures, metrics


def noisy_stamp(n_bands: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5.0, 2.0, (n_bands, 41, 41))


def with_source(image_CHW: np.ndarray, flux_per_band: list[float]) -> np.ndarray:
    yy, xx = np.mgrid[:41, :41] - 20
    return image_CHW + np.array(flux_per_band)[:, None, None] * np.exp(-(xx**2 + yy**2) / 18)


def decoded(coded: bandpixels.CodedStamp, n_bands: int) -> np.ndarray:
    """Signal over noise of each band, as the page's script reads it."""
    order = bandpixels.shown_bands(n_bands)
    signal: dict[int, np.ndarray] = {}
    for i, png in enumerate(coded.pngs):
        pixels = np.round(255 * np.atleast_3d(imread(io.BytesIO(png)))[::-1]).astype(int)
        for channel, band in enumerate(order[3 * i : 3 * i + 3]):
            value = pixels[..., channel]
            stretched = coded.low + (value - 1) * coded.step
            signal[band] = np.where(
                value > 0, bandpixels.SOFTENING_SIGMA * np.sinh(stretched), np.nan
            )
    return np.stack([signal[band] for band in range(n_bands)])


@pytest.mark.parametrize("n_bands", [1, 2, 3, 4, 5, 6])
def test_every_band_is_found_again_within_half_a_step(n_bands: int) -> None:
    image_CHW = with_source(noisy_stamp(n_bands), [20.0 * (c + 1) for c in range(n_bands)])
    image_CHW[0, :3] = np.nan
    coded = bandpixels.encode(image_CHW)
    got_CHW = decoded(coded, n_bands)
    for c, image_HW in enumerate(image_CHW):
        sky, sigma = bandpixels.sky_and_noise(image_HW)
        assert coded.noise_njy[c] == sigma
        wanted = np.arcsinh((image_HW - sky) / sigma / 3.0)
        np.testing.assert_array_equal(np.isnan(got_CHW[c]), np.isnan(image_HW))
        dark = wanted < coded.low
        error = np.abs(np.arcsinh(got_CHW[c] / 3.0) - wanted)[~dark & np.isfinite(wanted)]
        # The stored levels lie a whole step apart; the picture's values may be spread wider.
        assert error.max() <= 0.5 * 0.12 + 1e-6


def test_the_reddest_band_is_the_red_channel_of_the_picture() -> None:
    red = imread(io.BytesIO(bandpixels.encode(with_source(noisy_stamp(3), [10, 30, 90])).pngs[0]))
    assert red[20, 20, 0] > red[20, 20, 1] > red[20, 20, 2]
    assert bandpixels.shown_bands(6)[:3] == (5, 3, 0)
    assert sorted(bandpixels.shown_bands(6)) == list(range(6))


def test_the_code_follows_the_noise_and_the_sky_level_is_taken_off() -> None:
    image_CHW = with_source(noisy_stamp(3), [30, 40, 50])
    level = np.array([1e3, 2.0, -7.0])[:, None, None]
    one, other = bandpixels.encode(image_CHW), bandpixels.encode(1e3 * (image_CHW + level))
    assert decoded(other, 3) == pytest.approx(decoded(one, 3), abs=1.0)
    assert other.white_sigma == pytest.approx(one.white_sigma)


@pytest.mark.parametrize("fill", [np.nan, 0.0, 3.0])
def test_a_stamp_without_a_signal_is_coded_without_a_warning(fill: float) -> None:
    got_CHW = decoded(bandpixels.encode(np.full((3, 11, 11), fill)), 3)
    assert np.all(np.isnan(got_CHW) if np.isnan(fill) else np.abs(got_CHW) < 0.5)


def test_a_picture_shows_row_zero_at_the_bottom_and_is_the_same_every_time() -> None:
    image_CHW = noisy_stamp(1)
    image_CHW[0, 0] = 1e4
    coded = bandpixels.encode(image_CHW)
    assert coded == bandpixels.encode(image_CHW)
    picture = imread(io.BytesIO(coded.pngs[0]))
    assert picture[-1].min() > picture[:-1].max()


def test_a_page_of_too_many_stamps_is_coded_in_coarser_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stamps = [noisy_stamp(3, seed) for seed in range(4)]
    fine = bandpixels.encode_all([*stamps, None])
    monkeypatch.setattr(bandpixels, "_MOST_BYTES", 9_000)
    coarse = bandpixels.encode_all([*stamps, None])
    assert fine[-1] is coarse[-1] is None

    def size(coded: list[bandpixels.CodedStamp | None]) -> int:
        return sum(len(png) for item in coded if item for png in item.pngs)

    assert size(coarse) <= 9_000 < size(fine)


def test_every_lens_with_a_truth_falls_in_one_cell() -> None:
    rng = np.random.default_rng(0)
    theta_e_arcsec = np.r_[rng.uniform(0, 5, 500), 0.6, np.nan]
    source_snr = np.r_[rng.uniform(0, 300, 500), 10.0, 20.0]
    selected, recovered = rng.random((2, 502)) < 0.5
    cells = completeness.completeness_map(theta_e_arcsec, source_snr, selected, recovered)
    assert cells.n_without_truth == 1
    assert cells.n_simulated_ST.sum() == 501
    assert cells.n_selected_ST.sum() == selected[:501].sum()
    # What was never a target is not recovered, whatever its score.
    assert cells.n_recovered_ST.sum() == (selected & recovered)[:501].sum()


def test_a_value_on_an_edge_belongs_to_the_cell_above() -> None:
    cells = completeness.completeness_map(
        np.array([1.0]), np.array([20.0]), np.array([True]), np.array([True]), "source_snr",
        np.array([0.0, 20.0, np.inf]), np.array([0.0, 1.0, 2.0]),
    )  # fmt: skip
    assert cells.n_recovered_ST.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("palette", [figures.LIGHT, figures.DARK])
def test_figures_are_pictures_and_the_same_every_time(palette: figures.Palette) -> None:
    rng = np.random.default_rng(1)
    is_lens_N = np.arange(400) < 100
    logit_N = rng.normal(0, 1, 400) + 2 * is_lens_N
    curve = metrics.roc(logit_N, is_lens_N)
    draws = bootstrap.roc_draws(logit_N, is_lens_N, seed=0, fpr_G=np.array([0.1, 1.0]))
    everything = np.ones(100, bool)
    by_snr, by_magnitude = (
        completeness.completeness_map(
            rng.uniform(0, 4, 100), rng.uniform(20, 30, 100), everything, logit_N[:100] > 2, *axis
        )
        for axis in ((), ("mag_source_r", completeness.SOURCE_MAG_EDGES))
    )
    kinds = {"$ring": curve, "spiral": curve}
    recall_M, precision_M = metrics.precision(curve, 0.1)
    counts = metrics.histograms({"lenses": logit_N[:100], "negatives": logit_N[100:]})
    bins = calibration.reliability(rng.random(400), is_lens_N)
    drawings = [
        lambda: figures.roc_figure(curve, 300, (0.01, 0.5), palette, draws, kinds),
        lambda: figures.precision_figure(
            recall_M, precision_M, precision_M / 9, 1e-3, palette, {"a": (recall_M, precision_M)}
        ),
        lambda: figures.reliability_figure(bins, palette),
        lambda: figures.histogram_figure(counts["edges"], counts["counts"], 1.0, palette),
        lambda: figures.kinds_figure(counts["edges"], counts["counts"], 1.0, palette),
        lambda: figures.kinds_figure(counts["edges"], counts["counts"], None, palette),
        lambda: figures.completeness_figure(by_snr, palette),
        lambda: figures.completeness_figure(by_magnitude, palette),
    ]
    for draw in drawings:
        data = draw()
        assert data.startswith(b"\x89PNG")
        assert data == draw()
        assert imread(io.BytesIO(data))[..., :3].std() > 0.01


def test_a_histogram_of_one_value_and_a_roc_of_one_negative_are_drawn() -> None:
    counts = metrics.histograms({"sky": np.ones(3)})
    assert figures.histogram_figure(counts["edges"], counts["counts"], None).startswith(b"\x89PNG")
    curve = metrics.roc(np.array([1.0, 0.0]), np.array([True, False]))
    assert figures.roc_figure(curve, 1, None).startswith(b"\x89PNG")
