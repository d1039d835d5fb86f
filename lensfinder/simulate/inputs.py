"""Real images that mocks are made with, from their files.

They are read once a process. What they are stands in a unit's ingredients (as checksums), where
they lie in its task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from lensfinder import headers, shards
from lensfinder.commit import sha256_of
from lensfinder.config import SimulateConfig
from lensfinder.errors import MismatchError, RequestError, counted
from lensfinder.fingerprints import fingerprint
from lensfinder.footprints import READ_ERRORS, quietly
from lensfinder.ledger import products_of
from lensfinder.psf import PsfexModel
from lensfinder.simulate.material import Material
from lensfinder.simulate.psfs import PsfImages
from lensfinder.simulate.sources import SourceImages, clean

# Of a PSFEx model: along each axis of the image that it was made for.
_POSITIONS = 5
# Turned, mirrored and shifted, these are many.
_MOST_PATCHES = 1024
_SCALE_CARDS = ("PIXSCALE", "PIXEL_SCALE", "SECPIX")
# A card that names a mask of the same survey, say, is no scale of an image.
_SCALES_ARCSEC = (1e-3, 10.0)


def find(
    config: SimulateConfig, bands: tuple[str, ...], pixel_scale_arcsec: float, size: int
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Check what a configuration names.

    Returns
    -------
    where : what `load` takes; empty if nothing is named
    identity : for the fingerprint
    notices : what was left out

    Raises
    ------
    RequestError, MismatchError
        if something can't be used, or contradicts the hosts
    """
    where: dict[str, Any] = {}
    identity: dict[str, Any] = {}
    if config.hosts is not None and (config.psf is not None or config.sky is not None):
        raise RequestError(
            f"--hosts with {'--psf' if config.psf else '--sky'}",
            "one of them: a real galaxy brings its own PSF and sky along",
        )
    if config.sources is not None:
        files = _fits_in(config.sources)
        where["sources"] = [str(path) for path in files]
        where["source_pixel_arcsec"] = config.source_pixel_arcsec
        identity["sources"] = {
            "files": [sha256_of(path) for path in files],
            "pixel_arcsec": config.source_pixel_arcsec,
        }
    if config.psf is not None:
        named = {band: Path(str(config.psf).replace("{band}", band)) for band in bands}
        where["psf"] = {band: str(path) for band, path in named.items()}
        missing = [str(path) for path in named.values() if not path.is_file()]
        if missing:
            raise RequestError(
                f"there is no PSF {missing[0]}",
                "a FITS file for each band, such as --psf 'psfs/{band}.fits'",
            )
        identity["psf"] = {band: sha256_of(path) for band, path in named.items()}
    if config.sky is not None:
        paths = [config.sky] if config.sky.is_file() else products_of(config.sky, "cutout")
        where["sky"] = [str(path) for path in paths]
        identity["sky"] = [fingerprint(shards.made_from(path) or {}) for path in paths]
    if not where:
        return {}, {}, ()
    where |= {"bands": list(bands), "pixel_scale_arcsec": pixel_scale_arcsec, "size": size}
    return where, identity, load(where).notices


def load(where: Mapping[str, Any]) -> Material:
    """Read what `find` found; once a process.

    Raises
    ------
    RequestError, MismatchError
        if something can't be used
    """
    return _load(
        tuple(where.get("sources", ())),
        where.get("source_pixel_arcsec"),
        tuple(where.get("psf", {}).values()),
        tuple(where.get("sky", ())),
        tuple(where["bands"]),
        where["pixel_scale_arcsec"],
        where["size"],
    )


@lru_cache(maxsize=2)
def _load(
    sources: tuple[str, ...],
    source_pixel_arcsec: float | None,
    psfs: tuple[str, ...],
    sky: tuple[str, ...],
    bands: tuple[str, ...],
    pixel_scale_arcsec: float,
    size: int,
) -> Material:
    notices: list[str] = []
    galaxies, radius = None, np.zeros(0)
    if sources:
        galaxies = _read_sources([Path(name) for name in sources], source_pixel_arcsec, notices)
        radius = galaxies.half_light_radius_arcsec()
    psf, fwhm = None, np.zeros((0, len(bands)))
    if psfs:
        psf = _read_psfs([Path(name) for name in psfs], pixel_scale_arcsec)
        fwhm = psf.fwhm_arcsec(pixel_scale_arcsec)
    patches = None
    if sky:
        patches = _read_sky([Path(name) for name in sky], bands, pixel_scale_arcsec, size, notices)
    return Material(galaxies, radius, psf, fwhm, patches, tuple(notices))


