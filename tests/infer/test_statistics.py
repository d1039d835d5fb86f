"""Laws of the trivial numbers of a stamp: planted values are found, what is masked is not."""

from __future__ import annotations

import numpy as np
import pytest

from lensfinder.infer.statistics import stamp_statistics

BANDS = ("g", "r")


def stamps(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    image_NCHW = np.random.default_rng(seed).normal(7.0, 2.0, (n, 2, 41, 41)).astype(np.float32)
    return image_NCHW, np.zeros(image_NCHW.shape, np.uint8)


def test_planted_flux_noise_offset_and_masks_are_found() -> None:
    image_NCHW, mask_NCHW = stamps()
    image_NCHW[:, 1] *= 3.0
    image_NCHW[:, 0, 20 + 4, 20 + 3] += 1e5
    mask_NCHW[:, :, :4] = 4
    found = stamp_statistics(image_NCHW, mask_NCHW, BANDS)
    assert np.median(found["stamp_flux_g_njy"]) == pytest.approx(1e5, rel=0.01)
    assert np.abs(np.median(found["stamp_flux_r_njy"])) < 500
    assert np.median(found["stamp_noise_g_njy"]) == pytest.approx(2.0, rel=0.05)
    assert np.median(found["stamp_noise_r_njy"]) == pytest.approx(6.0, rel=0.05)
    assert found["stamp_offset_pix"] == pytest.approx(5.0, abs=0.2)
    assert found["stamp_masked_fraction"] == pytest.approx(4 / 41)
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}


def test_masked_pixels_count_for_nothing_and_nan_is_masked() -> None:
    image_NCHW, mask_NCHW = stamps(20)
    clean = stamp_statistics(image_NCHW, mask_NCHW, BANDS)
    image_NCHW[:, 0, 20, 20], mask_NCHW[:, 0, 20, 20] = 1e9, 2
    image_NCHW[:, 1, 20, 20] = np.nan
    found = stamp_statistics(image_NCHW, mask_NCHW, BANDS)
    for name in ("stamp_noise_g_njy", "stamp_noise_r_njy"):
        np.testing.assert_array_equal(found[name], clean[name])
    assert np.abs(found["stamp_flux_g_njy"] - clean["stamp_flux_g_njy"]).max() < 20
    assert found["stamp_masked_fraction"] == pytest.approx(1 / 41**2)


def test_a_stamp_without_pixels_has_no_numbers_and_the_others_keep_theirs() -> None:
    image_NCHW, mask_NCHW = stamps(4)
    alone = stamp_statistics(image_NCHW[3:], mask_NCHW[3:], BANDS)
    image_NCHW[0] = np.nan
    mask_NCHW[1, 0] = 1
    found = stamp_statistics(image_NCHW, mask_NCHW, BANDS)
    assert np.isnan([found[n][0] for n in found if n != "stamp_masked_fraction"]).all()
    assert found["stamp_masked_fraction"].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert np.isnan(found["stamp_flux_g_njy"][1])
    assert np.isfinite(found["stamp_flux_r_njy"][1])
    for name, values in alone.items():
        assert found[name][3] == values[0]
