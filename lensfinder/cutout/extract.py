"""Stamps of a tile's targets, and what to make of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, stamps
from lensfinder.tiles import Tile

# Where a saturated pixel spoils an object rather than its surroundings.
_CORE_ARCSEC = 2.0
_MUCH_MASKED = 0.1


@dataclass(frozen=True)
class Stamps:
    """Stamps of all targets, rejected ones included.

    Attributes
    ----------
    image_NCHW : (N, band, y, x) float32, nJy, NaN without data
    mask_NCHW : (N, band, y, x) uint8
    variance_NCHW : (N, band, y, x) float32, nJy², or None
    columns : catalogue columns of length N, as `schema` says
    outcome, reason : (N,) text
    """

    image_NCHW: NDArray[np.float32]
    mask_NCHW: NDArray[np.uint8]
    variance_NCHW: NDArray[np.float32] | None
    columns: dict[str, NDArray[Any]]
    outcome: NDArray[Any]
    reason: NDArray[Any]


def extract(
    tile: Tile,
    targets: Mapping[str, NDArray[Any]],
    size: int,
    *,
    pixel_scale_arcsec: float,
    max_bad_fraction: float,
    variance: bool = False,
) -> Stamps:
    """Cut the stamps of `targets` and judge each.

    Parameters
    ----------
    tile : Tile
        Open.
    targets : mapping
        ``id``, ``ra``, ``dec``, ``x``, ``y`` and any ``mag_<band>``, in row order.
    size : int
        Odd side in pixels.
    pixel_scale_arcsec : float
    max_bad_fraction : float
        A target with more masked pixels than that in some band is rejected.
    variance : bool
        Cut the variance, too.

    Raises
    ------
    UnitError
        If pixels can't be read.
    """
    ix, dx = stamps.central_pixels(targets["x"])
    iy, dy = stamps.central_pixels(targets["y"])
    shape = (len(ix), len(tile.bands), size, size)
    image, mask = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    noise = np.empty(shape, np.float32) if variance else None
    for c, band in enumerate(tile.bands):
        image[:, c] = stamps.crop(tile.image(band), ix, iy, size, fill=np.nan, dtype=np.float32)
        mask[:, c] = stamps.crop(
            tile.mask(band), ix, iy, size, fill=schema.MASK_NO_DATA, dtype=np.uint8
        )
        if noise is not None:
            noise[:, c] = stamps.crop(
                tile.variance(band), ix, iy, size, fill=np.nan, dtype=np.float32
            )
    height, width = tile.shape_YX
    half = size // 2
    inside = (ix >= half) & (ix < width - half) & (iy >= half) & (iy < height - half)
    outcome, reason, flags = judge(
        image, mask, ~inside, _CORE_ARCSEC / pixel_scale_arcsec, max_bad_fraction
    )
    n = len(ix)
    columns = {name: values for name, values in targets.items() if name in ("id", "ra", "dec")}
    columns |= {
        "tile": np.full(n, tile.name, dtype=object),
        "x": targets["x"],
        "y": targets["y"],
        "dx": dx,
        "dy": dy,
        **{name: values for name, values in targets.items() if name.startswith("mag_")},
        **{
            f"psf_fwhm_{band}_arcsec": np.full(n, tile.psf_fwhm_arcsec(band), np.float32)
            for band in tile.bands
        },
        "flags": flags,
    }
    for name in schema.REQUIRED_COLUMNS:
        columns.setdefault(name, np.array([schema.empty_value(name)] * n))
    return Stamps(image, mask, noise, columns, outcome, reason)


def judge(
    image_NCHW: NDArray[np.float32],
    mask_NCHW: NDArray[np.uint8],
    at_edge_N: NDArray[np.bool_],
    core_pix: float,
    max_bad_fraction: float,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int32]]:
    """Decide what becomes of each stamp.

    Rejected: the target's own pixel has no data in some band (``no_data``); too many masked
    pixels (``masked``); pixels without any variation (``constant``). Flagged: part of the stamp
    lies outside, much of it is masked, or the core is saturated.

    Parameters
    ----------
    image_NCHW, mask_NCHW : (N, band, y, x)
    at_edge_N : (N,) bool
        Part of the stamp lies outside the tile.
    core_pix : float
        Radius of the core in pixels.
    max_bad_fraction : float

    Returns
    -------
    outcome, reason : (N,) object
    flags : (N,) int32
    """
    n, _, size, _ = image_NCHW.shape
    half = size // 2
    bad_fraction = (mask_NCHW != 0).mean(axis=(2, 3)).max(axis=1)
    centre_empty = ((mask_NCHW[:, :, half, half] & schema.MASK_NO_DATA) != 0).any(axis=1)
    good = np.where(mask_NCHW == 0, image_NCHW, np.nan)
    # fmax and fmin ignore NaN and stay silent where nothing is left.
    spread = np.fmax.reduce(good, axis=(2, 3)) - np.fmin.reduce(good, axis=(2, 3))
    constant = (spread == 0).any(axis=1)
    y, x = np.mgrid[:size, :size] - half
    core = np.hypot(x, y) <= core_pix
    saturated = ((mask_NCHW & schema.MASK_SATURATED) != 0)[:, :, core].any(axis=(1, 2))

    flags = np.zeros(n, np.int32)
    flags[at_edge_N] |= schema.FLAG_EDGE
    flags[bad_fraction > _MUCH_MASKED] |= schema.FLAG_MASKED
    flags[saturated] |= schema.FLAG_SATURATED
    outcome = np.where(flags != 0, schema.FLAGGED, schema.OK).astype(object)
    reason = np.array(["+".join(schema.flag_names(int(f))) for f in flags], dtype=object)
    for why, rejected in (
        ("constant", constant),
        ("masked", bad_fraction > max_bad_fraction),
        ("no_data", centre_empty),
    ):
        outcome[rejected], reason[rejected] = schema.REJECTED, why
    return outcome, reason, flags