def _fits_in(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob("*.fit*") if p.is_file()) if path.is_dir() else []
    if not found:
        raise RequestError(f"{path} holds no FITS files", "images of galaxies")
    return found


def _images_of(path: Path) -> list[tuple[str, np.ndarray, fits.Header]]:
    """List the images of a file, those of a cube each for itself, with name and header."""
    try:
        with quietly(), fits.open(path) as hdus:
            found = []
            for number, hdu in enumerate(hdus):
                if not hdu.is_image or hdu.header.get("NAXIS", 0) not in (2, 3):
                    continue
                data = np.asarray(hdu.data, np.float64)
                for layer, image in enumerate(data if data.ndim == 3 else data[None]):
                    of_cube = f"[{layer}]" if data.ndim == 3 else ""
                    found.append((f"{path.name}[{number}]{of_cube}", image, hdu.header.copy()))
            return found
    except READ_ERRORS as error:
        raise RequestError(f"{path} can't be read: {error}", "a FITS file of images") from error


def _scale_of(header: fits.Header) -> float | None:
    """Tell the side of a pixel, arcsec, if the header does."""
    for card in _SCALE_CARDS:
        value = header.get(card)
        if isinstance(value, (int, float)) and _SCALES_ARCSEC[0] < value < _SCALES_ARCSEC[1]:
            return float(value)
    if "CTYPE1" not in header:
        return None
    try:
        with quietly():
            wcs = WCS(headers.for_wcs(header))
            scale = float(np.mean(proj_plane_pixel_scales(wcs.celestial))) * 3600
    except READ_ERRORS:  # a WCS that can't be read tells nothing
        return None
    return scale if _SCALES_ARCSEC[0] < scale < _SCALES_ARCSEC[1] else None


def _read_sources(
    files: Sequence[Path], pixel_arcsec: float | None, notices: list[str]
) -> SourceImages:
    usable: list[tuple[str, np.ndarray, float]] = []
    wrong: list[str] = []
    for path in files:
        for name, image, header in _images_of(path):
            scale = pixel_arcsec or _scale_of(header)
            if scale is None:
                raise RequestError(
                    f"{name} does not say how large its pixels are",
                    "a WCS, a card PIXSCALE, or --source-pixel-arcsec",
                )
            try:
                clean(image)
            except ValueError as error:
                wrong.append(f"{name}: {error}")
            else:
                usable.append((name, image, scale))
    if not usable:
        why = f"; {wrong[0]}" if wrong else ""
        raise RequestError(f"{files[0]} holds no usable image of a galaxy{why}", "some")
    if wrong:
        notices.append(
            f"{len(wrong)} of {len(wrong) + len(usable)} source images left out: {wrong[0]}"
            + (" and others" if len(wrong) > 1 else "")
        )
    names, images, scales = zip(*usable, strict=True)
    return SourceImages.of(images, names, scales)


def _read_psfs(files: Sequence[Path], pixel_scale_arcsec: float) -> PsfImages:
    """Read a PSF image, a cube of them or a PSFEx model for each band."""
    read = [_psf_of(path, pixel_scale_arcsec) for path in files]
    counts, steps = {len(images) for images, _ in read}, {round(step, 4) for _, step in read}
    for what, found in (("PSFs", counts), ("pixels a sample", steps)):
        if len(found) > 1:
            raise RequestError(
                f"the PSF files have {', '.join(f'{value:g}' for value in sorted(found))} {what}",
                "the same in all bands",
            )
    side = max(images.shape[-1] for images, _ in read)
    stack = np.zeros((counts.pop(), len(read), side, side))
    for c, (images, _) in enumerate(read):
        margin = (side - images.shape[-1]) // 2
        inner = slice(margin, margin + images.shape[-1])
        stack[:, c, inner, inner] = images
    try:
        return PsfImages(stack, read[0][1])
    except ValueError as error:
        names = ", ".join(path.name for path in files)
        raise RequestError(f"{names}: {error}") from error


