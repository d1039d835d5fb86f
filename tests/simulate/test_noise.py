"""Noise: variance and correlation as stated, for every kind; bad pixels marked."""

from __future__ import annotations

import numpy as np
import pytest

from lensfinder.schema import MASK_BAD, MASK_NO_DATA
from lensfinder.simulate.noise import Noise, add_noise, spoil

SKY = np.array([2.0, 5.0])
GAIN = np.array([4.0, 10.0])
IMAGE = np.zeros((2, 300, 300), dtype=np.float32)
IMAGE[:, :, 150:] = 400.0


def patches() -> np.ndarray:
    rng = np.random.default_rng(8)
    return rng.standard_normal((3, 2, 340, 320)) * np.array([7.0, 0.3])[:, None, None]


KINDS = {
    "gaussian": Noise(),
    "poisson": Noise(kind="poisson"),
    "correlated": Noise(correlation_pixels=1.5),
    "correlated poisson": Noise(kind="poisson", correlation_pixels=0.8),
    "real sky": Noise(sky_patches_PCYX=patches()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_variance_is_sky_and_photons(kind: str) -> None:
    noisy = add_noise(np.random.default_rng(1), IMAGE, SKY, GAIN, KINDS[kind])
    assert noisy.dtype == np.float32
    residual = noisy.astype(float) - IMAGE
    # Five standard errors of the mean where noise is correlated.
    assert np.abs(residual.mean(axis=(1, 2)) / SKY).max() < 0.09
    dark, bright = residual[:, :, :150], residual[:, :, 150:]
    np.testing.assert_allclose(dark.std(axis=(1, 2)), SKY, rtol=0.03)
    expected = np.sqrt(SKY**2 + 400 / GAIN)
    np.testing.assert_allclose(bright.std(axis=(1, 2)), expected, rtol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_its_generators(kind: str) -> None:
    first, again, other = (
        add_noise(np.random.default_rng(seed), IMAGE, SKY, GAIN, KINDS[kind]) for seed in (1, 1, 2)
    )
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_without_a_gain_objects_add_no_noise() -> None:
    noisy = add_noise(np.random.default_rng(1), IMAGE, SKY)
    np.testing.assert_allclose((noisy - IMAGE)[:, :, 150:].std(axis=(1, 2)), SKY, rtol=0.02)
    with pytest.raises(ValueError, match="Poisson noise needs the photo-electrons"):
        add_noise(np.random.default_rng(1), IMAGE, SKY, None, Noise(kind="poisson"))


def test_correlation_has_the_stated_length() -> None:
    noise = Noise(correlation_pixels=2.0)
    sky = add_noise(
        np.random.default_rng(3), np.zeros((1, 400, 400), np.float32), SKY[:1], None, noise
    )
    for lag in (1, 2, 4):
        r = np.corrcoef(sky[0, :, lag:].ravel(), sky[0, :, :-lag].ravel())[0, 1]
        assert r == pytest.approx(np.exp(-(lag**2) / 8), abs=0.03)


def test_poisson_is_poisson() -> None:
    """Skewed, as counts are: skewness 1 / sqrt(mean)."""
    image = np.full((1, 300, 300), 1.0, dtype=np.float32)
    noise = Noise(kind="poisson")
    noisy = add_noise(np.random.default_rng(2), image, np.array([1e-3]), np.array([4.0]), noise)
    z = (noisy - 1.0) / noisy.std()
    assert float((z**3).mean()) == pytest.approx(1 / 2, abs=0.03)
    assert float(noisy.var()) == pytest.approx(1 / 4, rel=0.03)


def test_dead_pixels_read_zero_and_are_marked() -> None:
    image = np.full((2, 200, 200), 5.0, dtype=np.float32)
    noise = Noise(bad_pixel_fraction=0.02, bad_columns=3.0)
    spoiled, mask = spoil(np.random.default_rng(4), image, noise)
    dead = mask == MASK_BAD
    assert (spoiled[dead] == 0).all()
    assert (spoiled[mask == 0] == 5).all()
    columns = dead.all(axis=1).sum()
    single = dead.sum() - 200 * columns
    assert single == pytest.approx(0.02 * image.size, rel=0.2)
    untouched, clear = spoil(np.random.default_rng(4), image[1:], Noise())
    assert untouched.tobytes() == image[1:].tobytes()
    assert not clear.any()


def test_beyond_an_edge_nothing_is_and_the_centre_stays() -> None:
    """On any side, the same in all bands, and never more than 45 % of a stamp."""
    image = np.full((2, 41, 41), 5.0, dtype=np.float32)
    sides = set()
    for seed in range(40):
        spoiled, mask = spoil(np.random.default_rng(seed), image, Noise(off_edge_fraction=1.0))
        missing = mask == MASK_NO_DATA
        assert (np.isnan(spoiled) == missing).all()
        assert (missing[0] == missing[1]).all()
        assert missing[0].mean() < 0.45
        rows, columns = np.nonzero(missing[0])
        for name, at in (("bottom", rows == 0), ("top", rows == 40), ("left", columns == 0),
                         ("right", columns == 40)):  # fmt: skip
            if at.sum() == 41:
                sides.add(name)
        assert len(set(rows)) == 41 or len(set(columns)) == 41 or not missing.any()
    assert sides == {"bottom", "top", "left", "right"}


def test_bad_noise_is_refused() -> None:
    for length in (-1.0, 11.0, np.nan):
        with pytest.raises(ValueError, match=r"correlation_pixels is .* expected 0 to 10"):
            Noise(correlation_pixels=length)
    with pytest.raises(ValueError, match="bad_pixel_fraction is 1"):
        Noise(bad_pixel_fraction=1.0)
    with pytest.raises(ValueError, match="off_edge_fraction is 2"):
        Noise(off_edge_fraction=2.0)
    small = Noise(sky_patches_PCYX=np.zeros((1, 2, 50, 50)))
    with pytest.raises(ValueError, match="at least 300 x 300 pixels"):
        add_noise(np.random.default_rng(0), IMAGE, SKY, GAIN, small)
