"""Every object of an epoch comes once, or both classes equally often; batches are of one size."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lensfinder.train.order import batches_of, order


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(2, 40), st.integers(0, 50), st.integers(0, 5))
def test_every_object_comes_once_in_batches_of_one_size(count, batch_size, block, epoch):
    train_N = np.arange(count) * 3 + 1
    batches = batches_of(count, batch_size)
    made = order(train_N, train_N % 2 == 0, batches, seed=1, epoch=epoch, block=block)
    assert sorted(np.concatenate(made)) == train_N.tolist()
    sizes = [len(batch) for batch in made]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(batch_size, count)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 200), st.integers(4, 30))
def test_balanced_batches_hold_both_classes_equally(lenses, others, batch_size):
    train_N = np.arange(lenses + others)
    is_lens_N = train_N < lenses
    batches = batches_of(len(train_N), batch_size)
    made = order(train_N, is_lens_N, batches, seed=1, epoch=0, balance=True)
    assert sum(map(len, made)) == len(train_N)
    assert max(map(len, made)) - min(map(len, made)) <= 1
    for batch in made:
        assert abs(2 * is_lens_N[batch].sum() - len(batch)) <= 2
    seen = np.bincount(np.concatenate(made), minlength=len(train_N))
    for members in (seen[is_lens_N], seen[~is_lens_N]):
        assert members.max() - members.min() <= 1, "nobody comes more often than another"


def test_blocks_keep_neighbours_near_each_other_and_epochs_differ():
    train_N = np.arange(10_000)
    blocked = np.concatenate(order(train_N, train_N > 0, 100, seed=1, epoch=0, block=50))
    window = [np.unique(blocked[i : i + 400] // 50).size for i in range(0, 10_000, 400)]
    assert max(window) <= 8, "no more blocks are open at a time"
    other = np.concatenate(order(train_N, train_N > 0, 100, seed=1, epoch=1, block=50))
    assert (blocked != other).mean() > 0.9
