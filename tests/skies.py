"""Small skies for tests: projections, and tiles written under KiDS names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, Sip

SCALE_ARCSEC = 0.2


def tan_wcs(
    ra: float = 180.0,
    dec: float = -0.5,
    shape_YX: tuple[int, int] = (120, 140),
    *,
    scale_arcsec: float = 0.2,
    rotation_deg: float = 0.0,
    flip: bool = False,
) -> WCS:
    """Make a TAN projection centred on the image."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape_YX[1] + 1) / 2, (shape_YX[0] + 1) / 2]
    angle = np.radians(rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = turn @ np.diag([1 if flip else -1, 1]) * scale_arcsec / 3600
    wcs.wcs.set()
    return wcs


def write_kids_tile(
    folder: Path,
    name: str,
    images: dict[str, np.ndarray],
    wcs: WCS,
    *,
    weight: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> None:
    """Write the files of one tile under KiDS names, fluxes as given (zero point 0)."""
    folder.mkdir(parents=True, exist_ok=True)
    header = wcs.to_header(relax=True)
    for band, image in images.items():
        stem = f"KiDS_DR4.0_{name}_{band}"
        fits.writeto(folder / f"{stem}_sci.fits", image.astype(np.float32), header)
        if weight is not None:
            fits.writeto(folder / f"{stem}_wei.fits", weight.astype(np.float32), header)
        if mask is not None:
            fits.writeto(folder / f"{stem}_msk.fits", mask.astype(np.int32), header)


def sip_wcs(shape_YX: tuple[int, int]) -> WCS:
    """Make a TAN projection with SIP distortion of a few pixels at the corners."""
    wcs = tan_wcs(150.0, 2.2, shape_YX, rotation_deg=20)
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], a[1, 1], b[0, 2], b[1, 1] = 3e-4, -2e-4, 2e-4, 1e-4
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def tpv_wcs(shape_YX: tuple[int, int]) -> WCS:
    """Make a TPV projection, as SCAMP writes them."""
    wcs = tan_wcs(40.0, -35.0, shape_YX)
    wcs.wcs.ctype = ["RA---TPV", "DEC--TPV"]
    # PVi_1 scales, PVi_4 and PVi_5 distort (degrees per square degree).
    wcs.wcs.set_pv([(1, 1, 1.0), (1, 4, 0.5), (1, 5, -0.4), (2, 1, 1.0), (2, 4, 0.3), (2, 6, 0.2)])
    wcs.wcs.set()
    return wcs


def dec_first_wcs(shape_YX: tuple[int, int]) -> WCS:
    """Make a projection whose first axis is the declination."""
    wcs = tan_wcs(10.0, 30.0, shape_YX)
    wcs.wcs.ctype, wcs.wcs.crval = ["DEC--TAN", "RA---TAN"], [30.0, 10.0]
    wcs.wcs.set()
    return wcs


PROJECTIONS: Mapping[str, Callable[[tuple[int, int]], WCS]] = {
    "TAN": lambda shape: tan_wcs(180.0, -0.5, shape),
    "rotated": lambda shape: tan_wcs(33.0, 41.0, shape, rotation_deg=137),
    "flipped": lambda shape: tan_wcs(33.0, -41.0, shape, flip=True),
    "RA 0": lambda shape: tan_wcs(0.0, 10.0, shape),
    "RA 360": lambda shape: tan_wcs(359.9998, -10.0, shape, rotation_deg=-70),
    "north pole": lambda shape: tan_wcs(77.0, 89.9997, shape),
    "south pole": lambda shape: tan_wcs(200.0, -89.9995, shape, rotation_deg=10),
    "SIP": sip_wcs,
    "TPV": tpv_wcs,
    "Dec first": dec_first_wcs,
}


def sky_YX(shape_YX: tuple[int, int], xy: Sequence[tuple[float, float]], seed: int) -> np.ndarray:
    """Draw noise of unit rms with a round galaxy, 200 high, at each position."""
    image = np.random.default_rng(seed).normal(size=shape_YX)
    y, x = np.mgrid[: shape_YX[0], : shape_YX[1]]
    for x0, y0 in xy:
        image += 200 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 3.0**2))
    # KiDS-like units, in which the sky's rms is about a picomaggy.
    return image * 2e-12


def write_targets(path: Path, ra: Sequence[float], dec: Sequence[float]) -> list[str]:
    """Write a catalogue with ids t000, t001, …; return the ids."""
    ids = [f"t{number:03d}" for number in range(len(ra))]
    rows = [
        f"{name},{a!r},{d!r}"
        for name, a, d in zip(ids, map(float, ra), map(float, dec), strict=True)
    ]
    path.write_text("\n".join(["id,ra,dec", *rows]) + "\n")
    return ids
