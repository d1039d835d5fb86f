"""Who does the work of a chunk that costs the most: torch, or kernels compiled for this processor.

Both draw the same: their images agree to 1e-5 of the peak. Where a source is both steep and small
(Sersic index 5, 0.05 arcsec) its few brightest samples are only as good as float32, of either:
some 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lensfinder.simulate import arcs, noise, scene, sersics
from lensfinder.simulate.compiled import require_numba
from lensfinder.simulate.grid import Columns, FineGrid
from lensfinder.simulate.sersics import Galaxies, Prepared
from lensfinder.simulate.sources import SourceImages


class Kernels(NamedTuple):
    """What a back end does; the functions of `EAGER` say what is expected of each.

    Attributes
    ----------
    lensed_source : as `arcs.lensed_source`
    prepare, draw : as in `sersics`
    image_separation_arcsec : as `scene.image_separation_arcsec`
    normals : as `noise.normals`
    """

    lensed_source: Callable[[FineGrid, Columns, Tensor, Tensor, SourceImages | None], Tensor]
    prepare: Callable[[Galaxies, FineGrid], Prepared]
    draw: Callable[[Tensor, FineGrid, Prepared, int], None]
    image_separation_arcsec: Callable[[Columns], Tensor]
    normals: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


EAGER = Kernels(
    arcs.lensed_source,
    sersics.prepare,
    sersics.draw,
    scene.image_separation_arcsec,
    noise.normals,
)


def chosen(*, compiled: bool) -> Kernels:
    """Return the kernels of a back end.

    Raises
    ------
    RequestError
        for compiled ones without numba
    """
    if not compiled:
        return EAGER
    require_numba()
    from lensfinder.simulate.compiled import arcs, galaxies, images, noise

    return Kernels(
        arcs.lensed_source,
        galaxies.prepare,
        galaxies.draw,
        images.image_separation_arcsec,
        noise.normals,
    )
