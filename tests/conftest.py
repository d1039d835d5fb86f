"""What all tests share: where things are, and small tiles made on the spot."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quickstart", metavar="DIR", help="folder of a finished quickstart")
    parser.addoption("--kills", type=int, default=3, help="how often a run is killed")
    parser.addoption("--kill-seed", type=int, default=1, help="decides when")


@pytest.fixture
def root() -> Path:
    """Return the project's folder."""
    return ROOT


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real survey pixels, which only some machines have."""
    if not SHARED.is_dir():
        pytest.skip(f"real survey data are not at {SHARED}")
    return SHARED


@pytest.fixture
def lensfinder() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own."""

    def call(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "lensfinder", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)

    return call


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
    header = wcs.to_header()
    for band, image in images.items():
        stem = f"KiDS_DR4.0_{name}_{band}"
        fits.writeto(folder / f"{stem}_sci.fits", image.astype(np.float32), header)
        if weight is not None:
            fits.writeto(folder / f"{stem}_wei.fits", weight.astype(np.float32), header)
        if mask is not None:
            fits.writeto(folder / f"{stem}_msk.fits", mask.astype(np.int32), header)
