"""Splits that leak, classes without members and shards that disagree are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensfinder.errors import MismatchError, RequestError
from lensfinder.train import augment, data
from lensfinder.train.augment import Augmentation, Ranges

RANGES = Ranges(shift_pixels=2)


@pytest.mark.parametrize("column", ["host_id", "source_id"])
@pytest.mark.parametrize("other", ["val", "test"])
def test_a_host_or_source_in_two_splits_is_refused(tmp_path, write_shard, column, other):
    place_N = np.arange(90) % 30
    shared_N = [f"x{i}" for i in range(90)]
    shared_N[0] = shared_N[20 if other == "val" else 29] = "twin"
    assert place_N[0] < 18 <= place_N[20] < 28 <= place_N[29]
    path = write_shard(tmp_path / "a.h5", **{column: shared_N})
    with pytest.raises(MismatchError, match=rf"1 {column}.*train and {other}.*'twin'") as caught:
        data.open_set([path])
    assert caught.value.exit_code == 4


def test_an_object_shared_between_shards_is_refused_too(tmp_path, write_shard):
    ids = [f"h{i}" for i in range(90)]
    one = write_shard(tmp_path / "a.h5", host_id=ids)
    other = write_shard(tmp_path / "b.h5", host_id=ids[18:] + ids[:18])
    with pytest.raises(MismatchError, match="host_id"):
        data.open_set([one, other])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"bands": ("r", "g")}, r"bands.*'r', 'g'.*'g', 'r'"),
        ({"scale": 0.263}, r"pixel scale.*0\.263.*0\.2"),
        ({"size": 27}, "stamp size 27.*25"),
    ],
)
def test_shards_that_disagree_are_refused_with_both_values(tmp_path, write_shard, changed, named):
    one = write_shard(tmp_path / "a.h5")
    other = write_shard(tmp_path / "b.h5", seed=1, **changed)
    with pytest.raises(MismatchError, match=named):
        data.open_set([one, other])


def test_stamps_without_any_label_are_no_training_set(tmp_path, write_shard):
    path = write_shard(tmp_path / "a.h5", label=np.full(90, -1))
    with pytest.raises(RequestError, match=r"none of the 90 stamps .*labelled"):
        data.open_set([path])


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("label", [0, 1, None])
def test_a_split_without_a_class_is_refused(tmp_path, write_shard, split, label):
    label_N = np.arange(90) % 2
    place_N = np.arange(90) % 30
    split_N = np.where(place_N < 18, "train", np.where(place_N < 28, "val", "test"))
    label_N[(split_N == split) & ((label_N == label) | (label is None))] = -1
    path = write_shard(tmp_path / "a.h5", label=label_N)
    with pytest.raises(RequestError, match=f"the {split} split has no"):
        data.open_set([path])


def test_gather_returns_the_stamps_of_any_shard_in_the_order_asked_for(tmp_path, write_shard):
    paths = [write_shard(tmp_path / f"{i}.h5", n=60, seed=i) for i in range(3)]
    stamps = data.open_set(paths)
    assert stamps.start_S.tolist() == [0, 60, 120, 180]
    pixels = data.Pixels(stamps)
    index_B = np.array([179, 0, 60, 59, 120])
    image_NCHW, mask_NCHW = pixels.gather(index_B)
    for i, index in enumerate(index_B):
        with data.shards.read(paths[index // 60]) as shard:
            np.testing.assert_array_equal(image_NCHW[i], shard.image[index % 60])
            np.testing.assert_array_equal(mask_NCHW[i], shard.mask[index % 60])
    assert not set(stamps.members("train")) & set(stamps.members("val"))


def test_augmentation_depends_on_seed_epoch_and_object_alone():
    drawn_N4 = augment.draw(1, 5, 400, RANGES)
    np.testing.assert_array_equal(augment.draw(1, 5, 100, RANGES), drawn_N4[:100])
    for other_N4 in (augment.draw(1, 6, 400, RANGES), augment.draw(2, 5, 400, RANGES)):
        assert (other_N4 != drawn_N4).any(axis=1).mean() > 0.9
    drawn = [Augmentation(*row) for row in drawn_N4]
    assert len({one[:2] for one in drawn}) == 8
    for name in ("shift_x", "shift_y"):
        assert {getattr(one, name) for one in drawn} == {-2, -1, 0, 1, 2}


@given(
    st.builds(
        Augmentation, st.booleans(), st.integers(0, 3), st.integers(-3, 3), st.integers(-3, 3)
    )
)
def test_a_view_moves_pixels_and_changes_none(augmentation):
    stamp_CHW = np.arange(2 * 9 * 9.0).reshape(2, 9, 9)
    view_CHW = augment.view_onto(stamp_CHW, augmentation)
    assert view_CHW.shape == stamp_CHW.shape
    assert set(view_CHW.ravel()) <= set(stamp_CHW.ravel())
    centre = (4 + augmentation.shift_y, 4 + augmentation.shift_x)
    np.testing.assert_array_equal(view_CHW[:, *centre], stamp_CHW[:, 4, 4])
    unshifted_CHW = augment.view_onto(stamp_CHW, augmentation._replace(shift_y=0, shift_x=0))
    np.testing.assert_array_equal(np.sort(unshifted_CHW.ravel()), np.sort(stamp_CHW.ravel()))
    slack = [(0, 0), (3, 3), (3, 3)]
    padded_CHW = np.pad(unshifted_CHW, slack, mode="reflect")
    rows = slice(3 - augmentation.shift_y, 12 - augmentation.shift_y)
    columns = slice(3 - augmentation.shift_x, 12 - augmentation.shift_x)
    np.testing.assert_array_equal(view_CHW, padded_CHW[:, rows, columns])


def test_prefetch_keeps_order_and_passes_errors_on():
    assert list(data.prefetch(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
    assert list(data.prefetch(torch.zeros, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(data.prefetch(lambda x: 1 / x, [1, 0]))
