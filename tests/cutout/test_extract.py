"""Laws of a stamp's judgement: each ends as exactly one outcome, by rules that can be stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensfinder import schema
from lensfinder.cutout.extract import Room, judge

SIZE = 21
HALF = SIZE // 2


def one(**changes: object) -> tuple[str, str, int]:
    """Judge one stamp of noise in two bands, changed as asked."""
    image = np.random.default_rng(1).normal(size=(1, 2, SIZE, SIZE)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    edge = np.array([bool(changes.get("edge", False))])
    change = changes.get("change")
    if callable(change):
        change(image[0], mask[0])
    outcome, reason, flags = judge(image, mask, edge, 5.0, 0.5)
    return outcome[0], reason[0], int(flags[0])


def spoil(image: np.ndarray, mask: np.ndarray, rows: int) -> None:
    image[1, :rows], mask[1, :rows] = np.nan, schema.MASK_NO_DATA


def test_a_clean_stamp_is_ok() -> None:
    assert one() == ("ok", "", 0)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "outcome", "reason"),
    [
        (lambda image, mask: spoil(image, mask, 1), "ok", ""),
        (lambda image, mask: spoil(image, mask, 5), "flagged", "masked"),
        (lambda image, mask: spoil(image, mask, SIZE), "rejected", "no_data"),
        (lambda image, mask: mask[0].fill(schema.MASK_BAD), "rejected", "masked"),
        (lambda image, mask: image[1].fill(3.0), "rejected", "constant"),
        (
            lambda image, mask: mask[1].__setitem__((HALF, HALF + 4), schema.MASK_SATURATED),
            "flagged",
            "saturated",
        ),
        (lambda image, mask: mask[1].__setitem__((0, 0), schema.MASK_SATURATED), "ok", ""),
    ],
)
def test_damage_in_one_band_decides(change: object, outcome: str, reason: str) -> None:
    assert one(change=change)[:2] == (outcome, reason)


def test_a_stamp_over_the_edge_is_flagged() -> None:
    assert one(edge=True) == ("flagged", "edge", schema.FLAG_EDGE)


@pytest.mark.fault
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), n=st.integers(0, 5))
def test_every_stamp_has_exactly_one_outcome(seed: int, share: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(n, 2, 9, 9)).astype(np.float32)
    mask = (rng.uniform(size=image.shape) < share) * rng.choice([1, 2, 4, 7], image.shape)
    mask = mask.astype(np.uint8)
    image[(mask & schema.MASK_NO_DATA) != 0] = np.nan
    outcome, reason, flags = judge(image, mask, rng.uniform(size=n) < 0.5, 2.0, 0.5)
    assert set(outcome) <= {"ok", "flagged", "rejected"}
    assert all((o == "ok") == (r == "") for o, r in zip(outcome, reason, strict=True))
    kept = outcome != "rejected"
    assert np.array_equal(outcome[kept] == "flagged", flags[kept] != 0)
    # What is kept has data in its centre and can be normalised, in every band.
    assert np.isfinite(image[kept][:, :, 4, 4]).all()


def test_room_is_given_again_and_never_shared_between_names() -> None:
    room = Room()
    first = room.take("image", (4, 2, 3, 3), np.float32)
    first.fill(1)
    other = room.take("mask", (4, 2, 3, 3), np.uint8)
    other.fill(2)
    assert (first == 1).all()
    again = room.take("image", (3, 2, 3, 3), np.float32)
    assert np.shares_memory(first, again)
    larger = room.take("image", (5, 2, 3, 3), np.float32)
    assert larger.shape == (5, 2, 3, 3)
    assert not np.shares_memory(first, larger)
