"""Laws of the door for FITS headers: what can't be followed is refused, all else passes."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

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
    ("card", "value"), [("ZNAXIS  ", "2000"), ("ZTILE1  ", "0"), ("TFIELDS ", "100000")]
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
