"""What the columns of a catalogue may be called, and what its rows may hold; safe text."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import schema
from lensfinder.errors import RequestError

# What an ECMA-48 terminal takes for a command: CSI sequences, OSC strings, two-byte escapes.
_TERMINAL_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b."
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FORMULA_START = ("=", "+", "-", "@")
# r, i2 (the second of its kind), VIS, F814W.
_BAND = r"([a-z]\d?|vis|f\d{3}[a-z]{1,2})"
_MAGNITUDE = re.compile(rf"(?:mag|mag_?auto|mag_?gaap|model_?mag)[_-]?{_BAND}", re.IGNORECASE)
# Extinction by the Milky Way's dust in magnitudes, as KiDS, LSST and SDSS call it.
_EXTINCTION = re.compile(rf"(?:extinction|a)_{_BAND}", re.IGNORECASE)
# Usual names of a column, compared without case, units in brackets and punctuation.
REDDENING_NAMES = ("ebv", "ebvsfd", "sfdebv", "ebvsf11", "galebv", "ebvsfd98")
# Columns that hold a galaxy's redshift, best first.
REDSHIFT_NAMES = ("z_spec", "z_lens", "redshift", "z_phot", "z_host")
USUAL_NAMES = {
    "id": ("id", "name", "objid", "objectid", "sourceid", "objname", "coaddobjectid", "number"),
    "ra": ("ra", "radeg", "raj2000", "alphaj2000", "raicrs", "rightascension", "alpha"),
    "dec": ("dec", "decdeg", "decj2000", "dej2000", "deltaj2000", "deicrs", "declination", "delta"),
}

# How units of positions are written, in degrees. Hours are those of a right ascension, an angle,
# whose unit many call that of time.
_DEGREES = {
    **dict.fromkeys(("", "deg", "degs", "degree", "degrees", "degr", "°"), 1.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "hourangle", "h:m:s", "hms"), 15.0),
    **dict.fromkeys(("rad", "rads", "radian", "radians"), math.degrees(1)),
}


class Listed(dict[str, NDArray[Any]]):
    """Columns as they stand in a file, and their units as written there."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], units: Mapping[str, str]) -> None:
        super().__init__(columns)
        self.units = dict(units)

    def unit(self, column: str) -> str:
        """Name the unit of a column, which some write behind its name; empty where none is told."""
        behind = re.search(r"\[([^\]]*)\]\s*$", column)
        return self.units.get(column) or (behind[1].strip() if behind else "")

    def convert(self) -> None:
        """Put columns whose unit is known by their name, such as ``…_arcsec``, into it."""
        for name, said in self.units.items():
            wanted = schema.unit_of(name)
            if said and wanted and self[name].dtype.kind in "iuf":
                self[name] = self[name] * _factor(said, wanted)


def _factor(said: str, wanted: str) -> float:
    """Return what numbers in one unit are to be multiplied by; 1 where they have no relation."""
    from astropy import units

    given = _unit(said)
    if given is None or not given.is_equivalent(units.Unit(wanted)):
        return 1.0
    return float(given.to(units.Unit(wanted)))


def _unit(said: str) -> Any:
    """Parse the name of a unit; None for what is none, or has no factor, as logarithmic ones."""
    from astropy import units

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = units.Unit(said, parse_strict="silent")
    is_known = isinstance(known, units.UnitBase) and not isinstance(known, units.UnrecognizedUnit)
    return known if is_known else None


def plain(column: Any) -> NDArray[Any]:
    """Return the values of astropy's `column`: text decoded, masked ones empty or NaN."""
    values = np.asarray(column)
    mask = np.asarray(getattr(column, "mask", False))
    if values.dtype.kind == "S" or (mask.any() and values.dtype.kind in "OU"):
        values = np.array([text(value) for value in values.ravel()], dtype=object)
        values = values.reshape(np.shape(column))
        return np.where(mask, "", values)
    if not mask.any():
        return values
    if values.dtype.kind in "iu":
        # Ids may be larger than what a float64 tells apart.
        exact = values.astype(object)
        exact[mask] = None
        return exact
    return np.where(mask, np.nan, values.astype(np.float64))


def key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\[.*?\]", "", name.lower()))


def find(
    path: Path, raw: Mapping[str, Any], names: Sequence[str], columns: Mapping[str, str]
) -> dict[str, str]:
    """Find the columns that hold id, ra or dec, as `columns` says, else by their usual names.

    Raises
    ------
    RequestError
        Naming all that are not there.
    """
    keys = {key(column): column for column in reversed(list(raw))}
    found: dict[str, str] = {}
    missing: list[str] = []
    for name in names:
        if name in columns:
            if columns[name] not in raw:
                raise RequestError(
                    f"{path} has no column '{columns[name]}' (asked for as {name})",
                    f"one of {sorted(raw)}",
                )
            found[name] = columns[name]
            continue
        usual = next((keys[usual] for usual in USUAL_NAMES[name] if usual in keys), None)
        if usual is None:
            missing.append(name)
        else:
            found[name] = usual
    if missing:
        like = "; ".join(f"{name}: {', '.join(USUAL_NAMES[name][:4])}" for name in missing)
        table = ", ".join(f"{name} = '…'" for name in missing)
        raise RequestError(
            f"{path} has no column for {' and '.join(missing)}: it has {sorted(raw)}",
            f"names like {like}",
            f"Name them in the section of the command: columns = {{ {table} }}.",
        )
    return found


