"""Laws of the door for FITS headers: what can't be followed is refused, all else passes."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from lensfinder import headers


def written(path: Path, *, compressed: bool) -> bytes:
    image = np.arange(600, dtype=np.float32).reshape(20, 30)
    hdu = fits.CompImageHDU(image) if compressed else fits.ImageHDU(image)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path.read_bytes()


@pytest.mark.parametrize("compressed", [False, True])
def test_sound_headers_pass(tmp_path: Path, compressed: bool) -> None:
    written(tmp_path / "a.fits", compressed=compressed)
    with fits.open(tmp_path / "a.fits") as hdus:
        assert [headers.flaw(hdu.header) for hdu in hdus] == ["", ""]
        assert hdus[1].data.sum() == 599 * 300


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("NAXIS   ", "9223372036854775807"),
        ("NAXIS1  ", "-30"),
        ("NAXIS2  ", "'20'"),
        ("PCOUNT  ", "-99999"),
        ("BITPIX  ", "-31"),
        ("XTENSION", "T"),
    ],
)
def test_what_would_be_read_without_end_is_refused(
    tmp_path: Path, suffix: str, card: str, value: str
) -> None:
    raw = bytearray(written(tmp_path / "a.fits", compressed=False))
    place = raw.index(card.encode(), 2880)
    raw[place : place + 80] = f"{card}= {value:>20}".ljust(80).encode()
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix.endswith(".gz") else raw)
    # Its second HDU, which is looked for when the first has been read.
    with fits.open(path) as hdus, pytest.raises(OSError, match=f"its header says {card.strip()}"):
        _ = hdus[1]


@pytest.mark.parametrize(
    ("card", "value"),
    [("ZNAXIS  ", "2000"), ("ZTILE1  ", "0"), ("TFIELDS ", "100000"), ("NAXIS1  ", "40")],
)
def test_a_compressed_images_own_cards_count(tmp_path: Path, card: str, value: str) -> None:
    raw = bytearray(written(tmp_path / "a.fits", compressed=True))
    place = raw.index(card.encode(), 2880)
    raw[place : place + 80] = f"{card}= {value:>20}".ljust(80).encode()
    (tmp_path / "bad.fits").write_bytes(raw)
    with (
        fits.open(tmp_path / "bad.fits") as hdus,
        pytest.raises(OSError, match=f"its header says {card.strip()}"),
    ):
        _ = hdus[1]


def wcs_cards(*more: str) -> fits.Header:
    """Make a sound celestial header with these lines at its end."""
    cards = ["CTYPE1  = 'RA---TAN'", "CTYPE2  = 'DEC--TAN'", "CRVAL1  = 180.0", "CRVAL2  = -0.5"]
    cards += ["CDELT1  = -5E-5", "CDELT2  = 5E-5", "CRPIX1  = 20.5", "CRPIX2  = 18.5"]
    return fits.Header.fromstring("".join(card.ljust(80) for card in [*cards, *more]))


def test_wcslib_sees_what_a_celestial_wcs_is_made_of_and_each_card_once() -> None:
    """A dozen cards that it can't use overflow the buffer of its remarks."""
    useless = [f"CRPIX{axis}A = 'text'" for axis in range(1, 10)]
    useless += ["MJD-OBS = 'text'", "EQUINOX = 'J2000'", "VELREF  = 'text'", "LONPOLE ="] * 40
    shown = headers.for_wcs(wcs_cards(*useless, "CRVAL1  = 33.0", "PV1_4   = 1.5"))
    assert len(shown) == 9
    assert shown["CRVAL1"] == 33.0
    assert shown["PV1_4"] == 1.5
    WCS(shown, naxis=2)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("CDELT1  = '1PE(9)'", "CDELT1"),
        ("PV1_1   = '-'", "PV1_1"),
        ("CTYPE2  = 5", "CTYPE2"),
        ("CRPIX1  = T", "CRPIX1"),
        ("CRVAL2  = 1.5.2", "CRVAL2"),
        ("WCSAXES = 65536", "WCSAXES"),
        ("WCSAXES = -2.0", "WCSAXES"),
        ("B_ORDER = 2000", "B_ORDER"),
    ],
)
def test_a_wcs_card_of_another_kind_is_named(line: str, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        headers.for_wcs(wcs_cards(*[line] * 40))
