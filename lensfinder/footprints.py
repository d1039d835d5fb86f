"""Where an image lies on the sky, and the way between its pixels and positions."""

from __future__ import annotations

import math
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed._compression import CfitsioException
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from lensfinder import headers
from lensfinder.errors import UnitError

# What reading a damaged FITS file has been seen to raise.
READ_ERRORS = (
    fits.VerifyError,
    CfitsioException,  # of a compressed tile's bytes; no subclass of any other
    AssertionError,  # of astropy.wcs, where a distortion's tables are missing
    AttributeError,  # of astropy, where a card holds a number instead of text, or the other way
    NameError,  # of astropy.wcs, where a distortion lacks its cards
    ArithmeticError,
    OSError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    RuntimeError,
    zlib.error,
)


@contextmanager
def quietly() -> Iterator[None]:
    """Read a survey's files without astropy's remarks on them."""
    # Survey headers break the standard in harmless ways; what harms is checked explicitly.
    # Damaged sizes overflow on the way to being refused.
    with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
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
            with quietly(), warnings.catch_warnings():
                # Of distortions that lead nowhere.
                warnings.simplefilter("ignore", RuntimeWarning)
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


def own_scale_arcsec(header: fits.Header) -> float | None:
    """Side of a pixel by the celestial WCS of a header, the mean of both axes; None without one."""
    try:
        with quietly():
            wcs = WCS(headers.for_wcs(header), naxis=2)
            scale = float(proj_plane_pixel_scales(wcs).mean()) * 3600 if wcs.has_celestial else 0
    except (MemoryError, *READ_ERRORS):
        return None
    return scale if 0 < scale < math.inf else None


def footprint_of(
    name: str, path: Path, header: fits.Header, hdus: fits.HDUList, shape_YX: tuple[int, int]
) -> Footprint:
    """Read the celestial WCS of an image.

    Raises
    ------
    UnitError
        If there is none, it can't be read, or it is in another frame than ICRS or FK5 of 2000.
    """
    try:
        with quietly():
            # The whole file, since distortion tables are HDUs of their own.
            wcs = WCS(headers.for_wcs(header), hdus, naxis=2)
            if not wcs.has_celestial:
                raise UnitError("no_wcs", f"{path} has no celestial WCS", "CTYPE1 and CTYPE2 cards")
            axis, frame = wcs.wcs.lngtyp.strip(), wcs.wcs.radesys.strip().upper()
            # Without either card a frame is ICRS, and FK5 is that of 2000.
            equinox = wcs.wcs.equinox
            of_2000 = math.isnan(equinox) or abs(equinox - 2000) < 0.01
            fixed = frame in ("ICRS", "ICRF", "J2000")
            if axis != "RA" or not (fixed or (frame in ("", "FK5") and of_2000)):
                when = "" if of_2000 else f", equinox {equinox:g}"
                raise UnitError(
                    "sky_frame",
                    f"{path} is mapped in {axis} ({frame or 'no RADESYS'}{when})",
                    "RA and Dec in ICRS, or FK5 of equinox 2000",
                )
            return Footprint.of(name, wcs, shape_YX)
    except (MemoryError, *READ_ERRORS) as error:  # wcslib's word for cards it can't make sense of
        # Where in wcslib's own code it stopped helps nobody.
        where = r"ERROR \d+ in \w+\(\) at line \d+ of file \S+ "
        reason = re.sub(where, "", " ".join(str(error).split()))
        raise UnitError("no_wcs", f"{path}: its WCS can't be read ({reason})") from error
