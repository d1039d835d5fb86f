"""A multi-band tile, opened lazily: pixels in nJy, mask, variance, WCS and PSF.

Whatever is wrong with a tile's files becomes a `UnitError` with a reason code, so that one bad
tile fails alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lensfinder import grids, tilepsf
from lensfinder.bands import BandPixels
from lensfinder.errors import UnitError
from lensfinder.footprints import Footprint, footprint_of
from lensfinder.grids import ResampledBand
from lensfinder.planes import OpenFiles, Plane, is_picture
from lensfinder.psf import PsfexModel
from lensfinder.survey import NOISE_KINDS, Survey
from lensfinder.tilefiles import TileFiles, find, identify, split_chip

__all__ = [
    "Stamp",
    "Tile",
    "TileFiles",
    "find",
    "identify",
    "open_stamp",
    "open_tile",
    "salvage_footprint",
]


def salvage_footprint(files: TileFiles, survey: Survey) -> Footprint | None:
    """Tell where a tile lies that can't be opened as a whole, from any image's header."""
    for band in files.paths:
        with ExitStack() as stack:
            try:
                path, hdu, layer = _place(files, survey, band, "image")
                hdus, image = OpenFiles(stack).image(path, hdu, layer)
                return footprint_of(files.name, path, image.header, hdus, image.shape[-2:])
            except UnitError:
                continue
    return None


def _open_plane(
    opened: OpenFiles, files: TileFiles, survey: Survey, band: str, kind: Any = "image"
) -> Plane:
    path, hdu, layer = _place(files, survey, band, kind)
    try:
        plane = opened.plane(path, hdu, layer)
    except UnitError as error:
        # In a file that holds all bands, an HDU that isn't there is a band that isn't there.
        if error.reason == "no_image" and "{band}" in str(survey.files.hdus.get(kind)):
            raise UnitError("missing_band", error.what, error.expected, error.remedy) from error
        raise
    if kind == "image":
        _check_band(plane, survey, band)
    return plane


def _place(
    files: TileFiles, survey: Survey, band: str, kind: Any
) -> tuple[Path, int | str | None, int | None]:
    """File, HDU and layer of a plane."""
    path = files.paths.get(band, {}).get(kind)
    if path is None:
        raise UnitError("missing_band", f"{files.name} has no {band} {kind}", "every band")
    if is_picture(path) and not survey.stretched:
        raise UnitError(
            "stretched",
            f"{path} is a picture for the eye, and {survey.name} has fluxes",
            "FITS, or a survey file that says stretched = true",
        )
    path, chip = split_chip(path)
    hdu = survey.files.hdu_of(kind, band) if chip is None else chip
    cube = survey.files.cube
    return path, hdu, cube.index(band) if cube and kind != "psf" else None


def _check_band(plane: Plane, survey: Survey, band: str) -> None:
    """Refuse an image whose header names another band than its file does."""
    shared = bool(survey.files.cube) or "{band}" in str(survey.files.hdus.get("image"))
    for card in survey.files.band_cards:
        # What a file of several bands says as a whole, it says of none.
        said = plane.card(card, own=shared)
        named = survey.bands_named(said) if isinstance(said, str) else set()
        if named and band not in named and not survey.files.cube:
            raise UnitError(
                "other_band",
                f"{plane.path} stands for band {band}, but its card {card} is {said!r}",
                f"the band {band}",
                "Mend the file's name or its header; two files may have been swapped.",
            )


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
    resampled_bands : tuple of str
        Those that were put on another band's grid.
    remarks : mapping of str to str
        What is odd about the tile and no reason to refuse it, each with where it was seen.
    pixels : mapping of band to BandPixels or ResampledBand
    footprint : Footprint
    shape_YX : (int, int)
    """

    def __init__(
        self,
        name: str,
        bands: tuple[str, ...],
        survey: Survey,
        planes: Mapping[str, Mapping[str, Plane]],
        models: Mapping[str, PsfexModel] | None = None,
        *,
        resample: bool = False,
    ) -> None:
        self.name, self.bands = name, bands
        self._survey, self._planes, self._models = survey, planes, models or {}
        there = [band for band in bands if planes[band]]
        reference = survey.reference_of(bands)
        first = reference if resample and reference in there else there[0]
        self.missing_bands = tuple(band for band in bands if not planes[band])
        self.shape_YX = planes[first]["image"].shape
        self.footprint = _footprint(name, planes[first]["image"])
        image = planes[first]["image"]
        grids.check_scale(self.footprint, image.path, survey.pixel_scale_arcsec, survey.name)
        self.pixels: dict[str, BandPixels | ResampledBand] = {}
        self._scales: dict[str, float] = {}
        for band in bands:
            self.pixels[band] = self._open_band(band, first, resample=resample)
        self.resampled_bands = tuple(
            band for band, pixels in self.pixels.items() if isinstance(pixels, ResampledBand)
        )
        self.remarks = self._remarks()

    def _open_band(self, band: str, first: str, *, resample: bool) -> BandPixels | ResampledBand:
        planes, survey = self._planes[band], self._survey
        self._scales[band] = survey.pixel_scale_arcsec
        if not planes:
            return BandPixels(planes, survey, band, self.shape_YX)
        shape = planes["image"].shape
        for kind, plane in planes.items():
            if kind != "psf" and plane.shape != shape:
                raise UnitError(
                    "unequal_size",
                    f"{plane.path} ({band} {kind}) has {plane.shape[1]} x {plane.shape[0]} pixels",
                    f"{shape[1]} x {shape[0]} as its image",
                )
        pixels = BandPixels(planes, survey, band, shape)
        if band == first:
            return pixels
        own = _footprint(self.name, planes["image"])
        differs = grids.difference(self.footprint, own)
        if differs is None:
            return pixels
        reason, what, wanted = differs
        if not resample:
            raise UnitError(
                reason,
                f"{planes['image'].path} ({band}) has {what}",
                f"{wanted} as in {first}",
                "--resample puts the bands on one grid.",
            )
        self._scales[band] = grids.scale_arcsec(own)
        return ResampledBand(pixels, own, self.footprint)

    def _remarks(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for kind in sorted(set(self._survey.files.kinds.values()) - {"image", "psf"}):
            # Any plane of noise will do.
            alike = NOISE_KINDS if kind in NOISE_KINDS else (kind,)
            bands = [
                band
                for band, planes in self._planes.items()
                if planes and not set(alike) & set(planes)
            ]
            if bands:
                found[f"no {kind} files, which {self._survey.name} has"] = ",".join(bands)
        masked = [band for band, planes in self._planes.items() if "mask" in planes]
        if masked and not self._survey.mask.names_bits:
            found[f"masks that spoil nothing: {self._survey.name} names no bits of theirs"] = (
                ",".join(masked)
            )
        x, y = (float(value) - 1 for value in self.footprint.wcs.wcs.crpix)
        height, width = self.shape_YX
        inside = -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5
        if self._survey.reference_pixel_inside and not inside:
            found[
                "the reference pixel of the WCS lies outside the image: right for a cutout with a "
                "new header, wrong by as much for one that kept its tile's; compare one position"
            ] = f"CRPIX {x + 1:.1f}, {y + 1:.1f}"
        return found

    def psf_fwhm_arcsec(self, band: str) -> float:
        """FWHM of the PSF in the middle of the tile; NaN for a band that is missing."""
        height, width = self.shape_YX
        middle = np.array([(width - 1) / 2]), np.array([(height - 1) / 2])
        return float(self.psf_at(band, *middle)[0][0])

    def psf_at(
        self,
        band: str,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        *,
        stars: bool = False,
    ) -> tuple[NDArray[np.float32], str]:
        """FWHM of the PSF at pixel positions, and where it is from.

        Parameters
        ----------
        band : str
        x, y : (N,) float64
        stars : bool
            Measure it on the tile's stars where no file or header tells it.

        Returns
        -------
        fwhm_arcsec : (N,) float32
            NaN for a band that is missing.
        source : str
            ``psfex`` (a model, at the position), ``header``, ``picture`` (of the PSF), ``stars``
            (the tile's), ``survey`` (its typical one), or empty for a band that is missing.
        """
        planes, pixels, scale = self._planes[band], self.pixels[band], self._scales[band]
        if not planes:
            return np.full(len(x), np.nan, np.float32), ""
        if band in self._models:
            own = pixels.place(x, y) if isinstance(pixels, ResampledBand) else (x, y)
            shape = planes["image"].shape
            found = tilepsf.modelled_fwhm_arcsec(self._models[band], *own, shape, scale)
            if found is not None:
                return found.astype(np.float32), tilepsf.PSFEX
        typical = self._survey.psf_fwhm_arcsec[band]
        told = tilepsf.told_fwhm_arcsec(planes, self._survey, scale, typical)
        if told is None and stars:
            told = self._stars(band, typical)
        value, source = told or (typical, tilepsf.SURVEY)
        return np.full(len(x), value, np.float32), source

    def _stars(self, band: str, typical_arcsec: float) -> tuple[float, str] | None:
        from lensfinder.stars import star_fwhm_pix

        # On the band's grid as it is cut.
        scale = self._survey.pixel_scale_arcsec

        def read(rows: slice, columns: slice) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            window = self.pixels[band][rows, columns]
            return window.flux, window.mask != 0

        width = star_fwhm_pix(read, self.shape_YX, typical_arcsec / scale) * scale
        return (width, tilepsf.STARS) if math.isfinite(width) else None


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
        self.centre = (math.nan, math.nan)
        first: Footprint | None = None
        for band in bands:
            image = planes[band]["image"]
            try:
                footprint = _footprint(name, image)
            except UnitError:
                continue
            # Simulated stamps all claim to lie at the origin, with pixels of any size.
            if not footprint.wcs.wcs.crval.any():
                continue
            grids.check_scale(footprint, image.path, survey.pixel_scale_arcsec, survey.name)
            if first is None:
                first, self.centre = footprint, (footprint.centre_ra, footprint.centre_dec)
            elif differs := grids.difference(first, footprint):
                reason, what, wanted = differs
                raise UnitError(reason, f"{image.path} ({band}) has {what}", wanted)

    def psf_fwhm_arcsec(self, band: str) -> float:
        """FWHM of the PSF: what the file tells, else the survey's typical one."""
        return self.psf_at(band)[0]

    def psf_at(self, band: str) -> tuple[float, str]:
        """FWHM of the PSF in arcsec, and where it is from (see `Tile.psf_at`)."""
        scale, typical = self._survey.pixel_scale_arcsec, self._survey.psf_fwhm_arcsec[band]
        told = tilepsf.told_fwhm_arcsec(self._planes[band], self._survey, scale, typical)
        return told or (typical, tilepsf.SURVEY)


@contextmanager
def open_tile(
    files: TileFiles,
    survey: Survey,
    bands: tuple[str, ...],
    *,
    missing: Literal["reject", "mask"] = "reject",
    resample: bool = False,
) -> Iterator[Tile]:
    """Open a tile; only headers are read until pixels are sliced.

    Parameters
    ----------
    files : TileFiles
    survey : Survey
    bands : tuple of str
    missing : {"reject", "mask"}
        What to do where a band's image is missing: refuse the tile, or give NaN for the band.
    resample : bool
        Put bands on other pixel grids on the reference band's, rather than refuse them.

    Raises
    ------
    UnitError
        If a band is missing, or a file is unreadable, truncated, without image or WCS, on another
        grid, of another pixel scale or in another unit.
    """
    with ExitStack() as stack:
        opened = OpenFiles(stack)
        planes = _open_planes(opened, files, survey, bands, missing)
        models = {band: tilepsf.psfex_of(opened, files, band) for band in bands if planes[band]}
        told = {band: model for band, model in models.items() if model is not None}
        yield Tile(files.name, bands, survey, planes, told, resample=resample)


@contextmanager
def open_stamp(files: TileFiles, survey: Survey, bands: tuple[str, ...]) -> Iterator[Stamp]:
    """Open the stamp of one object.

    Raises
    ------
    UnitError
        If a band is missing, or a file is unreadable, truncated, without image, in another unit
        or, by a WCS of its own, of another pixel scale.
    """
    with ExitStack() as stack:
        planes = _open_planes(OpenFiles(stack), files, survey, bands, "reject")
        yield Stamp(files.name, bands, survey, planes)


def _open_planes(
    opened: OpenFiles, files: TileFiles, survey: Survey, bands: tuple[str, ...], missing: str
) -> dict[str, dict[str, Plane]]:
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
