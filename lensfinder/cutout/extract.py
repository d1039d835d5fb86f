"""Stamps of a tile's targets, and what to make of each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema, stamps
from lensfinder.bands import BandPixels, Pixels
from lensfinder.catalogs import REDSHIFT_NAMES
from lensfinder.tilepsf import psf_sources
from lensfinder.tiles import Tile

# Where a saturated pixel spoils an object rather than its surroundings.
CORE_ARCSEC = 2.0
# Reasons to reject a target for its pixels; all others speak of its files.
BY_RULE = ("constant", "masked", "no_data")
# Stamps cut and converted together, few enough to stay in a core's cache; and judged together.
_BLOCK = 8
_JUDGED = 256


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
    psf: Mapping[str, NDArray[Any]] | None = None,
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
    psf : columns, optional
        What `psf_columns` says of these targets, where that is known already.
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
    plain = _plain_bands(tile, noise)
    for first in range(0, n, _JUDGED):
        last = min(n, first + _JUDGED)
        good = True
        for start in range(first, last, _BLOCK):
            block = slice(start, min(last, start + _BLOCK))
            own = None if noise is None else noise[block]
            here = Pixels(image[block], mask[block], own)
            whole = plain and not at_edge[block].any()
            if not (whole and _cut_plain(plain, ix[block], iy[block], here)):
                _cut(tile, ix[block], iy[block], here)
                good = False
        judged = slice(first, last)
        kept: Any = (judged,) if present is None else (judged, present)
        outcome[judged], reason[judged], flags[judged] = judge(
            image[kept],
            None if good else mask[kept],
            at_edge[judged],
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
        **{
            name: values
            for name, values in targets.items()
            if name.startswith("mag_") or name in REDSHIFT_NAMES
        },
        **(psf_columns(tile, targets["x"], targets["y"]) if psf is None else psf),
        "flags": flags,
    }
    if tile.resampled_bands:
        columns["resampled_bands"] = np.full(n, ",".join(tile.resampled_bands), dtype=object)
    for name in schema.REQUIRED_COLUMNS:
        columns.setdefault(name, np.array([schema.empty_value(name)] * n))
    return Stamps(image, mask, noise, columns, outcome, reason)


def psf_columns(
    tile: Tile, x: NDArray[np.float64], y: NDArray[np.float64], *, measure: bool = False
) -> dict[str, NDArray[Any]]:
    """Say how wide the PSF of each band is at pixel positions, and where that is from.

    Parameters
    ----------
    tile : Tile
        Open.
    x, y : (N,) float64
    measure : bool
        Measure it on the tile's stars, where no file or header tells it.
    """
    columns: dict[str, NDArray[Any]] = {}
    sources = {}
    for band in tile.bands:
        columns[f"psf_fwhm_{band}_arcsec"], sources[band] = tile.psf_at(band, x, y, stars=measure)
    columns["psf_source"] = np.full(len(x), psf_sources(sources), dtype=object)
    return columns


def _plain_bands(tile: Tile, variance: NDArray[Any] | None) -> list[BandPixels]:
    """Return all bands if nothing but its own value can spoil a pixel of theirs; else none."""
    bands = [tile.pixels[band] for band in tile.bands]
    plain = [band for band in bands if isinstance(band, BandPixels) and band.only_fluxes]
    return plain if len(plain) == len(bands) and variance is None else []


def _cut_plain(
    bands: list[BandPixels], ix: NDArray[np.int64], iy: NDArray[np.int64], out: Pixels
) -> bool:
    """Cut a few stamps inside the tile into `out`; tell whether all their pixels are good."""
    fluxes = out.flux.reshape(-1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for c, band in enumerate(bands):
            band.fluxes(ix, iy, out.flux[:, c])
        # No sum of squares is finite where a number is not; nothing tells it faster.
        good = math.isfinite(np.dot(fluxes, fluxes))
    if good:
        out.mask[:] = 0
    return good


def _cut(tile: Tile, ix: NDArray[np.int64], iy: NDArray[np.int64], out: Pixels) -> None:
    """Cut a few stamps of all bands, with their masks, into `out`."""
    for c, band in enumerate(tile.bands):
        noise = None if out.variance is None else out.variance[:, c]
        tile.pixels[band].stamps(ix, iy, Pixels(out.flux[:, c], out.mask[:, c], noise))


def judge(
    image_NCHW: NDArray[np.float32],
    mask_NCHW: NDArray[np.uint8] | None,
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
        No mask where all pixels are good.
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
    bad_fraction, constant = np.zeros(n), np.zeros(n, bool)
    centre_empty, saturated = np.zeros(n, bool), np.zeros(n, bool)
    # A middle row that varies says the same of the whole stamp, and costs a hundredth.
    middle: Any = (slice(None), slice(None), slice(half, half + 1))
    row_mask = None if mask_NCHW is None else mask_NCHW[middle]
    (suspect,) = np.nonzero(~_varies(image_NCHW[middle], row_mask))
    if len(suspect):
        own_mask = None if mask_NCHW is None else mask_NCHW[suspect]
        constant[suspect] = ~_varies(image_NCHW[suspect], own_mask)
    if mask_NCHW is not None:
        bad_fraction = np.count_nonzero(mask_NCHW, axis=(2, 3)).max(axis=1) / size**2
        centre_empty = ((mask_NCHW[:, :, half, half] & schema.MASK_NO_DATA) != 0).any(axis=1)
        y, x = np.mgrid[:size, :size] - half
        core = np.hypot(x, y) <= core_pix
        saturated = ((mask_NCHW[:, :, core] & schema.MASK_SATURATED) != 0).any(axis=(1, 2))

    flags = np.zeros(n, np.int32)
    flags[at_edge_N] |= schema.FLAG_EDGE
    flags[bad_fraction > schema.MUCH_MASKED] |= schema.FLAG_MASKED
    flags[saturated] |= schema.FLAG_SATURATED
    outcome = np.where(flags != 0, schema.FLAGGED, schema.OK).astype(object)
    spelled = {int(f): "+".join(schema.flag_names(int(f))) for f in np.unique(flags)}
    reason = np.array([spelled[f] for f in flags.tolist()], dtype=object)
    for why, rejected in (
        ("constant", constant),
        ("masked", bad_fraction > max_bad_fraction),
        ("no_data", centre_empty),
    ):
        outcome[rejected], reason[rejected] = schema.REJECTED, why
    return outcome, reason, flags


def _varies(
    image_NCHW: NDArray[np.float32], mask_NCHW: NDArray[np.uint8] | None
) -> NDArray[np.bool_]:
    """Tell stamps of which no band has good pixels of one value only."""
    good = image_NCHW if mask_NCHW is None else np.where(mask_NCHW == 0, image_NCHW, np.nan)
    # fmax and fmin ignore NaN and stay silent where nothing is left.
    spread = np.fmax.reduce(good, axis=(2, 3)) - np.fmin.reduce(good, axis=(2, 3))
    varies: NDArray[np.bool_] = (spread != 0).all(axis=1)
    return varies
