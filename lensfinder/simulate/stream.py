"""Fresh mocks for each epoch of a training, by index, without touching the disk.

A training that streams takes its recipe from shards of `simulate` and validates on them; what it
learns from is made on the way and never seen twice. Object `index` of `epoch` depends on the
seed, the epoch and the index alone: not on batches, workers or ranks.

    with MockStream(shard.header.ingredients, workers=2) as stream:
        for epoch in range(epochs):
            order = np.arange(12800)
            for batch in stream.batches(epoch, np.split(order, 100)):
                ...  # batch.image_NCHW, batch.mask_NCHW, batch.label_N, batch.catalog
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import connection
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lensfinder.simulate.mocks import Mocks, Setting, make_modelled
from lensfinder.simulate.population import generator
from lensfinder.simulate.render import CHUNK

Index = npt.NDArray[np.int64]

# Chunks made ahead by each worker.
_AHEAD = 2


class Batch(NamedTuple):
    """Mocks in the order they were asked for.

    Attributes
    ----------
    image_NCHW : float32, nJy
    mask_NCHW : uint8, 0 good
    label_N : int8, 1 lens, 0 not
    catalog : contract and truth, each of length N
    """

    image_NCHW: npt.NDArray[np.float32]
    mask_NCHW: npt.NDArray[np.uint8]
    label_N: npt.NDArray[np.int8]
    catalog: dict[str, npt.NDArray[Any]]


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch's mocks: never that of the mocks on disk, which have the run's own."""
    return int(generator(seed, 6, epoch).integers(2**63))


class MockStream:
    """Mocks like those of a run of `simulate`, but new ones in each epoch.

    Parameters
    ----------
    ingredients : of one of the run's products, ``shard.header.ingredients``; they hold recipe,
        survey conditions, bands, size and seed
    seed : of the stream; default: the run's
    hosts : real galaxies to paint on, as ``asdict`` of `painting.Host`, all of the training
        split; default: modelled ones
    workers : processes that render, one thread each; 0 renders in this one

    Raises
    ------
    ValueError
        for mocks on real hosts without hosts, or the other way round
    """

    def __init__(
        self,
        ingredients: Mapping[str, Any],
        *,
        seed: int | None = None,
        hosts: Sequence[Mapping[str, Any]] = (),
        workers: int = 0,
    ) -> None:
        if bool(hosts) != ("hosts" in ingredients):
            raise ValueError(
                "hosts are needed where the mocks were painted on some, and only there"
            )
        made_from = dict(ingredients)
        if seed is not None:
            made_from["seed"] = seed
        self._maker = _Maker(made_from, tuple(hosts))
        self._pool: ProcessPoolExecutor | None = None
        self._workers = workers
        if workers > 0:
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(made_from, tuple(hosts)),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    @property
    def setting(self) -> Setting:
        """What all mocks have in common."""
        return self._maker.setting

    def gather(self, epoch: int, index_N: Index) -> Batch:
        """Make objects of an epoch in the order of their indices, which may be any."""
        return next(self.batches(epoch, [index_N]))

    def batches(self, epoch: int, batches: Sequence[Index]) -> Iterator[Batch]:
        """Yield batches of an epoch; the next ones are made while the caller works.

        Parameters
        ----------
        epoch : >= 0
        batches : indices >= 0 of the objects of each. Objects are made in chunks of 64 consecutive
            indices, so that batches of consecutive ones cost the least; a rank takes its part of
            each as a run.

        Raises
        ------
        ValueError
            for a negative epoch or index, or an empty batch
        RecipeError
            if the recipe's bounds contradict one another
        """
        if epoch < 0 or any(len(index_N) == 0 or index_N.min() < 0 for index_N in batches):
            raise ValueError("epochs and indices start at 0, and no batch is empty")
        chunks_of = [np.unique(index_N // CHUNK).tolist() for index_N in batches]
        last_use = {chunk: k for k, chunks in enumerate(chunks_of) for chunk in chunks}
        order = list(dict.fromkeys(chunk for chunks in chunks_of for chunk in chunks))
        place = {chunk: k for k, chunk in enumerate(order)}
        ahead = _AHEAD * self._workers
        made: dict[int, Future[Mocks]] = {}
        begun = 0
        try:
            for k, index_N in enumerate(batches):
                needed = max(place[chunk] for chunk in chunks_of[k]) + 1
                while begun < min(needed + ahead, len(order)):
                    made[order[begun]] = self._begin(epoch, order[begun])
                    begun += 1
                yield _pick({chunk: made[chunk].result() for chunk in chunks_of[k]}, index_N)
                for chunk in chunks_of[k]:
                    if last_use[chunk] == k:
                        del made[chunk]
        finally:
            for future in made.values():
                future.cancel()

    def _begin(self, epoch: int, chunk: int) -> Future[Mocks]:
        if self._pool is not None:
            return self._pool.submit(_make_in_worker, epoch, chunk)
        done: Future[Mocks] = Future()
        done.set_result(self._maker.chunk(epoch, chunk))
        return done


def _pick(chunks: Mapping[int, Mocks], index_N: Index) -> Batch:
    """Objects of several chunks, in the order of their indices."""
    first_of = {chunk: k * CHUNK for k, chunk in enumerate(sorted(chunks))}
    place_N = np.array([first_of[int(i) // CHUNK] + int(i) % CHUNK for i in index_N], dtype=int)
    parts = [chunks[chunk] for chunk in sorted(chunks)]
    columns = {
        name: np.concatenate([part.columns[name] for part in parts])[place_N]
        for name in parts[0].columns
    }
    return Batch(
        np.concatenate([part.image_NCHW for part in parts])[place_N],
        np.concatenate([part.mask_NCHW for part in parts])[place_N],
        columns["label"].astype(np.int8),
        columns,
    )


class _Maker:
    """Makes any chunk of any epoch, on one thread."""

    def __init__(self, ingredients: Mapping[str, Any], hosts: Sequence[Mapping[str, Any]]) -> None:
        # Whatever is made here is for training: hosts of other splits are not among `hosts`.
        self.setting = replace(Setting.of(ingredients), val_fraction=0.0, test_fraction=0.0)
        self._hosts = hosts

    def chunk(self, epoch: int, chunk: int) -> Mocks:
        """Make the 64 mocks of a chunk."""
        import torch

        indices = range(chunk * CHUNK, (chunk + 1) * CHUNK)
        setting = replace(self.setting, seed=epoch_seed(self.setting.seed, epoch))
        prefix = f"stream-{epoch}"
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if not self._hosts:
                return make_modelled(setting, indices, prefix)
            from lensfinder.simulate.painting import Host, make_painted

            rng = generator(setting.seed, 7, chunk)
            chosen = rng.integers(len(self._hosts), size=CHUNK)
            return make_painted([Host(**self._hosts[k]) for k in chosen], setting, indices, prefix)
        finally:
            torch.set_num_threads(threads)


_worker: list[_Maker] = []


def _start_worker(ingredients: Mapping[str, Any], hosts: Sequence[Mapping[str, Any]]) -> None:
    # The parent answers Ctrl-C, and a worker must not outlive it, however it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
    _worker[:] = [_Maker(ingredients, hosts)]


def _make_in_worker(epoch: int, chunk: int) -> Mocks:
    return _worker[0].chunk(epoch, chunk)
