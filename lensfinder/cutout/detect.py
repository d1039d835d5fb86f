"""Find galaxies in a tile where there is no catalogue. Pure: pixels in, arrays out.

Background, segmentation and deblending are photutils'. A tile is searched in blocks that overlap;
sky, noise and smoothing do not depend on where blocks begin, so that an object smaller than the
overlap is measured alike from either side, and belongs to the block that its peak lies in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from photutils.background import Background2D, MedianBackground
from photutils.segmentation import SegmentationImage, deblend_sources, detect_sources
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage

# Reads (flux in nJy, pixels to leave out) of the rows and columns asked for.
Reader = Callable[[slice, slice], tuple[NDArray[np.float32], NDArray[np.bool_]]]
Objects = dict[str, NDArray[np.float64]]

_SKY_BOX_PIX = 64
# The sky is smooth: a quarter of a box's pixels tells it well enough.
_SKY_EVERY = 2
_BLOCK_PIX = 2048
_OVERLAP_PIX = 192
_DEBLEND_CONTRAST = 0.005
# The smoothed sky's rms is taken from this many windows all over the tile.
_NOISE_WINDOWS = 5
_NOISE_WINDOW_PIX = 256
_FIELDS = ("x", "y", "flux_njy", "half_light_radius_pix", "cut_off_pix")
# Brighter is no sky but a number that stands for something, or damage; sums of it overflow.
_BRIGHTEST_NJY = 1e30


def detect(
    read: Reader,
    shape_YX: tuple[int, int],
    psf_fwhm_pix: float,
    *,
    sigma: float,
    pixels: int,
    measure: Reader | None = None,
    block_pix: int = _BLOCK_PIX,
) -> Objects:
    """Detect objects above a smoothed threshold.

    Parameters
    ----------
    read : callable
        Gives flux (nJy) and bad pixels of a window.
    shape_YX : (int, int)
        Of the tile.
    psf_fwhm_pix : float
        FWHM of the PSF, which is also the smoothing kernel's.
    sigma : float
        Threshold in units of the smoothed sky's rms.
    pixels : int
        Least number of connected pixels.
    measure : callable, optional
        Another image to take the fluxes from, where `read` is a stack of bands.
    block_pix : int
        Side of a block, without what it shares with its neighbours.

    Returns
    -------
    dict
        ``x``, ``y`` (0-based centroid), ``flux_njy`` (of the object's pixels above the threshold),
        ``half_light_radius_pix`` (of which a star's is half the FWHM, however faint) and
        ``cut_off_pix`` (how far away its middle may be, if the tile's edge or a bad pixel cuts it
        off; else 0), in row order of the blocks; empty if nothing was found.
    """
    found: list[Objects] = [{name: np.zeros(0, np.float64) for name in _FIELDS}]
    sky = _sky_mesh(read, shape_YX)
    rms = _smoothed_rms(read, shape_YX, sky, psf_fwhm_pix) if sky is not None else 0.0
    measured_sky = None if measure is None else _sky_mesh(measure, shape_YX)
    if sky is not None and rms > 0:
        for core, padded in _blocks(shape_YX, block_pix):
            signal, bad = _signal(read, sky, *padded)
            segments, smoothed = _segment(signal, bad, psf_fwhm_pix, sigma * rms, pixels)
            if segments is None:
                continue
            objects = _measure(signal, smoothed, segments, sigma * rms, core, padded)
            touching = _touching(segments, bad, shape_YX, padded)
            objects["cut_off_pix"] *= np.isin(objects["label"], touching)
            if measure is not None and measured_sky is not None:
                flux, _ = _signal(measure, measured_sky, *padded)
                sums = np.bincount(segments.data.ravel(), flux.ravel().astype(np.float64))
                objects["flux_njy"] = np.asarray(
                    sums[objects["label"].astype(np.int64)], np.float64
                )
            found.append(objects)
    whole = np.concatenate([part["flux_njy"] for part in found]) > 0
    return {name: np.concatenate([part[name] for part in found])[whole] for name in _FIELDS}


def _blocks(
    shape_YX: tuple[int, int], block_pix: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Yield each block without and with its overlap."""

    def along(side: int) -> list[tuple[slice, slice]]:
        return [
            (
                slice(start, min(side, start + block_pix)),
                slice(max(0, start - _OVERLAP_PIX), min(side, start + block_pix + _OVERLAP_PIX)),
            )
            for start in range(0, side, block_pix)
        ]

    for core_rows, rows in along(shape_YX[0]):
        for core_columns, columns in along(shape_YX[1]):
            yield (core_rows, core_columns), (rows, columns)


def _sky_mesh(read: Reader, shape_YX: tuple[int, int]) -> NDArray[np.float32] | None:
    """Measure the sky in boxes; None if there are hardly any pixels.

    Returns
    -------
    (boxes along y, boxes along x) float32
        Medians without the objects, smoothed over three boxes.
    """
    boxes = [min(_SKY_BOX_PIX, side) for side in shape_YX]
    # A last box that is cut off counts with the one before.
    rows, columns = (max(1, side // box) for side, box in zip(shape_YX, boxes, strict=True))
    # Boxes of an odd side, in tiles smaller than one, would not be divided evenly.
    every = _SKY_EVERY if all(box % _SKY_EVERY == 0 for box in boxes) else 1
    sides = [box // every for box in boxes]
    mesh = np.full((rows, columns), np.nan, np.float32)
    good = 0
    for row in range(rows):
        strip = slice(row * boxes[0], (row + 1) * boxes[0])
        flux, bad = read(strip, slice(0, columns * boxes[1]))
        flux, bad = flux[::every, ::every], bad[::every, ::every]
        bad = bad | _no_flux(flux)
        good += int((~bad).sum()) * every**2
        # photutils refuses a strip with too few pixels; so little says nothing of the sky.
        enough = (~bad).reshape(sides[0], columns, sides[1]).mean(axis=(0, 2)) > 0.1
        if enough.any():
            sky = Background2D(
                np.where(bad, 0, flux),
                sides,
                mask=bad,
                filter_size=1,
                bkg_estimator=MedianBackground(),
                exclude_percentile=90.0,
            )
            mesh[row] = np.where(enough, sky.background_mesh[0], np.nan)
    if good < 0.01 * shape_YX[0] * shape_YX[1] or np.isnan(mesh).all():
        return None
    if np.isnan(mesh).any():
        nearest = ndimage.distance_transform_edt(
            np.isnan(mesh), return_distances=False, return_indices=True
        )
        mesh = mesh[tuple(nearest)]
    smooth: NDArray[np.float32] = ndimage.median_filter(mesh, 3, mode="nearest")
    return smooth


def _interpolated(sky: NDArray[np.float32], rows: slice, columns: slice) -> NDArray[np.float32]:
    """Interpolate between the boxes' centres, to the same value whatever the window."""

    def weights(window: slice, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        place = (np.arange(window.start, window.stop) + 0.5) / _SKY_BOX_PIX - 0.5
        place = np.clip(place, 0, n - 1)
        low = np.minimum(place.astype(np.int64), max(0, n - 2))
        return low, (place - low).astype(np.float32)

    (y, v), (x, u) = weights(rows, sky.shape[0]), weights(columns, sky.shape[1])
    y_next, x_next = np.minimum(y + 1, sky.shape[0] - 1), np.minimum(x + 1, sky.shape[1] - 1)
    along = sky[y] * (1 - v[:, None]) + sky[y_next] * v[:, None]
    between: NDArray[np.float32] = along[:, x] * (1 - u) + along[:, x_next] * u
    return between


def _signal(
    read: Reader, sky: NDArray[np.float32], rows: slice, columns: slice
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    flux, bad = read(rows, columns)
    bad = bad | _no_flux(flux)
    signal = flux - _interpolated(sky, rows, columns)
    signal[bad] = 0
    return signal, bad


def _no_flux(flux: NDArray[np.float32]) -> NDArray[np.bool_]:
    # NaN is no less than anything.
    return np.asarray(~(np.abs(flux) < _BRIGHTEST_NJY))


def _smoothed(signal: NDArray[np.float32], psf_fwhm_pix: float) -> NDArray[np.float32]:
    width = psf_fwhm_pix / 2.3548
    smoothed: NDArray[np.float32] = ndimage.gaussian_filter(
        signal, width, mode="constant", truncate=2.5
    )
    return smoothed


def _smoothed_rms(
    read: Reader, shape_YX: tuple[int, int], sky: NDArray[np.float32], psf_fwhm_pix: float
) -> float:
    """Measure the rms of the smoothed sky, noise correlations included."""
    windows = [
        [
            slice(int(start), min(side, int(start) + _NOISE_WINDOW_PIX))
            for start in np.unique(
                np.linspace(0, max(0, side - _NOISE_WINDOW_PIX), _NOISE_WINDOWS).astype(int)
            )
        ]
        for side in shape_YX
    ]
    values = []
    for rows in windows[0]:
        for columns in windows[1]:
            signal, bad = _signal(read, sky, rows, columns)
            values.append(_smoothed(signal, psf_fwhm_pix)[~bad])
    pixels = np.concatenate(values)
    if not len(pixels):
        return 0.0
    return float(1.4826 * np.median(np.abs(pixels - np.median(pixels))))


def _segment(
    signal: NDArray[np.float32],
    bad: NDArray[np.bool_],
    psf_fwhm_pix: float,
    threshold: float,
    pixels: int,
) -> tuple[SegmentationImage | None, NDArray[np.float32]]:
    smoothed = _smoothed(signal, psf_fwhm_pix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        segments = detect_sources(smoothed, threshold, pixels, mask=bad)
        if segments is None:
            return None, smoothed
        # Deblending looks at one object after another: only at those with several peaks.
        several = np.bincount(_peaks(smoothed, segments), minlength=segments.max_label + 1) > 1
        labels = np.flatnonzero(several)
        if len(labels):
            segments = deblend_sources(
                smoothed,
                segments,
                pixels,
                labels=labels,
                contrast=_DEBLEND_CONTRAST,
                progress_bar=False,
            )
    return segments, smoothed


def _peaks(smoothed: NDArray[np.float32], segments: SegmentationImage) -> NDArray[np.int64]:
    """Return the label of each pixel that none of its neighbours exceeds."""
    y, x = np.nonzero(segments.data[1:-1, 1:-1])
    y, x = y + 1, x + 1
    here = smoothed[y, x]
    highest = np.ones(len(here), bool)
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        highest &= here >= smoothed[y + dy, x + dx]
    return np.asarray(segments.data[y[highest], x[highest]], np.int64)


def _measure(
    signal: NDArray[np.float32],
    smoothed: NDArray[np.float32],
    segments: SegmentationImage,
    threshold: float,
    core: tuple[slice, slice],
    padded: tuple[slice, slice],
) -> Objects:
    """Measure the objects whose peak lies in the block's core."""
    y, x = np.nonzero(segments.data)
    label = segments.data[y, x].astype(np.int64)
    # The brightest pixel comes last in its object, ties by place.
    order = np.lexsort((x, y, smoothed[y, x], label))
    ends = np.append(np.flatnonzero(np.diff(label[order])), len(order) - 1)
    last = order[ends]
    top, left = padded[0].start, padded[1].start
    inside = (
        (y[last] + top >= core[0].start)
        & (y[last] + top < core[0].stop)
        & (x[last] + left >= core[1].start)
        & (x[last] + left < core[1].stop)
    )
    own = label[last[inside]]
    # Centroids from the smoothed pixels, which are all above the threshold.
    light, flux = smoothed[y, x].astype(np.float64), signal[y, x].astype(np.float64)
    n = int(label.max()) + 1
    total = np.bincount(label, light, n)
    with np.errstate(invalid="ignore"):
        centre_x, centre_y = (np.bincount(label, light * axis, n) / total for axis in (x, y))
    # Faint objects show their core alone. What a star shows is known: the smoothed one, twice as
    # wide in area, reaches down to the threshold at the fraction 1 - p^-2 of its own light.
    share = 1 - (smoothed[y[last[inside]], x[last[inside]]] / threshold) ** -2.0
    shown = np.sqrt(np.log(2) / -np.log1p(-np.clip(share, 0.3, 1) / 2))
    radius = _half_light_radius(label, x, y, flux, centre_x, centre_y)[own]
    starts = np.append(0, ends[:-1] + 1)
    extent = np.maximum(
        *(
            np.maximum.reduceat(at, starts) - np.minimum.reduceat(at, starts)
            for at in (x[order], y[order])
        )
    )
    return {
        "label": own.astype(np.float64),
        "x": centre_x[own] + left,
        "y": centre_y[own] + top,
        "flux_njy": np.bincount(label, flux, n)[own],
        "half_light_radius_pix": radius * shown,
        "cut_off_pix": extent[inside] + 1.0,
    }


def _touching(
    segments: SegmentationImage,
    bad: NDArray[np.bool_],
    shape_YX: tuple[int, int],
    padded: tuple[slice, slice],
) -> NDArray[np.int64]:
    """Return the labels of objects at the tile's edge or beside a bad pixel."""
    beside = ndimage.binary_dilation(bad, np.ones((3, 3), bool)) if bad.any() else bad.copy()
    for axis, (window, side) in enumerate(zip(padded, shape_YX, strict=True)):
        edges = np.moveaxis(beside, axis, 0)
        if window.start == 0:
            edges[0] = True
        if window.stop == side:
            edges[-1] = True
    return np.unique(segments.data[beside]).astype(np.int64)


def _half_light_radius(
    label: NDArray[np.int64],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    flux: NDArray[np.float64],
    centre_x: NDArray[np.float64],
    centre_y: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Radius of the circle, about the centroid, with half of an object's light, in pixels.

    The light is that of the object's own pixels, the nearest first, counted as a disc of as many
    pixels; NaN where there is none.
    """
    distance = np.hypot(x - centre_x[label], y - centre_y[label])
    order = np.lexsort((distance, label))
    label, distance, flux = label[order], distance[order], flux[order]
    starts = np.append(0, np.flatnonzero(np.diff(label)) + 1)
    lengths = np.diff(np.append(starts, len(flux)))
    summed = np.cumsum(flux)
    summed = summed - np.repeat(summed[starts] - flux[starts], lengths)
    rank = np.arange(len(flux)) - np.repeat(starts, lengths)
    half = np.repeat(np.add.reduceat(flux, starts), lengths) / 2
    first = np.flatnonzero(summed >= half)
    # The first pixel of each object that reaches half of its light.
    _, chosen = np.unique(label[first], return_index=True)
    chosen = first[chosen]
    share = np.clip((half[chosen] - (summed[chosen] - flux[chosen])) / flux[chosen], 0, 1)
    radius = np.full(len(centre_x), np.nan)
    radius[label[chosen]] = np.sqrt((rank[chosen] + share) / np.pi)
    return radius


def galaxies(
    half_light_radius: NDArray[np.float64], psf_fwhm: float | NDArray[np.float64], ratio: float
) -> NDArray[np.bool_]:
    """Tell extended objects from stars by their half-light radius.

    Parameters
    ----------
    half_light_radius : (N,) float64
    psf_fwhm : float or (N,) float64
        In the same unit. A Gaussian PSF's half-light radius is half its FWHM.
    ratio : float
        Least ratio to the PSF's; 0 keeps everything.

    Returns
    -------
    (N,) bool
    """
    if ratio == 0:
        return np.ones(len(half_light_radius), dtype=bool)
    return np.asarray(half_light_radius > ratio * psf_fwhm / 2)
