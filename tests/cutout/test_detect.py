"""Laws of detection: what is planted is found, where it is, and nothing in nothing."""

from __future__ import annotations

import numpy as np
import pytest

from lensfinder.cutout.detect import detect, galaxies

SHAPE_YX = (120, 140)


def scene(xy: list[tuple[float, float]], sigma_pix: float = 3.0) -> np.ndarray:
    image = np.random.default_rng(3).normal(size=SHAPE_YX) + 50.0
    y, x = np.mgrid[: SHAPE_YX[0], : SHAPE_YX[1]]
    for x0, y0 in xy:
        image += 40 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma_pix**2))
    return image.astype(np.float32)


def find(image: np.ndarray, bad: np.ndarray | None = None) -> dict[str, np.ndarray]:
    bad = np.zeros(SHAPE_YX, bool) if bad is None else bad
    return detect(image, bad, 3.5, sigma=5.0, pixels=9)


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


@pytest.mark.parametrize("value", [np.nan, 0.0, 7.0])
def test_nothing_is_found_in_nothing(value: float) -> None:
    found = find(np.full(SHAPE_YX, value, np.float32))
    assert all(len(column) == 0 for column in found.values())


def test_a_tile_smaller_than_the_background_box_is_searched() -> None:
    image = scene([(20.0, 20.0)])[:40, :40]
    found = detect(image, np.zeros(image.shape, bool), 3.5, sigma=5.0, pixels=9)
    assert np.round(found["x"]).tolist() == [20]
