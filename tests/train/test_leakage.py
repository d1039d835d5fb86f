"""What two splits share is found, however it is turned; groups never stand in two folds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensfinder.errors import MismatchError, RequestError
from lensfinder.train import leakage
from lensfinder.train.folds import fold_of


@settings(deadline=None)
@given(st.integers(0, 3), st.booleans(), st.integers(0, 2**31))
def test_prints_stay_when_a_stamp_is_turned_or_mirrored(turns, mirror, seed):
    rng = np.random.default_rng(seed)
    image_NCHW = rng.normal(size=(3, 2, 9, 9)).astype(np.float32)
    image_NCHW[0, 0, :2] = np.nan
    seen = np.rot90(image_NCHW, turns, axes=(2, 3))
    seen = seen[..., ::-1] if mirror else seen
    prints = leakage.prints_of(image_NCHW)
    np.testing.assert_array_equal(leakage.prints_of(seen), prints)
    assert len(set(prints)) == 3
    changed = image_NCHW.copy()
    changed[:, 1, 4, 4] = np.nextafter(changed[:, 1, 4, 4], np.float32(np.inf))
    swapped = image_NCHW[:, ::-1]
    for other in (changed, swapped):
        assert (leakage.prints_of(other) != prints).all(), "one bit and the order of bands count"


def test_stamps_without_scatter_are_nobodys_twins():
    blank = np.full((4, 2, 9, 9), np.nan, np.float32)
    prints = leakage.prints_of(blank)
    assert (prints == 0).all()
    splits = np.array(["train", "val", "test", "train"])
    leakage.check_prints(prints, np.array(list("abcd")), splits)


def test_other_pixels_under_one_id_are_no_twins():
    """Folders of `simulate` count their mocks alike."""
    ids, splits = np.array(["a", "b", "a", "b"]), np.array(["train", "val", "val", "train"])
    leakage.check_prints(np.array([1, 2, 3, 4]), ids, splits)
    with pytest.raises(MismatchError, match="among them 'a'"):
        leakage.check_prints(np.array([1, 2, 1, 4]), ids, splits)


def test_what_was_drawn_from_one_seed_and_index_is_named_alike():
    mocks = {
        "ra": np.array([np.nan, np.nan, 10.0]),
        "noise_seed": np.array([1, 2**62, 1]),
        "noise_index": np.array([7, 7, 7]),
    }
    assert leakage.draws_of(mocks).tolist() == ["1/7", f"{2**62}/7", ""]
    assert leakage.draws_of({"ra": np.array([np.nan])}).tolist() == [""]


@pytest.mark.fault
def test_a_cell_of_the_sky_in_two_splits_is_refused():
    radec_N2 = np.array([[10.0, -30.0], [10.001, -30.0], [np.nan, np.nan], [50.0, 0.0]])
    cells = leakage.cells_of(radec_N2)
    assert cells[0] == cells[1] != cells[3]
    assert cells[2] == ""
    leakage.check_names("cells", cells, np.array(["train", "train", "val", "test"]))
    with pytest.raises(MismatchError, match="1 cells stand in both train and val"):
        leakage.check_names("cells", cells, np.array(["train", "val", "val", "test"]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_groups_are_the_parts_that_share_nothing(pairs):
    names = [np.array([f"{n}" if n else "" for n in column]) for column in zip(*pairs, strict=True)]
    group_N = leakage.groups_of(names)
    for column in names:
        for name in set(column) - {""}:
            assert len(set(group_N[column == name])) == 1
    lonely = (names[0] == "") & (names[1] == "")
    assert len(set(group_N[lonely])) == lonely.sum()
    # And no more than that is one: each group hangs together by names.
    for group in set(group_N):
        left = list(np.flatnonzero(group_N == group))
        reached, left = {left[0]}, set(left[1:])
        while left:
            near = {
                i
                for i in left
                if any(c[i] != "" and c[i] in {c[j] for j in reached} for c in names)
            }
            assert near
            reached, left = reached | near, left - near


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**31))
def test_folds_keep_groups_together_and_share_the_classes_evenly(folds, seed):
    rng = np.random.default_rng(seed)
    group_N = rng.integers(0, 60, 300)
    label_N = rng.integers(0, 2, 300).astype(np.int8)
    fold_N = fold_of(group_N, label_N, folds, 1)
    assert set(fold_N) == set(range(folds))
    for group in set(group_N):
        assert len(set(fold_N[group_N == group])) == 1
    for label in (0, 1):
        counts = np.bincount(fold_N[label_N == label], minlength=folds)
        assert counts.max() <= counts.min() + 20


def test_too_few_groups_for_the_folds_are_refused():
    label_N = np.array([0, 1, 0, 1], np.int8)
    with pytest.raises(RequestError, match=r"1 groups.*no 2 folds"):
        fold_of(np.zeros(4, np.int64), label_N, 2, 1)


def test_no_stamps_have_no_prints():
    assert leakage.prints_of(np.empty((0, 3, 5, 5), np.float32)).shape == (0,)
