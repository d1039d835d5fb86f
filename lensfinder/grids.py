"""Bands on different pixel grids: how far apart they are, and one band on another's grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from lensfinder import schema
from lensfinder.bands import BandPixels, Pixels
from lensfinder.errors import UnitError
from lensfinder.footprints import Footprint, quietly

PIXEL_SCALE_TOLERANCE = 0.02
# Bands whose pixels lie further apart than this are not on one grid.
_TOLERANCE_PIX = 0.1
# Between points this far apart, the way from one grid to another is straight.
_LATTICE_PIX = 32
# What a cubic spline's value depends on, about the pixel at or below a position.
_BEFORE, _AFTER = 1, 2
_BITS = (schema.MASK_NO_DATA, schema.MASK_SATURATED, schema.MASK_BAD)


def _scales_arcsec(footprint: Footprint) -> NDArray[np.float64]:
    """Sides of a pixel; not finite where the header's numbers are absurd."""
    with np.errstate(over="ignore", invalid="ignore"):
        scales: NDArray[np.float64] = proj_plane_pixel_scales(footprint.wcs) * 3600
    return scales


def scale_arcsec(footprint: Footprint) -> float:
    """Side of a pixel, the mean of both axes."""
    return float(_scales_arcsec(footprint).mean())


def check_scale(footprint: Footprint, path: Any, wanted_arcsec: float, survey: str) -> None:
    """Raise `UnitError` unless pixels are square and of the survey's size."""
    scales = _scales_arcsec(footprint)
    if not (abs(scales / wanted_arcsec - 1) <= PIXEL_SCALE_TOLERANCE).all():
        raise UnitError(
            "pixel_scale",
            f"{path} has pixels of {scales[0]:.4f} x {scales[1]:.4f} arcsec",
            f"{wanted_arcsec} arcsec as {survey} has",
        )


def shift_pix(first: Footprint, other: Footprint) -> float:
    """Distance between the corners of the first image and where the other's WCS sees them."""
    height, width = first.shape_YX
    x, y = np.array([0.0, width - 1, 0, width - 1]), np.array([0.0, 0, height - 1, height - 1])
    ra, dec = first.sky_of(x, y)
    with quietly():
        x_other, y_other = other.wcs.all_world2pix(ra, dec, 0, quiet=True, ra_dec_order=True)
    return float(np.hypot(x_other - x, y_other - y).max())


def difference(first: Footprint, other: Footprint) -> tuple[str, str, str] | None:
    """Say how the grid of another band differs: reason code, what it is, what it should be."""
    scales = scale_arcsec(first), scale_arcsec(other)
    if abs(scales[1] / scales[0] - 1) > PIXEL_SCALE_TOLERANCE:
        return "pixel_scale", f"pixels of {scales[1]:.4f} arcsec", f"{scales[0]:.4f} arcsec"
    if first.shape_YX != other.shape_YX:
        return (
            "unequal_size",
            f"{other.shape_YX[1]} x {other.shape_YX[0]} pixels",
            f"{first.shape_YX[1]} x {first.shape_YX[0]}",
        )
    shift = shift_pix(first, other)
    if not shift <= _TOLERANCE_PIX:
        return "unequal_grid", f"a grid shifted by up to {shift:.2f} pixels", "one pixel grid"
    return None


