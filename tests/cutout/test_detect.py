"""Laws of detection: what is planted is found, where it is, and nothing in nothing."""

from __future__ import annotations

import numpy as np
import pytest

from lensfinder.cutout.detect import Reader, detect, galaxies

SHAPE_YX = (120, 140)


def scene(xy: list[tuple[float, float]], sigma_pix: float = 3.0) -> np.ndarray:
    image = np.random.default_rng(3).normal(size=SHAPE_YX) + 50.0
    y, x = np.mgrid[: SHAPE_YX[0], : SHAPE_YX[1]]
    for x0, y0 in xy:
        image += 40 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma_pix**2))
    return image.astype(np.float32)


def reader(image: np.ndarray, bad: np.ndarray | None = None) -> Reader:
    mask = np.zeros(image.shape, bool) if bad is None else bad
    return lambda rows, columns: (image[rows, columns], mask[rows, columns])


def find(image: np.ndarray, bad: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return detect(reader(image, bad), image.shape, 3.5, sigma=5.0, pixels=9)


def test_planted_objects_are_found_where_they_are() -> None:
    planted = [(20.3, 30.8), (100.0, 90.5), (70.6, 15.0), (14.0, 105.0)]
    found = find(scene(planted))
    positions = np.column_stack([found["x"], found["y"]])
    assert len(positions) == len(planted)
    for xy in planted:
        assert np.hypot(*(positions - xy).T).min() < 0.3
    flux = 40 * 2 * np.pi * 3.0**2
    np.testing.assert_allclose(found["flux_njy"], flux, rtol=0.1)
    assert galaxies(found["half_light_radius_pix"], 3.5, 1.15).all()
    assert not galaxies(found["half_light_radius_pix"], 8.0, 1.15).any()
    assert galaxies(found["half_light_radius_pix"], 8.0, 0).all()


def test_masked_objects_are_not_found() -> None:
    image, bad = scene([(30.0, 30.0), (100.0, 80.0)]), np.zeros(SHAPE_YX, bool)
    bad[20:41, 20:41] = True
    image[bad] = np.nan
    found = find(image, bad)
    assert np.round(found["x"]).tolist() == [100]


@pytest.mark.parametrize("value", [1.6e38, -3e38])
def test_numbers_that_no_sky_has_are_no_light(value: float) -> None:
    """A sentinel, or bytes out of step, whose sums overflow."""
    image = scene([(30.0, 30.0), (100.0, 80.0)])
    image[28:33:2, 28:33] = value
    image[5:115:7, 3] = value
    found = find(image)
    assert np.hypot(found["x"] - 100, found["y"] - 80).min() < 0.3
    assert np.isfinite(found["flux_njy"]).all()


@pytest.mark.parametrize("value", [np.nan, 0.0, 7.0])
def test_nothing_is_found_in_nothing(value: float) -> None:
    found = find(np.full(SHAPE_YX, value, np.float32))
    assert all(len(column) == 0 for column in found.values())


def test_a_tile_smaller_than_the_background_box_is_searched() -> None:
    image = scene([(20.0, 20.0)])[:40, :40]
    found = find(image)
    assert np.round(found["x"]).tolist() == [20]


def crowd(seed: int, shape_YX: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw stars and galaxies of all brightnesses, some of them touching, on an uneven sky."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape_YX).astype(np.float32)
    y, x = np.mgrid[: shape_YX[0], : shape_YX[1]]
    image += (50 + 0.01 * x + 3 * np.sin(y / 150)).astype(np.float32)
    xy = rng.uniform(0, np.array(shape_YX[::-1]) - 1, (shape_YX[0] * shape_YX[1] // 1500, 2))
    for x0, y0 in xy:
        rows = slice(max(0, int(y0) - 25), int(y0) + 26)
        columns = slice(max(0, int(x0) - 25), int(x0) + 26)
        squared = (x[rows, columns] - x0) ** 2 + (y[rows, columns] - y0) ** 2
        image[rows, columns] += 10 ** rng.uniform(0.3, 2.5) * np.exp(
            -squared / (2 * rng.uniform(1.5, 4) ** 2)
        )
    return image, xy


@pytest.mark.parametrize("block_pix", [150, 217, 256])
def test_blocks_find_what_the_whole_finds(block_pix: int) -> None:
    image, _ = crowd(block_pix, (400, 460))
    bad = np.zeros(image.shape, bool)
    bad[100:130, :300] = bad[:, 256] = True
    image[bad] = np.nan
    once, blocked = (
        detect(reader(image, bad), image.shape, 3.5, sigma=3.0, pixels=5, block_pix=side)
        for side in (10**6, block_pix)
    )
    assert len(once["x"]) > 50
    # Nothing is lost, nothing is doubled, and all of it is measured alike.
    for found in (once, blocked):
        order = np.lexsort((found["x"], found["y"]))
        found.update({name: values[order] for name, values in found.items()})
    for name, values in once.items():
        np.testing.assert_allclose(blocked[name], values, rtol=1e-5, err_msg=name)


def test_a_star_is_a_star_however_faint() -> None:
    rng = np.random.default_rng(5)
    shape_YX, fwhm = (600, 600), 4.0
    image = rng.normal(size=shape_YX).astype(np.float32)
    y, x = np.mgrid[:600, :600]
    for number in range(100):
        x0, y0 = 30 + 60 * (number % 10) + rng.uniform(-1, 1, 2)[0], 30 + 60 * (number // 10)
        sigma = fwhm / 2.3548 * (1 if number % 2 else 2)
        height = 10 ** rng.uniform(1, 3) / (1 if number % 2 else 4)
        image += (height * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))).astype("f4")
    found = detect(reader(image), shape_YX, fwhm, sigma=3.0, pixels=9)
    star = (np.round((found["x"] - 30) / 60) % 2).astype(bool)
    bright = found["flux_njy"] > 200
    extended = galaxies(found["half_light_radius_pix"], fwhm, 1.3)
    assert extended[~star & bright].mean() > 0.95
    assert extended[star & bright].mean() < 0.05


def test_fluxes_may_be_those_of_another_image() -> None:
    image = scene([(30.0, 30.0), (100.0, 80.0)])
    once = find(image)
    twice = detect(reader(image), SHAPE_YX, 3.5, sigma=5.0, pixels=9, measure=reader(2 * image + 7))
    np.testing.assert_allclose(twice["flux_njy"], 2 * once["flux_njy"], rtol=1e-4)
    assert np.array_equal(twice["x"], once["x"])
