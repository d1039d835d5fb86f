"""The stream: the same mocks whoever makes them, new ones in each epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lensfinder.simulate.mocks import make_modelled
from lensfinder.simulate.recipe import Population
from lensfinder.simulate.stream import MockStream


@pytest.fixture(scope="module")
def ingredients(population: Population) -> dict[str, Any]:
    return {
        "seed": 3,
        "simulate": {"bands": ["r"], "size": 21, "val_fraction": 0.1, "test_fraction": 0.2},
        "sky": {
            "survey": "kids",
            "pixel_scale_arcsec": 0.2,
            "reference_band": "r",
            "psf_fwhm_arcsec": {"r": 0.7},
            "sky_rms_njy": {"r": 6.3},
        },
        "population": population.model_dump(mode="json"),
    }


def test_any_workers_batches_and_order_give_the_same_mocks(ingredients: dict[str, Any]) -> None:
    with MockStream(ingredients) as alone, MockStream(ingredients, workers=2) as shared:
        whole = alone.gather(4, np.arange(192))
        order = np.random.default_rng(1).permutation(192)
        parts = list(shared.batches(4, np.array_split(order, 5)))
    assert [len(part.label_N) for part in parts] == [39, 39, 38, 38, 38]
    assert np.concatenate([p.image_NCHW for p in parts]).tobytes() == (
        whole.image_NCHW[order].tobytes()
    )
    for name, values in whole.catalog.items():
        joined = np.concatenate([part.catalog[name] for part in parts])
        np.testing.assert_array_equal(joined, values[order])


def test_each_epoch_is_new_and_none_is_the_disks(ingredients: dict[str, Any]) -> None:
    with MockStream(ingredients) as stream:
        first, second = (stream.gather(epoch, np.arange(64)) for epoch in (0, 1))
        on_disk = make_modelled(stream.setting, range(64))
    images = [first.image_NCHW, second.image_NCHW, on_disk.image_NCHW]
    for k, image in enumerate(images):
        assert all(not np.array_equal(image, other) for other in images[:k])
    assert set(first.catalog["split"]) == {"train"}
    assert (first.label_N == (first.catalog["kind"] == "lens")).all()
    for column in ("id", "host_id"):
        ids = [*first.catalog[column], *second.catalog[column], *on_disk.columns[column]]
        assert len(set(ids)) == 3 * 64


def test_bad_requests_are_refused(ingredients: dict[str, Any]) -> None:
    with MockStream(ingredients) as stream, pytest.raises(ValueError, match="start at 0"):
        stream.gather(0, np.array([-1]))
    with pytest.raises(ValueError, match="hosts are needed"):
        MockStream({**ingredients, "hosts": []})
