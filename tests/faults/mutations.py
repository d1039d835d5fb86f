"""Files as nobody should write them: headers and catalogues with a few things changed at random."""

from __future__ import annotations

import gzip
import math
import random
import warnings
from collections.abc import Callable
from io import BytesIO

import numpy as np
from astropy.io import fits
from astropy.table import Table
from skies import PROJECTIONS, sky_YX

CARD, BLOCK = 80, 2880
SHAPE_YX = (36, 40)

# What stands for a value: of the wrong type, out of all bounds, half a string, no text at all.
VALUES = (
    *("0", "-1", "1", "2", "3", "7", "16", "-32", "-64", "64", "99", "1000", "65536"),
    *("2147483647", "2147483648", "-2147483649", "9223372036854775807", "1" * 40, "-" + "9" * 60),
    *("NaN", "nan", "Inf", "-Infinity", "1e308", "1E400", "-1e-320", "1D5", "1.5.2", ".", "-", "+"),
    *("T", "F", "''", "'", "'RA---TAN'", "'DEC--TAN'", "'GLON-CAR'", "'TNX'", "'RA---TPV'"),
    *("'RA---ZPX'", "'RA---TAN-SIP'", "'LINEAR'", "'FK4'", "'GALACTIC'", "'deg'", "'furlong'"),
    *(
        "'1E'",
        "'1PE(9)'",
        "'PE(2147483647)'",
        "'9999999B'",
        "'RICE_1'",
        "'GZIP_2'",
        "'HCOMPRESS_1'",
    ),
    *(
        "'LZW'",
        "'\x1b[31mred'",
        "'../../etc/passwd'",
        "'http://example.org/a'",
        "'{band}'",
        "(1,2)",
    ),
    *("", "   ", "/ a comment alone", "'unclosed", "'" + "x" * 70, "= = =", "\x00", "é", "%s%n"),
)
# Cards on which reading hangs, whether or not they are there.
KEYWORDS = (
    *("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT"),
    *("TFIELDS", "TFORM1", "TTYPE1", "THEAP", "EXTEND", "GROUPS", "EXTNAME", "EXTVER", "INHERIT"),
    *("BSCALE", "BZERO", "BLANK", "BUNIT", "FILTER", "BAND", "DATASUM", "CHECKSUM", "SATURATE"),
    *("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CUNIT1", "CUNIT2", "WCSAXES"),
    *("CD1_1", "CD1_2", "CD2_1", "CD2_2", "CDELT1", "CDELT2", "PC1_1", "PC1_2", "PC2_1", "PC2_2"),
    *(
        "CROTA2",
        "LONPOLE",
        "LATPOLE",
        "RADESYS",
        "EQUINOX",
        "EPOCH",
        "MJD-OBS",
        "DATE-OBS",
        "TIMESYS",
    ),
    *("A_ORDER", "B_ORDER", "AP_ORDER", "A_2_0", "B_9_9", "A_DMAX", "PV1_0", "PV1_1", "PV2_40"),
    *("PV3_1", "CPDIS1", "CPDIS2", "DP1", "D2IMDIS1", "D2IM1", "CPERR1", "WAT1_001", "WAT2_001"),
    *("CTYPE3", "CRPIX3", "CNAME1", "PS1_0", "VELREF", "RESTFRQ", "WCSNAME", "OBSGEO-X"),
    *("ZIMAGE", "ZCMPTYPE", "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZNAXIS2", "ZTILE1", "ZTILE2"),
    *("ZNAME1", "ZVAL1", "ZVAL2", "ZSCALE", "ZZERO", "ZBLANK", "ZQUANTIZ", "ZDITHER0", "ZMASKCMP"),
    *(
        "END",
        "CONTINUE",
        "HIERARCH",
        "COMMENT",
        "HISTORY",
        "",
        "A B",
        "lower",
        "\x01\x02",
        "UNKNOWN8",
    ),
)


def tile(rng: random.Random) -> tuple[bytes, str]:
    """Write a sound tile of one of several projections; return it with its suffix."""
    wcs = PROJECTIONS[rng.choice(("TAN", "TAN", "rotated", "SIP", "TPV", "RA 0", "north pole"))](
        SHAPE_YX
    )
    image = sky_YX(SHAPE_YX, [(15.0, 15.0), (28.0, 20.0)], rng.randrange(9)).astype(np.float32)
    header = wcs.to_header(relax=True)
    kind = rng.choice((".fits", ".fits", ".fits", ".fits.gz", ".fits.fz", ".fits.fz"))
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == ".fits.fz":
            how = rng.choice(("RICE_1", "GZIP_1", "GZIP_2"))
            hdu = fits.CompImageHDU(image, header, compression_type=how, quantize_level=16)
            fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
        elif rng.random() < 0.2:
            integers = (image * 1e13).astype(np.int16)
            header["BSCALE"], header["BZERO"], header["BLANK"] = 1e-13, 0.0, -32768
            fits.PrimaryHDU(integers, header).writeto(stream)
        else:
            fits.PrimaryHDU(image, header).writeto(stream)
    return stream.getvalue(), kind


