"""A multi-band tile, opened lazily: pixels in nJy, mask, variance and WCS.

Tiles are found by their file names, as the survey says. Whatever is wrong with a tile's files
becomes a `UnitError` with a reason code, so that one bad tile fails alone.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from lensfinder import schema
from lensfinder.errors import RequestError, UnitError
from lensfinder.survey import MaskBits, Survey

# What reading a damaged FITS file has been seen to raise.
_READ_ERRORS = (
    fits.VerifyError,
    AssertionError,  # of astropy.wcs, where a distortion's tables are missing
    OSError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    RuntimeError,
    zlib.error,
)
# Rows decompressed at a time; a compressed HDU is read once, in order, without holding all of it.
_STRIP_ROWS = 1024
_PIXEL_SCALE_TOLERANCE = 0.02
# Bands whose pixels lie further apart than this are not on one grid.
_GRID_TOLERANCE_PIX = 0.1


@dataclass(frozen=True)
class TileFiles:
    """The files of one tile.

    Attributes
    ----------
    name : str
        Common part of the file names.
    paths : mapping of band to {image, weight or mask: path}
    """

    name: str
    paths: Mapping[str, Mapping[str, Path]]

    def identity(self) -> dict[str, Any]:
        """Describe the files' content without reading their pixels (see `identify`)."""
        return {
            f"{band}/{kind}": identify(path)
            for band, kinds in sorted(self.paths.items())
            for kind, path in sorted(kinds.items())
        }


def find(inputs: Sequence[Path], survey: Survey, bands: Sequence[str]) -> list[TileFiles]:
    """Group files into tiles by the survey's name pattern.

    Parameters
    ----------
    inputs : sequence of Path
        FITS files, or folders searched with all their sub-folders.
    survey : Survey
    bands : sequence of str
        Files of other bands are left out.

    Returns
    -------
    list of TileFiles
        Sorted by name.

    Raises
    ------
    RequestError
        If an input does not exist, a named file does not fit the pattern, two files claim the same
        place, or nothing is left.
    """
    pattern = re.compile(survey.files.pattern)
    tiles: dict[str, dict[str, dict[str, Path]]] = {}
    if not inputs:
        raise RequestError("no tiles given", "FITS files, or folders of them")
    for path, named in _files(inputs):
        match = pattern.fullmatch(path.name)
        if match is None:
            if named:
                raise RequestError(
                    f"{path} is not named like a tile of {survey.name}",
                    f"a name that matches {survey.files.pattern}",
                    "Choose the survey with --survey, or write a survey file for these names.",
                )
            continue
        band = match["band"]
        kind = survey.files.kinds.get(match["kind"]) if survey.files.kinds else "image"
        if band not in bands or kind is None:
            continue
        kinds = tiles.setdefault(match["tile"], {}).setdefault(band, {})
        if kind in kinds and kinds[kind].resolve() != path.resolve():
            raise RequestError(f"{kinds[kind]} and {path} are both the {band} {kind} of one tile")
        kinds[kind] = path
    if not tiles:
        raise RequestError(
            f"no {survey.name} tiles in {', '.join(str(path) for path in inputs)}",
            f"file names that match {survey.files.pattern}, bands {','.join(bands)}",
            "Choose the survey with --survey; `lensfinder surveys` lists them.",
        )
    return [TileFiles(name, tiles[name]) for name in sorted(tiles)]


