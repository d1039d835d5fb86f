"""Fresh mocks for each epoch: the same interface as shards have, and nothing is seen twice."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lensfinder.simulate.stream import Batch, MockStream
from lensfinder.train.augment import Augmentation, view_onto
from lensfinder.train.distribute import Ranks
from lensfinder.train.order import Index


class FreshStamps:
    """Mocks made on the way; object `index` of an epoch depends on seed, epoch and index alone.

    Parameters
    ----------
    stream : MockStream
        Running.
    """

    def __init__(self, stream: MockStream) -> None:
        self._stream = stream

    def batches(self, epoch: int, shares: Sequence[Index]) -> Iterator[Batch]:
        """Yield the mocks of each share; the next ones are made while the caller works."""
        return self._stream.batches(epoch, shares)


Share = tuple[Index, Batch | None]  # indices, and their mocks where these are fresh


def shares_of(
    batched: Sequence[Index], epoch: int, ranks: Ranks, fresh: FreshStamps | None
) -> Iterator[Share]:
    """Yield this rank's part of each batch."""
    if fresh is None:
        yield from ((ranks.share(whole_B), None) for whole_B in batched)
        return
    # Neighbours are made together, so that a rank takes a run of them.
    shares = [np.array_split(whole_B, ranks.world)[ranks.rank] for whole_B in batched]
    yield from zip(shares, fresh.batches(epoch, shares), strict=True)


@contextmanager
def streaming(recipe: Mapping[str, Any], seed: int, workers: int) -> Iterator[FreshStamps]:
    """Start to make mocks.

    Parameters
    ----------
    recipe : mapping
        Ingredients of a shard of `simulate`.
    seed : int
        Of the training; another than the shards' in effect, whatever they have.
    workers : int
        Processes that render. A spawned rank may have none, and renders itself.
    """
    if multiprocessing.current_process().daemon:
        workers = 0
    with MockStream(recipe, seed=seed, workers=workers) as stream:
        yield FreshStamps(stream)


def tensors_of(mocks: Batch, view_B4: Index) -> tuple[torch.Tensor, torch.Tensor]:
    """Look at mocks as rows of `Augmentation` say; image_NCHW and mask_NCHW."""
    views = [Augmentation(*row) for row in view_B4]
    seen = [
        np.stack([view_onto(x_CHW, view) for x_CHW, view in zip(pixels, views, strict=True)])
        for pixels in (mocks.image_NCHW, mocks.mask_NCHW)
    ]
    return torch.from_numpy(seen[0]), torch.from_numpy(seen[1])
