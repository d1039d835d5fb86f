"""Random numbers, as `simulate.noise` has them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lensfinder.simulate.compiled.jit import kernel
from lensfinder.simulate.compiled.maths import Array, normal_pair, u64


def normals(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """As `noise.normals`, of the same random bits."""
    count = math.prod(shape)
    pairs = -(-count // 2)
    # The same bits as `integers` of all int64, in two thirds of the time.
    raw = rng.bit_generator.random_raw(pairs)
    bits = np.bitwise_xor(raw, np.uint64(2**63), out=raw).view(np.int32)
    both = np.empty((2, pairs), np.float32)
    _normals(bits.reshape(2, pairs), both)
    return both.reshape(-1)[:count].reshape(shape)


@kernel
def _normals(bits_2N: npt.NDArray[np.int32], out_2N: Array) -> None:
    for k in range(u64(out_2N.shape[1])):
        out_2N[0, k], out_2N[1, k] = normal_pair(bits_2N[0, k], bits_2N[1, k])