def _files(inputs: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    for path in inputs:
        if path.is_dir():
            yield from ((child, False) for child in sorted(path.rglob("*")) if ".fit" in child.name)
        elif path.exists() or path.is_symlink():
            yield path, True
        else:
            raise RequestError(f"no such file: {path}", "a FITS tile or a folder of tiles")


def identify(path: Path) -> dict[str, Any]:
    """Tell a file's content by its size and headers, without reading the pixels.

    DATASUM cards, where there are some, stand in the headers. A gzipped file is told by its
    trailer (CRC-32 and length) instead.
    """
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        if path.suffix == ".gz":
            with path.open("rb") as file:
                file.seek(max(0, size - 8))
                digest.update(file.read(8))
        else:
            with _quietly(), fits.open(path) as hdus:
                for hdu in hdus:
                    digest.update(hdu.header.tostring().encode())
    except _READ_ERRORS as error:
        return {"name": path.name, "unreadable": type(error).__name__}
    return {"name": path.name, "bytes": size, "header": digest.hexdigest()}


@contextmanager
def _quietly() -> Iterator[None]:
    # Survey headers break the standard in harmless ways; what harms is checked explicitly.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        warnings.simplefilter("ignore", FITSFixedWarning)
        yield


@dataclass(frozen=True)
class Footprint:
    """Where a tile lies on the sky.

    Attributes
    ----------
    name : str
    wcs : WCS
        Celestial, two axes.
    shape_YX : (int, int)
    centre_ra, centre_dec, radius : float
        Centre and distance of the farthest corner, deg.
    """

    name: str
    wcs: WCS
    shape_YX: tuple[int, int]
    centre_ra: float
    centre_dec: float
    radius: float

    @classmethod
    def of(cls, name: str, wcs: WCS, shape_YX: tuple[int, int]) -> Self:
        height, width = shape_YX
        x = np.array([(width - 1) / 2, -0.5, width - 0.5, -0.5, width - 0.5])
        y = np.array([(height - 1) / 2, -0.5, -0.5, height - 0.5, height - 0.5])
        ra, dec = wcs.all_pix2world(x, y, 0, ra_dec_order=True)
        if not np.isfinite([ra, dec]).all():
            raise UnitError("no_wcs", f"{name}: the WCS gives no position for a corner")
        radius = float(separation_deg(ra[0], dec[0], ra[1:], dec[1:]).max())
        return cls(name, wcs, shape_YX, float(ra[0]) % 360, float(dec[0]), radius)

    def pixel_of(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Find positions in the tile.

        Parameters
        ----------
        ra, dec : (N,) float64, deg

        Returns
        -------
        x, y : (N,) float64
            0-based pixel positions, NaN outside.
        inside : (N,) bool
        """
        x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
        # Far from the tile the projection may have no solution at all.
        near = separation_deg(self.centre_ra, self.centre_dec, ra, dec) <= self.radius * 1.001
        if near.any():
            with _quietly():
                x[near], y[near] = self.wcs.all_world2pix(
                    ra[near], dec[near], 0, quiet=True, ra_dec_order=True
                )
        height, width = self.shape_YX
        inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
        x[~inside] = y[~inside] = np.nan
        return x, y, inside

    def sky_of(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return RA and Dec (deg, ICRS) of 0-based pixel positions."""
        ra, dec = self.wcs.all_pix2world(x, y, 0, ra_dec_order=True)
        return ra % 360, dec


def separation_deg(
    ra_1: Any, dec_1: Any, ra_2: NDArray[np.float64], dec_2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Angular distance in degrees (haversine formula, stable at small separations)."""
    ra_1, dec_1, ra_2, dec_2 = (np.radians(value) for value in (ra_1, dec_1, ra_2, dec_2))
    h = np.sin((dec_2 - dec_1) / 2) ** 2
    h = h + np.cos(dec_1) * np.cos(dec_2) * np.sin((ra_2 - ra_1) / 2) ** 2
    distance: NDArray[np.float64] = np.degrees(2 * np.arcsin(np.sqrt(np.clip(h, 0, 1))))
    return distance


class _Plane:
    """Pixels of one image HDU, sliced as ``plane[y0:y1, x0:x1]`` in native byte order."""

    def __init__(self, path: Path, hdus: fits.HDUList) -> None:
        self.path = path
        self.hdus = hdus
        self.hdu = _only_image(path, hdus)
        _check_whole(path, self.hdu)
        self.shape: tuple[int, int] = self.hdu.shape
        self.header = self.hdu.header
        self._compressed = isinstance(self.hdu, fits.CompImageHDU)
        self._strip: NDArray[Any] | None = None
        self._strip_start = 0
        # Read before `.data`, which drops these cards.
        scaled = any(card in self.header for card in ("BSCALE", "BZERO", "BLANK"))
        self._pixels = self.hdu.section if self._compressed or scaled else self.hdu.data

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[Any]:
        rows, columns = index
        try:
            with _quietly():
                if not self._compressed:
                    return np.asarray(self._pixels[rows, columns])
                return self._from_strip(rows)[:, columns]
        except _READ_ERRORS as error:
            raise UnitError("unreadable", f"{self.path}: pixels can't be read ({error})") from error

    def _from_strip(self, rows: slice) -> NDArray[Any]:
        end = self._strip_start + (0 if self._strip is None else len(self._strip))
        if self._strip is None or rows.start < self._strip_start or rows.stop > end:
            stop = min(self.shape[0], max(rows.stop, rows.start + _STRIP_ROWS))
            self._strip_start = rows.start
            self._strip = np.asarray(self._pixels[rows.start : stop, :])
        return self._strip[rows.start - self._strip_start : rows.stop - self._strip_start]

    def number(self, card: str, reason: str) -> float:
        """Read a number from the header, or raise `UnitError` with `reason`."""
        try:
            return float(self.header[card])
        except _READ_ERRORS as error:
            raise UnitError(
                reason, f"{self.path}: card {card} can't be read ({error})", "a number"
            ) from error


def _only_image(path: Path, hdus: fits.HDUList) -> Any:
    """Return the first image; refuse to guess where several bear its name."""
    images = [
        hdu
        for hdu in hdus
        if getattr(hdu, "is_image", False) and len(hdu.shape) == 2 and min(hdu.shape) > 0
    ]
    if not images:
        raise UnitError("no_image", f"{path} holds no two-dimensional image")
    name = images[0].name
    twins = sum(hdu.name == name for hdu in images)
    if name and twins > 1:
        raise UnitError(
            "ambiguous_image", f"{path} holds {twins} images named {name}", "one image a file"
        )
    return images[0]


def _check_whole(path: Path, hdu: Any) -> None:
    # `.section` reads the intact part of a truncated file without complaint.
    where = hdu.fileinfo()
    if path.suffix == ".gz" or where is None:
        return
    end, found = where["datLoc"] + where["datSpan"], path.stat().st_size
    # All but the padding of the last block must be there.
    if found <= end - fits.header.BLOCK_SIZE:
        raise UnitError("truncated", f"{path} has {found} bytes", f"{end}")


def _footprint(name: str, path: Path, hdu: Any, hdus: fits.HDUList) -> Footprint:
    try:
        with _quietly():
            # The whole file, since distortion tables are HDUs of their own.
            wcs = WCS(hdu.header, hdus, naxis=2)
            if not wcs.has_celestial:
                raise UnitError("no_wcs", f"{path} has no celestial WCS", "CTYPE1 and CTYPE2 cards")
            axis, frame = wcs.wcs.lngtyp.strip(), wcs.wcs.radesys
            if axis != "RA" or frame.startswith("FK4"):
                raise UnitError(
                    "sky_frame",
                    f"{path} is mapped in {axis} ({frame or 'no RADESYS'})",
                    "RA and Dec in ICRS or FK5",
                )
            return Footprint.of(name, wcs, hdu.shape)
    except (MemoryError, *_READ_ERRORS) as error:  # wcslib's word for cards it can't make sense of
        reason = " ".join(str(error).split())
        raise UnitError("no_wcs", f"{path}: its WCS can't be read ({reason})") from error


def salvage_footprint(files: TileFiles) -> Footprint | None:
    """Tell where a tile lies that can't be opened as a whole, from any image with a header."""
    for kinds in files.paths.values():
        try:
            with _quietly(), fits.open(kinds["image"]) as hdus:
                hdu = _only_image(kinds["image"], hdus)
                return _footprint(files.name, kinds["image"], hdu, hdus)
        except (UnitError, *_READ_ERRORS):
            continue
    return None


class Tile:
    """An open tile; use as a context manager, through `open_tile`.

    Attributes
    ----------
    name : str
    bands : tuple of str
    footprint : Footprint
    shape_YX : (int, int)
    """

    def __init__(
        self,
        name: str,
        bands: tuple[str, ...],
        survey: Survey,
        planes: Mapping[str, Mapping[str, _Plane]],
    ) -> None:
        self.name, self.bands = name, bands
        self._survey, self._planes = survey, planes
        self._njy = {band: self._njy_factor(band) for band in bands}
        self.shape_YX = planes[bands[0]]["image"].shape
        self.footprint = self._check_grids()

    def _njy_factor(self, band: str) -> float:
        zero_point = self._survey.zero_point
        plane = self._planes[band]["image"]
        magnitude = zero_point.value
        if magnitude is None:
            assert zero_point.card is not None
            magnitude = plane.number(zero_point.card, "no_zero_point")
        return float(10 ** ((schema.AB_ZERO_POINT_NJY - magnitude) / 2.5))

    def _check_grids(self) -> Footprint:
        first: Footprint | None = None
        for band in self.bands:
            for kind, plane in self._planes[band].items():
                if plane.shape != self.shape_YX:
                    raise UnitError(
                        "unequal_size",
                        f"{plane.path} ({band} {kind}) has {plane.shape[1]} x {plane.shape[0]} "
                        "pixels",
                        f"{self.shape_YX[1]} x {self.shape_YX[0]} as in {self.bands[0]}",
                    )
            footprint = self._footprint(self._planes[band]["image"])
            first = first or footprint
            self._check_same_grid(first, footprint, band)
        assert first is not None
        return first

    def _footprint(self, plane: _Plane) -> Footprint:
        footprint = _footprint(self.name, plane.path, plane.hdu, plane.hdus)
        scales = proj_plane_pixel_scales(footprint.wcs) * 3600
        wanted = self._survey.pixel_scale_arcsec
        if not (abs(scales / wanted - 1) <= _PIXEL_SCALE_TOLERANCE).all():
            raise UnitError(
                "pixel_scale",
                f"{plane.path} has pixels of {scales[0]:.4f} x {scales[1]:.4f} arcsec",
                f"{wanted} arcsec as {self._survey.name} has",
            )
        return footprint

    def _check_same_grid(self, first: Footprint, other: Footprint, band: str) -> None:
        height, width = self.shape_YX
        x, y = np.array([0.0, width - 1, 0, width - 1]), np.array([0.0, 0, height - 1, height - 1])
        ra, dec = first.sky_of(x, y)
        with _quietly():
            x_other, y_other = other.wcs.all_world2pix(ra, dec, 0, quiet=True, ra_dec_order=True)
        shift = float(np.hypot(x_other - x, y_other - y).max())
        if not shift <= _GRID_TOLERANCE_PIX:
            raise UnitError(
                "unequal_grid",
                f"{self.name}: band {band} is shifted by up to {shift:.2f} pixels "
                f"against {self.bands[0]}",
                "bands on one pixel grid",
            )

    def image(self, band: str) -> _Flux:
        """Return the flux plane, sliced as ``[y0:y1, x0:x1]`` → float32 nJy, NaN without data."""
        return _Flux(self._planes[band], self._njy[band])

    def mask(self, band: str) -> _Mask:
        """Return the mask plane, sliced like `image` → uint8 bits of `schema`."""
        return _Mask(self._planes[band], self._survey.mask, self.image(band))

    def variance(self, band: str) -> _Variance:
        """Return the variance plane in nJy², from the inverse-variance weights.

        Raises
        ------
        UnitError
            If the band has no weight file.
        """
        if "weight" not in self._planes[band]:
            raise UnitError("no_weight", f"{self.name}: no weight file for {band}", "one beside it")
        return _Variance(self._planes[band]["weight"], self._njy[band])

    def psf_fwhm_arcsec(self, band: str) -> float:
        """FWHM of the PSF: the survey's typical value."""
        return self._survey.psf_fwhm_arcsec[band]


@dataclass(frozen=True)
class _Flux:
    planes: Mapping[str, _Plane]
    njy: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.planes["image"].shape

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[np.float32]:
        # KiDS' 1e-12 has no room for its square in float32, so the factor is applied in float64.
        # What float32 can't hold is damage, and becomes no data.
        with np.errstate(over="ignore"):
            flux = (self.planes["image"][index].astype(np.float64) * self.njy).astype(np.float32)
        flux[~np.isfinite(flux)] = np.nan
        if "weight" in self.planes:
            flux[~(self.planes["weight"][index] > 0)] = np.nan
        return flux


@dataclass(frozen=True)
class _Mask:
    planes: Mapping[str, _Plane]
    bits: MaskBits
    flux: _Flux

    @property
    def shape(self) -> tuple[int, int]:
        return self.planes["image"].shape

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[np.uint8]:
        image, bits = self.planes["image"], self.bits
        mask = np.where(np.isnan(self.flux[index]), schema.MASK_NO_DATA, 0).astype(np.uint8)
        if bits.saturation_card is not None and bits.saturation_card in image.header:
            limit = image.number(bits.saturation_card, "no_saturation_level")
            mask[image[index] >= limit] |= schema.MASK_SATURATED
        if "mask" in self.planes:
            stored = self.planes["mask"][index].astype(np.int64)
            for spoiling, bit in (
                (bits.no_data, schema.MASK_NO_DATA),
                (bits.saturated, schema.MASK_SATURATED),
                (bits.bad, schema.MASK_BAD),
            ):
                mask[(stored & spoiling) != 0] |= bit
        return mask


@dataclass(frozen=True)
class _Variance:
    weight: _Plane
    njy: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[np.float32]:
        weight = self.weight[index].astype(np.float64)
        variance = np.full(weight.shape, np.nan)
        np.divide(self.njy**2, weight, out=variance, where=weight > 0)
        return variance.astype(np.float32)


@contextmanager
def open_tile(files: TileFiles, survey: Survey, bands: tuple[str, ...]) -> Iterator[Tile]:
    """Open a tile; only headers are read until pixels are sliced.

    Raises
    ------
    UnitError
        If a band is missing, or a file is unreadable, truncated, without image or WCS, on another
        grid, or of another pixel scale.
    """
    with ExitStack() as stack:
        planes: dict[str, dict[str, _Plane]] = {}
        for band in bands:
            if "image" not in files.paths.get(band, {}):
                raise UnitError("missing_band", f"{files.name} has no {band} image", "every band")
            planes[band] = {}
            for kind, path in files.paths[band].items():
                try:
                    with _quietly():
                        hdus = stack.enter_context(fits.open(path))
                        planes[band][kind] = _Plane(path, hdus)
                except _READ_ERRORS as error:
                    reason = str(error) or type(error).__name__
                    raise UnitError("unreadable", f"{path} can't be read: {reason}") from error
        yield Tile(files.name, bands, survey, planes)
