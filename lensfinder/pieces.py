"""A shard's file: what HDF5 writes of it, kept in memory, and its pixels, which go to the disk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


class PiecesFile(io.RawIOBase):
    """Holds what was written to it, and nothing for the gaps between."""

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}
        self._position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        self._pieces.pop(self._position, None)
        self._pieces[self._position] = bytes(data)
        self._position += len(data)
        return len(data)

    def readinto(self, buffer: Any) -> int:
        # Later pieces lie over earlier ones, as in a file.
        start, content = self._position, bytearray(len(buffer))
        for offset, piece in self._pieces.items():
            low, high = max(offset, start), min(offset + len(piece), start + len(content))
            if low < high:
                content[low - start : high - start] = piece[low - offset : high - offset]
        buffer[:] = content
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        return self._position if size is None else size

    @property
    def end(self) -> int:
        """Where the last piece ends."""
        return max((offset + len(piece) for offset, piece in self._pieces.items()), default=0)

    def between(self, start: int, stop: int) -> bytes:
        """Return the bytes of a range, 0 where nothing was written."""
        content = bytearray(stop - start)
        self.seek(start)
        self.readinto(content)
        return bytes(content)

    def write_to(self, stream: Any) -> None:
        """Write all pieces to their places in a real file."""
        for offset, piece in self._pieces.items():
            stream.seek(offset)
            stream.write(piece)

    def sha256_with(self, placed: Sequence[tuple[int, NDArray[Any]]]) -> str:
        """Hash the file that these pieces and, over them, arrays at their offsets make up."""
        total, end = hashlib.sha256(), 0
        for offset, array in sorted(
            (item for item in placed if item[1].size), key=lambda at: at[0]
        ):
            total.update(self.between(end, offset))
            total.update(array.data)
            end = offset + array.nbytes
        total.update(self.between(end, max(end, self.end)))
        return total.hexdigest()


@dataclass
class Parts:
    """A shard that is written a few stamps at a time, in any order; see `shards.in_parts`.

    Attributes
    ----------
    stream : binary file
    offsets : mapping of "image" and "mask" to int
        Where their first rows begin.
    catalog : columns
        To be set before the end.
    """

    stream: BinaryIO
    offsets: Mapping[str, int]
    catalog: dict[str, NDArray[Any]] = field(default_factory=dict)

    def put(
        self, row_N: NDArray[np.intp], image_NCHW: NDArray[np.float32], mask_NCHW: NDArray[np.uint8]
    ) -> None:
        """Write stamps to their rows."""
        for name, stamps in (("image", image_NCHW), ("mask", mask_NCHW)):
            for row, stamp in zip(row_N.tolist(), np.ascontiguousarray(stamps), strict=True):
                self.stream.seek(self.offsets[name] + row * stamp.nbytes)
                self.stream.write(stamp.data)
