"""Which objects come when: the batches of an epoch, decided by (seed, epoch) alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]

_STREAM = 1  # `augment` has others
_BLOCKS_OPEN = 8


def batches_of(stamps: int, batch_size: int) -> int:
    """Count the batches of an epoch: none has fewer than `batch_size`, unless the split has."""
    return max(1, stamps // batch_size)


def order(
    train_N: Index,
    is_lens_N: npt.NDArray[np.bool_],
    batches: int,
    *,
    seed: int,
    epoch: int,
    balance: bool = False,
    block: int = 0,
) -> list[Index]:
    """Put the objects of an epoch into batches of equal size, but for one object.

    Parameters
    ----------
    train_N : ndarray of int
        Indices of the training objects.
    is_lens_N : ndarray of bool
        Their class.
    batches : int
        How many.
    seed, epoch : int
        Decide the order.
    balance : bool
        Half of each batch are lenses: an epoch is as long as ever, the larger class gives a
        random part of its members and the smaller one gives all of them several times.
    block : int
        Neighbours stay near each other: blocks of so many come in random order, and objects are
        shuffled among eight blocks. 0 shuffles all of them.
    """
    rng = np.random.default_rng((seed, _STREAM, epoch))
    if not balance:
        return np.array_split(_shuffled(train_N, rng, block), batches)
    lenses, others = train_N[is_lens_N], train_N[~is_lens_N]
    half = len(train_N) // 2
    halves = [
        np.array_split(_repeated(members, size, rng, block), batches)
        for members, size in ((lenses, half), (others, len(train_N) - half))
    ]
    # The halves' odd objects go to different batches, so that none is smaller than the rest.
    return [np.concatenate(pair) for pair in zip(halves[0], halves[1][::-1], strict=True)]


def _repeated(members: Index, size: int, rng: np.random.Generator, block: int) -> Index:
    times = -(-size // len(members))
    return np.concatenate([_shuffled(members, rng, block) for _ in range(times)])[:size]


def _shuffled(index_N: Index, rng: np.random.Generator, block: int) -> Index:
    if not block:
        return rng.permutation(index_N)
    starts = rng.permutation(np.arange(0, len(index_N), block))
    rows = np.concatenate([np.arange(s, min(s + block, len(index_N))) for s in starts])
    window = block * _BLOCKS_OPEN
    pieces = [rng.permutation(rows[i : i + window]) for i in range(0, len(rows), window)]
    return np.asarray(index_N[np.concatenate(pieces)])
