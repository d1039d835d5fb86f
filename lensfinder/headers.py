"""The door for FITS headers: what astropy or wcslib would stumble over is refused before it does.

A header may claim 10^18 axes, each of which is then asked for, or data of negative size, after
which the same header is read again and again. Both come from a few wrong bytes. Importing this
module has astropy ask here first, for every header of every file, compressed or not.

wcslib remarks on every card that it can't use, in a buffer which a few remarks overflow, and writes
past its memory for axes by the million. It is shown a header that `for_wcs` made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astropy.io import fits

# What the FITS standard (4.0, section 4.4.1) allows.
_MOST_AXES = 999
_MOST_FIELDS = 999
# Bytes of each type of a table's columns (table 18 there); X counts bits.
_BYTES = dict(zip("LBIJKAEDCMPQ", (1, 1, 2, 4, 8, 1, 4, 8, 8, 16, 8, 16), strict=True))
_FORM = re.compile(r"\s*(\d{0,9})([LXBIJKAEDCMPQ])")
_BITPIX = (8, 16, 32, 64, -32, -64)
# What a celestial WCS is made of, with its distortions.
_NUMBERS = re.compile(
    r"WCSAXES|NAXIS[1-9]?|(CRPIX|CRVAL|CDELT|CROTA)[1-9]|(CD|PC)[1-9]_[1-9]|PV[1-9]_\d\d?"
    r"|LONPOLE|LATPOLE|EQUINOX|EPOCH|[AB]P?_(ORDER|DMAX|\d_\d)|AXISCORR|(CPERR|D2IMERR)[1-9]"
    r"|(DP|D2IM)[1-9]\.(EXTVER|NAXES|AXIS\.[1-9])"
)
_TEXTS = re.compile(r"(CTYPE|CUNIT|CPDIS|D2IMDIS)[1-9]|WAT[1-9]_\d{3}|RADESYS|RADECSYS")
# In files that are sound otherwise; wcslib never heeded that.
_MAY_BE_TEXT = {"EQUINOX", "EPOCH"}
_MOST_WCS_AXES = _HIGHEST_ORDER = 9
_MOST_GZIPPED = 1100  # gzip packs a thousandfold at best


def shortfall(path: Path, hdu: Any) -> tuple[int, int] | None:
    """Bytes up to which a header declares data, and those of the file, where these can't hold them.

    Parameters
    ----------
    path : of the file, gzipped where its name says so
    hdu : one of its HDUs
    """
    where = hdu.fileinfo()
    if where is None:
        return None
    # The padding of the last block may be missing, its data may not. A compressed image's are
    # those of its table.
    size = min(getattr(hdu, "_bintable", hdu).size, where["datSpan"])
    declared, found = where["datLoc"] + size, path.stat().st_size
    most = found * _MOST_GZIPPED if path.suffix == ".gz" else found
    return (declared, found) if declared > most else None


def flaw(header: Mapping[str, Any]) -> str:
    """Say what of a header's size makes no sense, or nothing.

    Parameters
    ----------
    header : fits.Header or mapping
        Of any HDU; for a compressed image that of its table.
    """
    # Of anything else astropy takes the rest of the file for data, and a gzipped one has no end.
    # An image about to be written has neither card.
    for name, kind in (("SIMPLE", True), ("XTENSION", "")):
        value = _card(header, name, kind)
        sound = value is True if kind is True else isinstance(value, str)
        if not sound:
            return (
                f"{name} = {value!r}, expected {'T' if kind is True else 'the kind of extension'}"
            )
    return _flaw_of_kind(header) or _flaw_of_size(header)


def for_wcs(header: fits.Header) -> fits.Header:
    """Return what a celestial WCS is made of, each card once (the last, as wcslib has it).

    Raises
    ------
    ValueError
        If a card's value is of another kind than it must be, or can't be read.
    """
    cards: dict[str, fits.Card] = {}
    for card in header.cards:
        number, text = (kind.fullmatch(card.keyword) for kind in (_NUMBERS, _TEXTS))
        if number or text:
            value = _value(card)
            sound = _is_number(value) if number else isinstance(value, str)
            if sound:
                cards[card.keyword] = card
            elif not (isinstance(value, fits.card.Undefined) or card.keyword in _MAY_BE_TEXT):
                kind = "a number" if number else "text"
                raise ValueError(f"{card.keyword} = {value!r}, expected {kind}")
    axes = cards["WCSAXES"].value if "WCSAXES" in cards else 2
    if not _is_count(axes) or not 0 < axes <= _MOST_WCS_AXES:
        raise ValueError(f"WCSAXES = {axes!r}, expected 1 to {_MOST_WCS_AXES}")
    for name in ("A_ORDER", "B_ORDER", "AP_ORDER", "BP_ORDER"):
        # Each term up to there is asked for.
        order = cards[name].value if name in cards else 0
        if not 0 <= order <= _HIGHEST_ORDER:
            raise ValueError(f"{name} = {order!r}, expected 0 to {_HIGHEST_ORDER}")
    return fits.Header(cards.values())


def _value(card: fits.Card) -> Any:
    try:
        return card.value
    except fits.VerifyError as error:
        raise ValueError(f"{card.keyword} can't be read") from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _flaw_of_size(header: Mapping[str, Any]) -> str:
    return (
        _flaw_of_axes(header, "")
        or _flaw_of_axes(header, "Z")
        or _flaw_of_counts(header)
        or _flaw_of_row(header)
    )


def _flaw_of_kind(header: Mapping[str, Any]) -> str:
    """Look at what astropy looks at to tell the kinds of HDUs apart, as it does."""
    try:
        for card in list(getattr(header, "cards", ()))[:1]:
            _ = card.keyword, card.value
        for name in ("GROUPS", "ZIMAGE"):
            _ = header.get(name)
    except (fits.VerifyError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"what can't be read: {error}"
    return ""


def _flaw_of_axes(header: Mapping[str, Any], prefix: str) -> str:
    bits = _card(header, f"{prefix}BITPIX", 8)
    if bits not in _BITPIX:
        return f"{prefix}BITPIX = {bits!r}, expected one of {_BITPIX}"
    axes = _card(header, f"{prefix}NAXIS", 0)
    if not _is_count(axes) or axes > _MOST_AXES:
        return f"{prefix}NAXIS = {axes!r}, expected 0 to {_MOST_AXES}"
    for axis in range(1, axes + 1):
        length = _card(header, f"{prefix}NAXIS{axis}", 0)
        if not _is_count(length):
            return f"{prefix}NAXIS{axis} = {length!r}, expected a whole number from 0"
        step = _card(header, f"{prefix}TILE{axis}", 1) if prefix else 1
        if not _is_count(step) or step < 1:
            return f"ZTILE{axis} = {step!r}, expected a whole number from 1"
    return ""


def _flaw_of_counts(header: Mapping[str, Any]) -> str:
    for name, most in (("PCOUNT", None), ("GCOUNT", None), ("TFIELDS", _MOST_FIELDS)):
        value = _card(header, name, 1)
        if not _is_count(value) or (most is not None and value > most):
            return f"{name} = {value!r}, expected 0{f' to {most}' if most else ' or more'}"
    return ""


def _flaw_of_row(header: Mapping[str, Any]) -> str:
    """Compare a table's row with its columns: else pointers are read where there are none."""
    if _card(header, "XTENSION", "") != "BINTABLE":
        return ""
    columns = range(1, _card(header, "TFIELDS", 0) + 1)
    forms = [_FORM.match(str(_card(header, f"TFORM{k}", ""))) for k in columns]
    if not forms or not all(forms):
        return ""  # which astropy refuses by itself
    width, declared = sum(_bytes_of(form) for form in forms if form), _card(header, "NAXIS1", 0)
    return "" if width == declared else f"NAXIS1 = {declared!r}, and its columns take {width}"


def _bytes_of(form: re.Match[str]) -> int:
    count = int(form[1] or 1)
    return -(-count // 8) if form[2] == "X" else count * _BYTES[form[2]]


def _card(header: Mapping[str, Any], name: str, default: Any) -> Any:
    try:
        return header.get(name, default)
    except (fits.VerifyError, ValueError, KeyError) as error:
        return str(error)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class _Refused(fits.PrimaryHDU):  # type: ignore[misc]
    """What astropy makes of a header with a flaw: an error that readers expect."""

    def __init__(self, data: Any = None, header: Any = None, **_: Any) -> None:
        raise OSError(f"its header says {flaw(header)}")

    @classmethod
    def match_header(cls, header: Mapping[str, Any]) -> bool:
        return bool(flaw(header))


fits.register_hdu(_Refused)
