"""How wide the PSF of a tile is at its targets, from the best that is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder.footprints import own_scale_arcsec
from lensfinder.planes import OpenFiles, Plane
from lensfinder.psf import PsfexModel, fwhm_pix
from lensfinder.survey import Survey
from lensfinder.tilefiles import TileFiles, split_chip

# Where a width is from, in the column ``psf_source``.
PSFEX, HEADER, PICTURE, STARS, SURVEY = "psfex", "header", "picture", "stars", "survey"

# From the typical width, beyond which a header's number is none.
_FAR = 5.0


def psfex_of(opened: OpenFiles, files: TileFiles, band: str) -> PsfexModel | None:
    """Read the PSFEx model that a band's PSF file holds, if it does.

    Both PSFEx's own tables, whose numbers are header cards, and tables with a column for each
    number are understood.

    Raises
    ------
    UnitError
        If the file can't be read.
    """
    path = files.paths.get(band, {}).get("psf")
    if path is None:
        return None
    path, chip = split_chip(path)
    hdu = opened.table(path, "PSF_MASK", chip)
    if hdu is None or not len(hdu.data):
        return None
    columns = {name.casefold(): name for name in hdu.columns.names}
    row = hdu.data[0]

    def said(card: str) -> Any:
        if card in hdu.header:
            return hdu.header[card]
        name = columns.get(card.casefold())
        return None if name is None else row[name]

    return PsfexModel.read(row[columns["psf_mask"]], said)


def told_fwhm_arcsec(
    planes: Mapping[str, Plane], survey: Survey, scale_arcsec: float, typical_arcsec: float
) -> tuple[float, str] | None:
    """FWHM that a header or a picture of the PSF tells, and which; None if neither does.

    A header's number that is far from the survey's typical one stands for none.
    """
    said = survey.psf
    for plane in (planes[kind] for kind in ("psf", "image") if kind in planes):
        value = plane.card(said.card) if said.card is not None else None
        try:
            width = float(math.nan if value is None else value)
        except (TypeError, ValueError):
            continue
        width *= scale_arcsec if said.unit == "pix" else 1
        if typical_arcsec / _FAR <= width <= typical_arcsec * _FAR:
            return width, HEADER
    if "psf" in planes:
        plane = planes["psf"]
        width = fwhm_pix(plane[0 : plane.shape[0], 0 : plane.shape[1]])
        if math.isfinite(width):
            # A header without a scale says a degree.
            own = width * (own_scale_arcsec(plane.header) or math.inf)
            told = typical_arcsec / _FAR <= own <= typical_arcsec * _FAR
            return own if told else width * scale_arcsec, PICTURE
    return None


def psf_sources(sources: Mapping[str, str]) -> str:
    """Join the bands' sources: one word where all agree, else ``g:psfex,r:survey``."""
    if len(set(sources.values())) == 1:
        return next(iter(sources.values()))
    return ",".join(f"{band}:{source}" for band, source in sources.items())


def modelled_fwhm_arcsec(
    model: PsfexModel,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    shape_YX: tuple[int, int],
    scale_arcsec: float,
) -> NDArray[np.float64] | None:
    """FWHM of a model at positions; None if it has none somewhere."""
    widths = model.fwhm_pix(x, y, shape_YX) * scale_arcsec
    return widths if np.isfinite(widths).all() and (widths > 0).all() else None