class ResampledBand:
    """A band on another band's grid; sliced and cut like a `BandPixels`.

    Fluxes are interpolated by cubic splines, averaged over the new pixel where it is larger than
    the old, and multiplied by the ratio of the pixels' areas, which conserves flux. A pixel is bad
    if any pixel is that it was made from. The noise of neighbours is correlated afterwards; the
    variance is that of the pixel alone, without what the interpolation smooths away.

    Parameters
    ----------
    band : BandPixels
        On its own grid.
    own, wanted : Footprint
        Its grid, and the one it is to be on.
    """

    def __init__(self, band: BandPixels, own: Footprint, wanted: Footprint) -> None:
        self.band, self.shape = band.band, wanted.shape_YX
        self._source, self._source_shape = band, own.shape_YX
        self._places = _places(own, wanted)
        ratio = scale_arcsec(wanted) / scale_arcsec(own)
        self._samples = max(1, math.ceil(ratio - 0.25))

    def __getitem__(self, index: tuple[slice, slice]) -> Pixels:
        from scipy import ndimage

        shape = np.empty(self.shape, np.bool_)[index].shape
        rows, columns = (
            slice(*part.indices(side)) for part, side in zip(index, self.shape, strict=True)
        )
        n = self._samples
        fine = (np.arange(n) + 0.5) / n - 0.5
        y = (np.arange(rows.start, rows.stop)[:, None] + fine).reshape(-1)
        x = (np.arange(columns.start, columns.stop)[:, None] + fine).reshape(-1)
        u, v, area = self._at(x, y)
        height, width = self._source_shape
        outside = ~((u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5))
        if outside.all() or not u.size:
            mask = np.full(shape, schema.MASK_NO_DATA, np.uint8)
            empty = np.full(shape, np.nan, np.float32)
            return Pixels(empty, mask, empty.copy())
        left, right = _window(u[~outside], width)
        bottom, top = _window(v[~outside], height)
        source = self._source[bottom:top, left:right]
        u, v = u - left, v - bottom
        flux, variance = source.flux, source.variance
        if (source.mask != 0).any():
            nearest = tuple(
                ndimage.distance_transform_edt(
                    source.mask != 0, return_distances=False, return_indices=True
                )
            )
            # What stands in for a bad pixel matters to masked pixels alone.
            flux = np.nan_to_num(flux[nearest])
            variance = None if variance is None else np.nan_to_num(variance[nearest])

        def averaged(values: NDArray[Any]) -> NDArray[Any]:
            means: NDArray[Any] = values.reshape(shape[0], n, shape[1], n).mean((1, 3))
            return means

        def spoilt(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return averaged(bad.astype(np.float32)) > 0

        smooth = ndimage.map_coordinates(flux, [v, u], order=3, mode="nearest")
        resampled = averaged(smooth * area).astype(np.float32)
        mask = np.where(spoilt(outside), np.uint8(schema.MASK_NO_DATA), np.uint8(0))
        at = (
            np.clip(np.floor(v).astype(int), 0, len(flux) - 1),
            np.clip(np.floor(u).astype(int), 0, flux.shape[1] - 1),
        )
        for bit in _BITS:
            bad = (source.mask & bit) != 0
            if bad.any():
                size = _BEFORE + 1 + _AFTER
                # The filter's window of an even size reaches further back than ahead.
                near = ndimage.maximum_filter(bad, size, origin=-1, mode="constant")
                mask[spoilt(near[at])] |= bit
        empty = (mask & schema.MASK_NO_DATA) != 0
        resampled[empty] = np.nan
        noise = None
        if variance is not None:
            plain = ndimage.map_coordinates(variance, [v, u], order=1, mode="nearest")
            noise = averaged(plain * area**2 / np.maximum(area, 1)).astype(np.float32)
            noise[empty] = np.nan
        return Pixels(resampled, mask, noise)

    def stamps(self, ix: NDArray[np.int64], iy: NDArray[np.int64], out: Pixels) -> None:
        """Cut stamps into `out` as `BandPixels.stamps` does."""
        size, (height, width) = out.flux.shape[-1], self.shape
        out.flux[:], out.mask[:] = np.nan, schema.MASK_NO_DATA
        if out.variance is not None:
            out.variance[:] = np.nan
        # By rows of the band's own grid, which may lie any way, so that each is read once.
        order = np.argsort(self.place(ix.astype(np.float64), iy.astype(np.float64))[1])
        for k in order.tolist():
            x, y = int(ix[k]), int(iy[k])
            left, bottom = x - size // 2, y - size // 2
            x0, x1 = max(0, left), min(width, left + size)
            y0, y1 = max(0, bottom), min(height, bottom + size)
            if x0 >= x1 or y0 >= y1:
                continue
            window = self[y0:y1, x0:x1]
            place = (k, slice(y0 - bottom, y1 - bottom), slice(x0 - left, x1 - left))
            out.flux[place], out.mask[place] = window.flux, window.mask
            if out.variance is not None and window.variance is not None:
                out.variance[place] = window.variance

    def place(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where positions on the new grid lie on the band's own."""
        from scipy import ndimage

        at = [y / _LATTICE_PIX + 1, x / _LATTICE_PIX + 1]
        u, v = (ndimage.map_coordinates(plane, at, order=1) for plane in self._places[:2])
        return u, v

    def require_noise(self) -> None:
        """Raise `UnitError` if the band has no plane that tells its noise."""
        self._source.require_noise()

    def forget(self) -> None:
        """Let go of whatever rows are held in memory."""
        self._source.forget()

    def _at(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return positions on the own grid, and its pixels in one of the wanted, of a raster."""
        from scipy import ndimage

        at = np.broadcast_arrays(y[:, None] / _LATTICE_PIX + 1, x[None, :] / _LATTICE_PIX + 1)
        u, v, area = (
            ndimage.map_coordinates(plane, np.array(at), order=1, mode="nearest")
            for plane in self._places
        )
        return u, v, area


def _places(own: Footprint, wanted: Footprint) -> NDArray[np.float64]:
    """Map a lattice of the wanted grid, one step wider than the image, to the own grid.

    Returns
    -------
    (3, along y, along x) float64
        x, y on the own grid, and the ratio of the pixels' areas.
    """
    height, width = wanted.shape_YX
    y, x = (
        np.arange(-_LATTICE_PIX, side + 2 * _LATTICE_PIX, _LATTICE_PIX, dtype=np.float64)
        for side in (height, width)
    )
    grid_x, grid_y = (axis.ravel() for axis in np.meshgrid(x, y))

    def moved(dx: float, dy: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        ra, dec = wanted.sky_of(grid_x + dx, grid_y + dy)
        with quietly():
            u, v = own.wcs.all_world2pix(ra, dec, 0, quiet=True, ra_dec_order=True)
        return u, v

    (u, v), (u_x, v_x), (u_y, v_y) = moved(0, 0), moved(0.5, 0), moved(0, 0.5)
    area = 4 * abs((u_x - u) * (v_y - v) - (v_x - v) * (u_y - u))
    return np.array([u, v, area]).reshape(3, len(y), len(x))


def _window(positions: NDArray[np.float64], side: int) -> tuple[int, int]:
    """Range of pixels that interpolation at positions needs, with some about them."""
    low, high = math.floor(positions.min()) - 8, math.ceil(positions.max()) + 9
    return max(0, low), min(side, high)
