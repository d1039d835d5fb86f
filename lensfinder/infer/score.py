"""Score stamps in batches, by one model or several. Pure: models and arrays in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lensfinder.infer.forward import features_of
from lensfinder.model import Model

_Pixel = TypeVar("_Pixel", bound=np.generic)

# Multiples of a quarter turn, and whether to mirror first: the symmetries of a square.
_VIEWS = tuple((turns, mirror) for mirror in (False, True) for turns in range(4))


@dataclass(frozen=True)
class Scores:
    """What a model, or several, say of stamps.

    Attributes
    ----------
    logit_N : (N,) float32
        Mean over views and members.
    spread_N : (N,) float32
        Standard deviation of the members' logits; 0 for a single one.
    feature_NK : (N, K) float32 or None
        Penultimate features, mean over views.
    """

    logit_N: NDArray[np.float32]
    spread_N: NDArray[np.float32]
    feature_NK: NDArray[np.float32] | None


class Scorer:
    """Scores stamps; a context manager.

    Parameters
    ----------
    members : sequence of Model
    batch_size : int
        Stamps in a forward pass, which bounds the memory.
    views : {1, 8}
        8: mean logit over flips and quarter turns.
    embed : bool
        Give the penultimate features of the (only) member, too.

    Attributes
    ----------
    notices : list of str
        What there is to say.
    """

    def __init__(
        self, members: Sequence[Model], batch_size: int, *, views: int = 1, embed: bool = False
    ) -> None:
        self.members, self.batch_size, self.views, self.embed = members, batch_size, views, embed
        self.notices: list[str] = []
        self._features: list[torch.Tensor] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.embed:
            self._features = self._stack.enter_context(features_of(self.members[0]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, image_NCHW: NDArray[np.float32], mask_NCHW: NDArray[np.uint8]) -> Scores:
        """Score stamps.

        Parameters
        ----------
        image_NCHW : (N, band, y, x) float32, nJy
        mask_NCHW : (N, band, y, x) uint8

        Raises
        ------
        MemoryError
            If half of the batch size is too much, too.
        """
        n, start = len(image_NCHW), 0
        logit_NM = np.empty((n, len(self.members)), np.float64)
        features: list[NDArray[np.float32]] = []
        while start < n:
            batch = slice(start, start + self.batch_size)
            try:
                logit_NM[batch] = self._logits(image_NCHW[batch], mask_NCHW[batch])
            except (MemoryError, RuntimeError) as error:
                self._halve(error)
                continue
            if self.embed:
                features.append(torch.stack(self._features).mean(dim=0).numpy())
            start = batch.stop
        return Scores(
            logit_NM.mean(axis=1).astype(np.float32),
            logit_NM.std(axis=1).astype(np.float32),
            np.concatenate(features) if features else None,
        )

    def _logits(
        self, image_NCHW: NDArray[np.float32], mask_NCHW: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        self._features.clear()
        turned = [
            (_turn(image_NCHW, turns, mirror), _turn(mask_NCHW, turns, mirror))
            for turns, mirror in _VIEWS[: self.views]
        ]
        seen = [[model.logits(*view) for view in turned] for model in self.members]
        logit_NM: NDArray[np.float64] = np.mean(np.asarray(seen, np.float64), axis=1).T
        return logit_NM

    def _halve(self, error: Exception) -> None:
        """Go on with half of the batch, once."""
        # torch says it of a CPU by words alone.
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
            "allocate memory" in str(error) or "out of memory" in str(error)
        )
        if not is_memory:
            raise error
        if self.notices or self.batch_size == 1:
            raise MemoryError(f"{self.batch_size} stamps a forward pass") from error
        self.batch_size //= 2
        self.notices.append(
            f"out of memory at {2 * self.batch_size} stamps a forward pass: "
            f"{self.batch_size} from there on"
        )


def _turn(array: NDArray[_Pixel], turns: int, mirror: bool) -> NDArray[_Pixel]:
    if not turns and not mirror:
        return array
    if mirror:
        array = array[..., ::-1]
    return np.ascontiguousarray(np.rot90(array, turns, axes=(-2, -1)))
