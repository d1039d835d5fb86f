"""Laws of ownership: no target is lost or doubled where tiles overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import tan_wcs

from lensfinder.cutout.targets import assign, keep_once
from lensfinder.footprints import Footprint, separation_deg

SHAPE_YX = (300, 300)  # a minute of arc
JITTER_ARCSEC = 0.3
# Objects this far apart are never taken for one another.
APART_ARCSEC = 3.0


def four_tiles(rng: np.random.Generator, ra: float, dec: float) -> list[Footprint]:
    """Place four tiles that overlap by a third, a little turned and displaced."""
    tiles = []
    for number in range(4):
        across, up = (number % 2 - 0.5) * 40, (number // 2 - 0.5) * 40
        across, up = np.array([across, up]) + rng.uniform(-3, 3, 2)
        wcs = tan_wcs(
            (ra + across / 3600 / np.cos(np.radians(dec))) % 360,
            dec + up / 3600,
            SHAPE_YX,
            rotation_deg=rng.uniform(-5, 5),
        )
        tiles.append(Footprint.of(f"tile{number}", wcs, SHAPE_YX))
    return tiles


def objects(
    rng: np.random.Generator, ra: float, dec: float, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions over the four tiles and some way beyond, `APART_ARCSEC` from each other."""
    xy = rng.uniform(-60, 60, (n, 2))
    kept: list[np.ndarray] = []
    for one in xy:
        if all(np.hypot(*(one - other)) > APART_ARCSEC for other in kept):
            kept.append(one)
    xy = np.array(kept) / 3600
    return (ra + xy[:, 0] / np.cos(np.radians(dec))) % 360, dec + xy[:, 1]


places = given(
    seed=st.integers(0, 2**32 - 1),
    ra=st.sampled_from([0.0, 0.001, 123.4, 359.999]),
    dec=st.sampled_from([-60.0, 0.0, 33.3, 80.0]),
    order=st.permutations(range(4)),
)


@pytest.mark.fault
@settings(deadline=None, max_examples=40)
@places
def test_each_target_of_a_catalogue_has_one_owner(
    seed: int, ra: float, dec: float, order: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    tiles = four_tiles(rng, ra, dec)
    target_ra, target_dec = objects(rng, ra, dec, 150)
    ownership = assign(target_ra, target_dec, tiles)
    covered = np.array([tile.pixel_of(target_ra, target_dec)[2] for tile in tiles])
    distance = np.array(
        [separation_deg(t.centre_ra, t.centre_dec, target_ra, target_dec) for t in tiles]
    )
    nearest = np.where(covered, distance, np.inf).argmin(axis=0)
    assert np.array_equal(ownership.owner_N, np.where(covered.any(axis=0), nearest, -1))
    # Whoever fails, the next nearest covering tile takes over, until none is left.
    for failed in range(4):
        left = ownership.without([failed])
        others = np.where(covered, distance, np.inf)
        others[failed] = np.inf
        expected = np.where(np.isfinite(others.min(axis=0)), others.argmin(axis=0), -1)
        assert np.array_equal(left.owner_N, expected)
    assert (ownership.without(range(4)).owner_N == -1).all()
    # The order in which tiles are given decides nothing.
    shuffled = assign(target_ra, target_dec, [tiles[t] for t in order]).owner_N
    assert np.array_equal(np.where(shuffled < 0, -1, np.array(order)[shuffled]), ownership.owner_N)


@pytest.mark.fault
@settings(deadline=None, max_examples=60)
@places
def test_each_detected_object_is_kept_once(
    seed: int, ra: float, dec: float, order: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    tiles = four_tiles(rng, ra, dec)
    true_ra, true_dec = objects(rng, ra, dec, 150)
    detections, which = [], []
    for tile in tiles:
        # Each tile sees each object somewhere else, and loses some.
        jitter = rng.uniform(-1, 1, (2, len(true_ra))) * JITTER_ARCSEC / np.sqrt(2) / 3600
        seen_ra = (true_ra + jitter[0] / np.cos(np.radians(true_dec))) % 360
        seen_dec = true_dec + jitter[1]
        seen = tile.pixel_of(seen_ra, seen_dec)[2] & (rng.uniform(size=len(true_ra)) < 0.9)
        detections.append({"ra": seen_ra[seen], "dec": seen_dec[seen]})
        which.append(np.flatnonzero(seen))
    keep = keep_once(detections, tiles)
    kept = np.concatenate([objects_[k] for objects_, k in zip(which, keep, strict=True)])
    assert sorted(kept) == sorted(set(np.concatenate(which)))

    again = keep_once([detections[t] for t in order], [tiles[t] for t in order])
    for place, t in enumerate(order):
        assert np.array_equal(again[place], keep[t])


def test_without_tiles_or_targets_nobody_owns_anything() -> None:
    position = np.array([1.0, 2.0])
    assert assign(position, position, []).owner_N.tolist() == [-1, -1]
    tile = Footprint.of("t", tan_wcs(shape_YX=SHAPE_YX), SHAPE_YX)
    assert assign(position[:0], position[:0], [tile]).owner_N.tolist() == []
    assert keep_once([], []) == []
    assert [k.tolist() for k in keep_once([{"ra": position[:0], "dec": position[:0]}], [tile])] == [
        []
    ]