def _psf_of(path: Path, pixel_scale_arcsec: float) -> tuple[np.ndarray, float]:
    """Return PSF images (P, k, k), k odd, and the distance of their samples in pixels."""
    try:
        with quietly(), fits.open(path) as hdus:
            for hdu in hdus:
                if isinstance(hdu, fits.BinTableHDU) and "PSF_MASK" in hdu.columns.names:
                    model = PsfexModel.read(hdu.data["PSF_MASK"][0], hdu.header.get)
                    if model is not None:
                        return _all_over(model), model.step_pix
    except READ_ERRORS as error:
        raise RequestError(f"{path} can't be read: {error}", "PSF images in FITS") from error
    images = _images_of(path)
    if not images:
        raise RequestError(f"{path} holds no PSF", "an image, a cube, or a PSFEx model")
    shapes = {image.shape for _, image, _ in images}
    if len(shapes) > 1:
        raise RequestError(f"{path} holds PSFs of {len(shapes)} shapes", "one shape")
    step = (_scale_of(images[0][2]) or pixel_scale_arcsec) / pixel_scale_arcsec
    stack = np.stack([image for _, image, _ in images])
    # A last row or column makes an odd side; where the star is decides which one goes.
    for axis in (1, 2):
        if stack.shape[axis] % 2 == 0:
            n = stack.shape[axis]
            profile = stack.sum(axis=(0, 3 - axis))
            first = int(np.argmax(profile)) >= n // 2
            stack = np.take(stack, range(int(first), n - 1 + int(first)), axis=axis)
    side = min(stack.shape[1:])
    top, left = ((length - side) // 2 for length in stack.shape[1:])
    return stack[:, top : top + side, left : left + side], step


def _all_over(model: PsfexModel) -> np.ndarray:
    """Evaluate a model on a lattice over the image that it was made for, (P, k, k)."""
    if model.degree == 0:
        return model.at(0.0, 0.0)[None]
    along = np.linspace(-0.9, 0.9, _POSITIONS)
    x, y = (
        zero + along * scale - 1 for zero, scale in zip(model.zero_xy, model.scale_xy, strict=True)
    )
    return np.stack([model.at(float(a), float(b)) for b in y for a in x])


def _read_sky(
    paths: Sequence[Path],
    bands: tuple[str, ...],
    pixel_scale_arcsec: float,
    size: int,
    notices: list[str],
) -> np.ndarray:
    """Read whole stamps without a masked pixel, their level taken off, (P, C, Y, X)."""
    patches: list[np.ndarray] = []
    masked = 0
    for path in paths:
        with shards.read(path) as shard:
            check_stamps(
                path,
                shard.header,
                size=shard.size,
                wanted_size=size,
                bands=bands,
                pixel_scale_arcsec=pixel_scale_arcsec,
                what="sky",
            )
            order = [shard.header.bands.index(band) for band in bands]
            for row in range(len(shard)):
                if len(patches) >= _MOST_PATCHES:
                    break
                if (shard.mask[row][order] != 0).any():
                    masked += 1
                    continue
                image = shard.image[row][order]
                patches.append(image - np.median(image, axis=(1, 2), keepdims=True))
    if not patches:
        raise RequestError(
            f"{paths[0]} holds no stamp without masked pixels", "pieces of empty sky"
        )
    if masked:
        notices.append(f"{counted(masked, 'stamp')} of sky left out for masked pixels")
    return np.stack(patches).astype(np.float32)


def check_stamps(
    path: Path,
    header: shards.Header,
    *,
    size: int,
    wanted_size: int,
    bands: tuple[str, ...],
    pixel_scale_arcsec: float,
    what: str = "hosts",
) -> None:
    """Refuse real stamps that do not fit the mocks that they are to be part of.

    Raises
    ------
    MismatchError
        naming both values
    """
    missing = [band for band in bands if band not in header.bands]
    if missing:
        raise MismatchError(
            f"{what} in {path} have no band {', '.join(missing)}: they have "
            f"{', '.join(header.bands)}",
            f"{what} in all bands of the mocks",
        )
    if not math.isclose(header.pixel_scale_arcsec, pixel_scale_arcsec, rel_tol=1e-3):
        raise MismatchError(
            f"{what} in {path} have pixels of {header.pixel_scale_arcsec} arcsec",
            f"{pixel_scale_arcsec} arcsec, as the survey has them",
        )
    if size < wanted_size or header.stretched:
        found = "stretched pixels" if header.stretched else f"{size} pixels a side"
        raise MismatchError(
            f"{what} in {path} have {found}",
            f"fluxes, at least {wanted_size} pixels a side",
            "Cut them again, or ask for smaller mocks with --size.",
        )