def mutate_tile(raw: bytes, suffix: str, rng: random.Random) -> bytes:
    """Change what a tile's headers say."""
    mutated = mutate_headers(raw, rng)
    if suffix != ".fits.gz":
        return mutated
    packed = gzip.compress(mutated, 1, mtime=0)
    return flip(packed, rng) if rng.random() < 0.2 else packed


def mutate_headers(raw: bytes, rng: random.Random) -> bytes:
    """Change one to four things in a header of a FITS file."""
    starts = [n for n in range(0, len(raw), BLOCK) if raw[n : n + 8] in (b"SIMPLE  ", b"XTENSION")]
    start = rng.choice(starts or [0])
    cards = []
    for place in range(start, len(raw) - CARD + 1, CARD):
        cards.append(raw[place : place + CARD])
        if cards[-1].startswith(b"END     "):
            break
    end = start + -(-len(cards) * CARD // BLOCK) * BLOCK
    for _ in range(rng.randint(1, 4)):
        rng.choice(HEADER_CHANGES)(cards, rng)
    header = b"".join(cards)
    if rng.random() < 0.95:  # else what follows is out of step
        header += b" " * (-len(header) % BLOCK)
    whole = raw[:start] + header + raw[end:]
    return whole[: rng.randrange(1, len(whole))] if rng.random() < 0.05 else whole


def _card(keyword: str, value: str) -> bytes:
    return f"{keyword:8.8}= {value:>20}".encode("latin-1", "replace")[:CARD].ljust(CARD)


def _set(cards: list[bytes], rng: random.Random) -> None:
    keyword = rng.choice(KEYWORDS)
    made = _card(keyword, rng.choice(VALUES))
    there = [n for n, card in enumerate(cards) if card[:8].strip() == keyword.strip().encode()]
    if there and keyword:
        cards[rng.choice(there)] = made
    else:
        cards.insert(rng.randint(0, len(cards)), made)


def _change(cards: list[bytes], rng: random.Random) -> None:
    if cards:
        place = rng.randrange(len(cards))
        cards[place] = _card(cards[place][:8].decode("latin-1"), rng.choice(VALUES))


def _scale(cards: list[bytes], rng: random.Random) -> None:
    """Make a number a little or a lot other than it is."""
    numbers = [n for n, card in enumerate(cards) if card[8:9] == b"=" and _number(card) is not None]
    if numbers:
        place = rng.choice(numbers)
        value = (_number(cards[place]) or 0.0) * rng.choice((-1, 0, 0.5, 2, 10, 1e3, 1e9, 1e-9))
        whole = math.isfinite(value) and rng.random() < 0.5
        text = str(int(value)) if whole else repr(value)
        cards[place] = _card(cards[place][:8].decode("latin-1"), text)


def _number(card: bytes) -> float | None:
    try:
        return float(card[10:].split(b"/")[0])
    except ValueError:
        return None


def _delete(cards: list[bytes], rng: random.Random) -> None:
    if cards:
        del cards[rng.randrange(len(cards))]


def _repeat(cards: list[bytes], rng: random.Random) -> None:
    if cards:
        place = rng.randrange(len(cards))
        cards[place:place] = [cards[place]] * rng.choice((1, 2, 40, 400))


def _swap(cards: list[bytes], rng: random.Random) -> None:
    if cards:
        one, other = rng.randrange(len(cards)), rng.randrange(len(cards))
        cards[one], cards[other] = cards[other], cards[one]


def _flip(cards: list[bytes], rng: random.Random) -> None:
    if cards:
        place = rng.randrange(len(cards))
        cards[place] = flip(cards[place], rng)


HEADER_CHANGES: tuple[Callable[[list[bytes], random.Random], None], ...] = (
    *(_set, _set, _set, _change, _change, _scale, _scale),
    *(_delete, _repeat, _swap, _flip),
)


def flip(raw: bytes, rng: random.Random) -> bytes:
    """Put other bytes in a few places."""
    content = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


# -- catalogues ---------------------------------------------------------------------------------

CELLS = (
    *("", "NaN", "nan", "inf", "-inf", "1e400", "-91", "91", "360.0001", "-1e-9", "1,5", "0x10"),
    *("NULL", "None", "N/A", "12:00:03.2", "9223372036854775807", "9223372036854775808", "9" * 400),
    *("a/b", "..", "../../etc/passwd", "a\x00b", "a\nb", "a\rb", '"', '""', "'", ">", "=1+1", "@x"),
    *(
        "\x1b[31m",
        "\u202e",
        "\ud7ff",
        "é" * 33,
        "i" * 300,
        "007",
        "t000",
        "<b>",
        "%s",
        "{}",
        "\ufeff",
    ),
)
NAMES = ("id", "ra", "dec", "RAJ2000", "mag_r", "extinction_r", "ebv", "", "ID", "x" * 300, "a,b")
SUFFIXES = (".csv", ".csv", ".ecsv", ".fits", ".vot", ".parquet")


def catalogue(ra: np.ndarray, dec: np.ndarray, suffix: str) -> bytes:
    """Write a sound catalogue of the given kind."""
    table = Table(
        {
            "id": [f"t{number:03d}" for number in range(len(ra))],
            "ra": np.asarray(ra, float),
            "dec": np.asarray(dec, float),
            "mag_r": np.full(len(ra), 20.0, np.float32),
        }
    )
    stream = BytesIO()
    if suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        columns = {name: np.asarray(table[name]) for name in table.colnames}
        parquet.write_table(pa.table(columns), stream)
        return stream.getvalue()
    formats = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".fits": "fits", ".vot": "votable"}
    if suffix in (".csv", ".ecsv"):
        from io import StringIO

        text = StringIO()
        table.write(text, format=formats[suffix])
        return text.getvalue().encode()
    table.write(stream, format=formats[suffix])
    return stream.getvalue()


