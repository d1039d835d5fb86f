"""Training states on disk: the last two, each with its checksum.

A state is a dict of tensors, numbers and text. Its file begins with the sha256 of the rest, since
a flipped bit passes through torch.load unnoticed, and is read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from lensfinder.commit import commit

KEPT = 2
_DIGEST_BYTES = hashlib.sha256().digest_size


class States:
    """The saved states of one training, in a folder of their own.

    Parameters
    ----------
    folder : Path
        Made at the first save. Its name should hold the fingerprint of the training, so that
        another configuration never goes on from it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Commit the state after `step` steps, and forget all but the last two.

        Raises
        ------
        DiskError
            If the disk is full or can't be written.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        with commit(self._path(step)) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
        for old in self._newest_first()[KEPT:]:
            old.unlink(missing_ok=True)

    def newest_step(self) -> int | None:
        """Find the newest intact state; None where there is none.

        A damaged one is named on stderr and removed. One rank alone may call this.
        """
        for path in self._newest_first():
            if _load(path) is not None:
                return int(path.stem.removeprefix("step-"))
            print(f"train: {path.name} is damaged; going on from the state before", file=sys.stderr)
            path.unlink()
        return None

    def load(self, step: int) -> dict[str, Any]:
        """Load the state after `step` steps, which `newest_step` found intact."""
        state = _load(self._path(step))
        assert state is not None, f"{self._path(step)} changed under our hands"
        return state

    def forget(self) -> None:
        """Remove all states, once the model is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.state"

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.state"), reverse=True)


def _load(path: Path) -> dict[str, Any] | None:
    content = path.read_bytes()
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except (pickle.UnpicklingError, RuntimeError):
        return None
    return state
