"""Laws of stamps: a stamp is a window on the padded plane."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lensfinder import stamps


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    centres=st.lists(st.tuples(st.integers(-40, 60), st.integers(-40, 60)), max_size=5),
    half=st.integers(0, 15),
)
def test_a_stamp_is_a_window_on_the_padded_plane(
    shape: tuple[int, int], centres: list[tuple[int, int]], half: int
) -> None:
    plane = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    padded = np.pad(plane, 100, constant_values=-1)
    ix, iy = np.array(centres, dtype=np.int64).reshape(-1, 2).T
    got = stamps.crop(plane, ix, iy, 2 * half + 1, fill=-1, dtype=np.int32)
    assert got.shape == (len(centres), 2 * half + 1, 2 * half + 1)
    for stamp, (x, y) in zip(got, centres, strict=True):
        window = padded[100 + y - half : 101 + y + half, 100 + x - half : 101 + x + half]
        assert np.array_equal(stamp, window)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_the_central_pixel_is_the_nearest(positions: list[float]) -> None:
    x = np.array(positions)
    index, offset = stamps.central_pixels(x)
    assert ((offset >= -0.5) & (offset <= 0.5)).all()
    np.testing.assert_allclose(index + offset.astype(float), x, atol=1e-6)