def by_band(path: Path, raw: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Find the columns of magnitudes and extinctions: ``mag_<band>`` and ``extinction_<band>``.

    A column of that very name comes first; `columns` says what these are by itself.

    Raises
    ------
    RequestError
        If several others could be meant.
    """
    found: dict[str, list[str]] = {}
    for column in raw:
        for kind, pattern in (("mag", _MAGNITUDE), ("extinction", _EXTINCTION)):
            if match := pattern.fullmatch(column):
                found.setdefault(f"{kind}_{match[1]}", []).append(column)
    for name, meant in found.items():
        band = name.removeprefix("extinction_")
        if name in meant:
            meant[:] = [name]
        elif f"b_{band}" in raw and f"a_{band}" in meant:
            meant.remove(f"a_{band}")  # the axes of an ellipse
        if len(meant) > 1 and name not in columns:
            raise RequestError(
                f"{path} has {len(meant)} columns for {name}: {', '.join(meant)}",
                "one",
                f"Name it in the configuration: columns = {{ {name} = '{meant[0]}' }}.",
            )
    return {name: meant[0] for name, meant in found.items() if meant and name not in columns}


def text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def numbers(path: Path, raw: Mapping[str, NDArray[Any]], column: str) -> NDArray[np.float64]:
    try:
        values = raw[column].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{path}: column '{column}' is not numeric: {error}") from error
    if values.ndim != 1:
        raise RequestError(f"{path}: column '{column}' has {values.shape[1:]} values a row", "one")
    return values


def degrees(path: Path, raw: Listed, column: str) -> NDArray[np.float64]:
    """Return angles in degrees, whatever the file has them in.

    Raises
    ------
    RequestError
        If the column is not numeric, or its unit is not known.
    """
    said = raw.unit(column)
    # Frames and epochs are no units.
    plainly = re.sub(r"j2000|icrs|fk5|decimal|angle\b|[\s._,()\[\]]", "", said.lower())
    factor = _DEGREES.get(plainly)
    if factor is None:
        factor = _factor(said, "deg")
        if factor == 1.0 and _unit(said) is not None:
            raise RequestError(
                f"{path}: column '{column}' is in '{said}'", "an angle in deg, hourangle or rad"
            )
    return numbers(path, raw, column) * factor


def refuse(path: Path, bad: NDArray[np.bool_], what: str, expected: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        more = f" (and {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
        raise RequestError(f"{path}, row {row + 1}: {what}{more}", expected)


def check_positions(path: Path, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> None:
    refuse(path, ~np.isfinite(ra) | (ra < 0) | (ra > 360), "RA is not within 0–360", "degrees")
    refuse(path, ~np.isfinite(dec) | (abs(dec) > 90), "Dec is not within ±90", "degrees")


def check_rows(path: Path, catalog: Mapping[str, NDArray[Any]]) -> None:
    ids = catalog["id"]
    check_positions(path, catalog["ra"], catalog["dec"])
    long = np.array([len(name.encode()) > schema.MAX_ID_BYTES for name in ids], dtype=bool)
    refuse(path, long, "the id is too long", f"at most {schema.MAX_ID_BYTES} bytes")
    unprintable = np.array([not name or not name.isprintable() for name in ids], dtype=bool)
    refuse(path, unprintable, "the id is empty or holds control characters", "printable text")
    _, first, counts = np.unique(ids.astype(str), return_index=True, return_counts=True)
    twice = np.ones(len(ids), dtype=bool)
    twice[first] = False
    if counts.max(initial=1) > 1:
        refuse(path, twice, "the id stands there twice", "unique ids")


def printable(text: str) -> str:
    """Text without terminal escapes, control characters or marks that reverse its direction."""
    return _CONTROL.sub("", _TERMINAL_ESCAPE.sub("", text))


def safe_cell(text: str) -> str:
    """Text that a spreadsheet takes for text: printable, and quoted where it begins a formula.

    What begins with a quote is quoted, too, so that :func:`from_cell` finds the text again.
    """
    clean = printable(text)
    return f"'{clean}" if clean.lstrip().startswith((*_FORMULA_START, "'")) else clean


def from_cell(cell: str) -> str:
    """Text that :func:`safe_cell` made a cell of."""
    return cell.removeprefix("'")
