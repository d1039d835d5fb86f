"""A multi-band tile, opened lazily: pixels in nJy, mask, variance and WCS.

Tiles are found by their file names, as the survey says. Whatever is wrong with a tile's files
becomes a `UnitError` with a reason code, so that one bad tile fails alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_scales

from lensfinder.bands import BandPixels
from lensfinder.errors import RequestError, UnitError
from lensfinder.footprints import READ_ERRORS, Footprint, footprint_of, quietly
from lensfinder.planes import OpenFiles, Plane
from lensfinder.survey import Survey

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
    paths : mapping of band to {kind of plane: path}
    """

    name: str
    paths: Mapping[str, Mapping[str, Path]]

    def identity(self) -> dict[str, Any]:
        """Describe the files' content without reading their pixels (see `identify`)."""
        # One file may hold every plane of every band.
        known = {path: identify(path) for kinds in self.paths.values() for path in kinds.values()}
        return {
            f"{band}/{kind}": known[path]
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
        words = match.groupdict()
        band = None if words.get("band") is None else survey.files.band_of(words["band"])
        for each in bands if band is None else [band]:
            for kind in survey.files.kinds_of(words.get("kind")) if each in bands else []:
                kinds = tiles.setdefault(words["tile"], {}).setdefault(each, {})
                if kind in kinds and kinds[kind].resolve() != path.resolve():
                    raise RequestError(
                        f"{kinds[kind]} and {path} are both the {each} {kind} of one tile"
                    )
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
            with quietly(), fits.open(path) as hdus:
                for hdu in hdus:
                    digest.update(hdu.header.tostring().encode())
    except READ_ERRORS as error:
        return {"name": path.name, "unreadable": type(error).__name__}
    return {"name": path.name, "bytes": size, "header": digest.hexdigest()}


def salvage_footprint(files: TileFiles, survey: Survey) -> Footprint | None:
    """Tell where a tile lies that can't be opened as a whole, from any image with a header."""
    for band in files.paths:
        with ExitStack() as stack:
            try:
                return _footprint(files.name, _open_plane(OpenFiles(stack), files, survey, band))
            except UnitError:
                continue
    return None


def _open_plane(
    opened: OpenFiles, files: TileFiles, survey: Survey, band: str, kind: Any = "image"
) -> Plane:
    path = files.paths.get(band, {}).get(kind)
    if path is None:
        raise UnitError("missing_band", f"{files.name} has no {band} {kind}", "every band")
    hdu, cube = survey.files.hdu_of(kind, band), survey.files.cube
    try:
        return opened.plane(path, hdu, cube.index(band) if cube and kind != "psf" else None)
    except UnitError as error:
        # In a file that holds all bands, an HDU that isn't there is a band that isn't there.
        if error.reason == "no_image" and "{band}" in str(survey.files.hdus.get(kind)):
            raise UnitError("missing_band", error.what, error.expected, error.remedy) from error
        raise


def _footprint(name: str, plane: Plane) -> Footprint:
    return footprint_of(name, plane.path, plane.header, plane.hdus, plane.shape)


class Tile:
    """An open tile; use as a context manager, through `open_tile`.

    Attributes
    ----------
    name : str
    bands : tuple of str
    missing_bands : tuple of str
        Those of `bands` that the tile lacks; all their pixels are NaN.
    pixels : mapping of band to BandPixels
    footprint : Footprint
    shape_YX : (int, int)
    """

    def __init__(
        self,
        name: str,
        bands: tuple[str, ...],
        survey: Survey,
        planes: Mapping[str, Mapping[str, Plane]],
    ) -> None:
        self.name, self.bands = name, bands
        self._survey, self._planes = survey, planes
        first = next(band for band in bands if planes[band])
        self.missing_bands = tuple(band for band in bands if not planes[band])
        self.shape_YX = planes[first]["image"].shape
        self.footprint = self._check_grids(first)
        self.pixels = {
            band: BandPixels(planes[band], survey, band, self.shape_YX) for band in bands
        }

    def _check_grids(self, first_band: str) -> Footprint:
        first: Footprint | None = None
        for band in self.bands:
            for kind, plane in self._planes[band].items():
                if kind != "psf" and plane.shape != self.shape_YX:
                    raise UnitError(
                        "unequal_size",
                        f"{plane.path} ({band} {kind}) has {plane.shape[1]} x {plane.shape[0]} "
                        "pixels",
                        f"{self.shape_YX[1]} x {self.shape_YX[0]} as in {first_band}",
                    )
            if self._planes[band]:
                footprint = self._footprint(self._planes[band]["image"])
                first = first or footprint
                self._check_same_grid(first, footprint, band)
        assert first is not None
        return first

    def _footprint(self, plane: Plane) -> Footprint:
        footprint = _footprint(self.name, plane)
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
        with quietly():
            x_other, y_other = other.wcs.all_world2pix(ra, dec, 0, quiet=True, ra_dec_order=True)
        shift = float(np.hypot(x_other - x, y_other - y).max())
        if not shift <= _GRID_TOLERANCE_PIX:
            raise UnitError(
                "unequal_grid",
                f"{self.name}: band {band} is shifted by up to {shift:.2f} pixels "
                f"against {self.bands[0]}",
                "bands on one pixel grid",
            )

    def psf_fwhm_arcsec(self, band: str) -> float:
        """FWHM of the PSF (see `_psf_fwhm_arcsec`); NaN for a band that is missing."""
        return _psf_fwhm_arcsec(self._planes[band], self._survey, band)


class Stamp:
    """A stamp that others have cut; use through `open_stamp`.

    Attributes
    ----------
    shape_YX : (int, int)
    pixels : mapping of band to BandPixels
    centre : (float, float)
        RA and Dec of its middle, deg; NaN without a WCS of its own.
    """

    def __init__(
        self,
        name: str,
        bands: tuple[str, ...],
        survey: Survey,
        planes: Mapping[str, Mapping[str, Plane]],
    ) -> None:
        self._survey, self._planes = survey, planes
        self.shape_YX = planes[bands[0]]["image"].shape
        for kinds in planes.values():
            for kind, plane in kinds.items():
                if kind != "psf" and plane.shape != self.shape_YX:
                    raise UnitError("unequal_size", f"{plane.path} has {plane.shape} pixels")
        self.pixels = {
            band: BandPixels(planes[band], survey, band, self.shape_YX) for band in bands
        }
        try:
            footprint = _footprint(name, planes[bands[0]]["image"])
            self.centre = (footprint.centre_ra, footprint.centre_dec)
            # Simulated stamps all claim to lie at the origin.
            if not footprint.wcs.wcs.crval.any():
                self.centre = (math.nan, math.nan)
        except UnitError:
            self.centre = (math.nan, math.nan)

    def psf_fwhm_arcsec(self, band: str) -> float:
        """FWHM of the PSF (see `_psf_fwhm_arcsec`)."""
        return _psf_fwhm_arcsec(self._planes[band], self._survey, band)


def _psf_fwhm_arcsec(planes: Mapping[str, Plane], survey: Survey, band: str) -> float:
    """FWHM of the PSF: from the header or a picture of the PSF, else the survey's typical one."""
    said = survey.psf
    if not planes:
        return math.nan
    scale = survey.pixel_scale_arcsec
    for plane in (planes[kind] for kind in ("psf", "image") if kind in planes):
        value = plane.card(said.card) if said.card is not None else None
        if isinstance(value, (int, float)) and 0 < value < math.inf:
            return float(value) * (scale if said.unit == "pix" else 1)
    if "psf" in planes:
        from lensfinder.psf import fwhm_pix

        plane = planes["psf"]
        width = fwhm_pix(plane[0 : plane.shape[0], 0 : plane.shape[1]])
        if math.isfinite(width):
            return width * scale
    return survey.psf_fwhm_arcsec[band]


@contextmanager
def open_tile(
    files: TileFiles,
    survey: Survey,
    bands: tuple[str, ...],
    *,
    missing: Literal["reject", "mask"] = "reject",
) -> Iterator[Tile]:
    """Open a tile; only headers are read until pixels are sliced.

    Parameters
    ----------
    files : TileFiles
    survey : Survey
    bands : tuple of str
    missing : {"reject", "mask"}
        What to do where a band's image is missing: refuse the tile, or give NaN for the band.

    Raises
    ------
    UnitError
        If a band is missing, or a file is unreadable, truncated, without image or WCS, on another
        grid, of another pixel scale or in another unit.
    """
    with ExitStack() as stack:
        yield Tile(files.name, bands, survey, _open_planes(stack, files, survey, bands, missing))


@contextmanager
def open_stamp(files: TileFiles, survey: Survey, bands: tuple[str, ...]) -> Iterator[Stamp]:
    """Open the stamp of one object.

    Raises
    ------
    UnitError
        If a band is missing, or a file is unreadable, truncated, without image or in another unit.
    """
    with ExitStack() as stack:
        yield Stamp(files.name, bands, survey, _open_planes(stack, files, survey, bands, "reject"))


def _open_planes(
    stack: ExitStack, files: TileFiles, survey: Survey, bands: tuple[str, ...], missing: str
) -> dict[str, dict[str, Plane]]:
    opened = OpenFiles(stack)
    planes: dict[str, dict[str, Plane]] = {}
    for band in bands:
        planes[band] = {}
        try:
            planes[band]["image"] = _open_plane(opened, files, survey, band)
        except UnitError as error:
            if error.reason != "missing_band" or missing == "reject":
                raise
            continue
        for kind in files.paths[band]:
            if kind == "image":
                continue
            try:
                planes[band][kind] = _open_plane(opened, files, survey, band, kind)
            except UnitError as error:
                # A picture of the PSF is welcome, and not to be had for every band.
                if kind != "psf" or error.reason not in ("no_image", "missing_band"):
                    raise
    if not any(planes.values()):
        raise UnitError("missing_band", f"{files.name} has none of {','.join(bands)}")
    return planes
