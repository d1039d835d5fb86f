"""Stamps of a tile's targets, and what to make of each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, stamps
from lensfinder.bands import Pixels
from lensfinder.tiles import Tile

# Where a saturated pixel spoils an object rather than its surroundings.
CORE_ARCSEC = 2.0
_MUCH_MASKED = 0.1
# Stamps cut, converted and judged together: few enough to stay in a core's cache.
_BLOCK = 16


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


class Room:
    """Memory for stamps, kept from one unit to the next.

    Touching fresh memory can cost more than cutting the stamps that are put there.
    """

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any]] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array under a name; whatever was taken under it before is overwritten."""
        size = math.prod(shape)
        kept = self._kept.get(name)
        if kept is None or kept.size < size:
            kept = self._kept[name] = np.empty(size, dtype)
        return kept[:size].reshape(shape)


def extract(
    tile: Tile,
    targets: Mapping[str, NDArray[Any]],
    size: int,
    *,
    pixel_scale_arcsec: float,
    max_bad_fraction: float,
    variance: bool = False,
    room: Room | None = None,
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
    room : Room, optional
        Where to put the stamps, which are valid until it is used again.

    Raises
    ------
    UnitError
        If pixels can't be read.
    """
    ix, dx = stamps.central_pixels(targets["x"])
    iy, dy = stamps.central_pixels(targets["y"])
    n, half = len(ix), size // 2
    shape = (n, len(tile.bands), size, size)
    room = room or Room()
    image, mask = room.take("image", shape, np.float32), room.take("mask", shape, np.uint8)
    noise = room.take("variance", shape, np.float32) if variance else None
    if variance:
        for pixels in tile.pixels.values():
            pixels.require_noise()
    height, width = tile.shape_YX
    at_edge = ~((ix >= half) & (ix < width - half) & (iy >= half) & (iy < height - half))
    # A band that is missing altogether is masked by request, and spoils no stamp.
    present = None
    if tile.missing_bands:
        present = [c for c, band in enumerate(tile.bands) if band not in tile.missing_bands]
    outcome, reason = np.empty(n, object), np.empty(n, object)
    flags = np.empty(n, np.int32)
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        for c, band in enumerate(tile.bands):
            own = None if noise is None else noise[block, c]
            tile.pixels[band].stamps(
                ix[block], iy[block], Pixels(image[block, c], mask[block, c], own)
            )
        outcome[block], reason[block], flags[block] = judge(
            image[block] if present is None else image[block][:, present],
            mask[block] if present is None else mask[block][:, present],
            at_edge[block],
            CORE_ARCSEC / pixel_scale_arcsec,
            max_bad_fraction,
        )
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
    masked = bool(mask_NCHW.any())
    bad = np.count_nonzero(mask_NCHW, axis=(2, 3)).max(axis=1) if masked else np.zeros(n)
    bad_fraction = bad / size**2
    centre_empty = ((mask_NCHW[:, :, half, half] & schema.MASK_NO_DATA) != 0).any(axis=1)
    constant = np.zeros(n, bool)
    # A middle row that varies says the same of the whole stamp, and costs a hundredth.
    middle = slice(half, half + 1)
    (suspect,) = np.nonzero(~_varies(image_NCHW[:, :, middle], mask_NCHW[:, :, middle]))
    if len(suspect):
        constant[suspect] = ~_varies(image_NCHW[suspect], mask_NCHW[suspect])
    y, x = np.mgrid[:size, :size] - half
    core = np.hypot(x, y) <= core_pix
    saturated = np.zeros(n, bool)
    if masked:
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


def _varies(image_NCHW: NDArray[np.float32], mask_NCHW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell stamps of which no band has good pixels of one value only."""
    good = np.where(mask_NCHW == 0, image_NCHW, np.nan)
    # fmax and fmin ignore NaN and stay silent where nothing is left.
    spread = np.fmax.reduce(good, axis=(2, 3)) - np.fmin.reduce(good, axis=(2, 3))
    varies: NDArray[np.bool_] = (spread != 0).all(axis=1)
    return varies