def mutate_catalogue(raw: bytes, suffix: str, rng: random.Random) -> bytes:
    """Change one to four things in a catalogue."""
    if suffix == ".fits" and rng.random() < 0.7:
        return mutate_headers(raw, rng)
    for _ in range(rng.randint(1, 4)):
        if suffix in (".csv", ".ecsv", ".vot") and rng.random() < 0.75:
            raw = rng.choice(TEXT_CHANGES)(raw, rng)
        else:
            raw = rng.choice((flip, flip, _cut, _insert))(raw, rng)
    return raw


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randint(0, len(raw))]


def _insert(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randint(0, len(raw))
    what = rng.choice(
        (b"\x00", b"\xff\xfe", b"\r", b"\n\n\n", b'"', rng.randbytes(40), b" " * 70000)
    )
    return raw[:place] + what + raw[place:]


def _cell(raw: bytes, rng: random.Random) -> bytes:
    lines = raw.split(b"\n")
    line = rng.randrange(len(lines))
    separator = rng.choice((b",", b" ", b">"))
    cells = lines[line].split(separator)
    cells[rng.randrange(len(cells))] = rng.choice(CELLS).encode("utf-8", "surrogatepass")
    lines[line] = separator.join(cells)
    return b"\n".join(lines)


def _heading(raw: bytes, rng: random.Random) -> bytes:
    old = rng.choice(("id", "ra", "dec", "mag_r")).encode()
    return raw.replace(old, rng.choice(NAMES).encode(), rng.choice((1, -1)))


def _line(raw: bytes, rng: random.Random) -> bytes:
    lines = raw.split(b"\n")
    place = rng.randrange(len(lines))
    what = rng.choice(("again", "gone", "longer", "moved"))
    if what == "again":
        lines[place:place] = [lines[place]] * rng.choice((1, 3, 500))
    elif what == "gone":
        del lines[place]
    elif what == "longer":
        lines[place] += b",1" * rng.choice((1, 5, 5000))
    else:
        lines.append(lines.pop(place))
    return b"\n".join(lines)


def _encode(raw: bytes, rng: random.Random) -> bytes:
    text = raw.decode("utf-8", "replace")
    how = rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32", "cp037"))
    return text.encode(how, "replace")


def _entities(raw: bytes, rng: random.Random) -> bytes:
    evil = rng.choice(
        (
            b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>&b;',
            b'<!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>&c;',
            b"<FIELD>" * 300,
            b'<STREAM href="http://127.0.0.1:1/x"/>',
        )
    )
    place = raw.find(b"\n", rng.randint(0, len(raw))) + 1
    return raw[:place] + evil + raw[place:]


TEXT_CHANGES = (_cell, _cell, _cell, _heading, _line, _encode, _entities)
