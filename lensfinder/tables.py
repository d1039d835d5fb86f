"""Catalogues in, tables out.

Columns are plain ``{name: array}`` mappings, as in a shard's catalogue. The only user of
pyarrow, and of astropy's table readers.
"""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensfinder import catalogs, schema
from lensfinder.commit import commit
from lensfinder.errors import RequestError

Columns = dict[str, NDArray[Any]]

# By these TOPCAT and Aladin know positions without being asked (IVOA UCD1+).
_UCDS = {"id": "meta.id;meta.main", "ra": "pos.eq.ra;meta.main", "dec": "pos.eq.dec;meta.main"}
# What lies beyond, either way, stands for a magnitude that nobody measured.
_FAINTEST_MAGNITUDE = 50.0
# Maps of dust may fall a little below zero, by their noise; -1 stands for nothing known.
_LEAST_EXTINCTION = -0.5


def read_catalog(path: Path, columns: Mapping[str, str] | None = None) -> Columns:
    """Read a catalogue of positions.

    Parameters
    ----------
    path : Path
        CSV, TSV, ECSV, FITS, VOTable or Parquet, told by its suffix.
    columns : mapping, optional
        ``{"ra": "RAdeg"}``: columns under unusual names, and any further numbers to be read.

    Returns
    -------
    dict
        ``id`` (text), ``ra``, ``dec`` (deg), every ``mag_<band>`` and ``extinction_<band>`` found,
        ``ebv`` (mag) where E(B-V) is listed, redshifts (`catalogs.REDSHIFT_NAMES`), and what
        `columns` names beside. Magnitudes and extinctions that stand for none, such as -99 or 99,
        are NaN.

    Raises
    ------
    RequestError
        If the file can't be read, has no positions, or a row can't be used; with the row number,
        counted from 1.
    """
    raw = read_table(path, (columns or {}).get("id"))
    named = catalogs.find(path, raw, ("id", "ra", "dec"), columns or {})
    catalog: Columns = {
        "id": np.array([catalogs.text(value) for value in raw[named["id"]]], dtype=object)
    }
    for name in ("ra", "dec"):
        catalog[name] = catalogs.degrees(path, raw, named[name])
    for name, column in catalogs.by_band(path, raw, columns or {}).items():
        catalog[name] = catalogs.numbers(path, raw, column).astype(np.float32)
    for column in raw:
        if column.lower() in catalogs.REDSHIFT_NAMES:
            catalog[column.lower()] = catalogs.numbers(path, raw, column).astype(np.float32)
        if catalogs.key(column) in catalogs.REDDENING_NAMES:
            catalog["ebv"] = catalogs.numbers(path, raw, column)
    for name, column in (columns or {}).items():
        if name in ("id", "ra", "dec"):
            continue
        if column not in raw:
            raise RequestError(f"{path} has no column '{column}'", f"one of {sorted(raw)}")
        catalog[name] = catalogs.numbers(path, raw, column).astype(np.float32)
    for name, values in catalog.items():
        if name.startswith("mag_"):
            values[np.abs(values) > _FAINTEST_MAGNITUDE] = np.nan
        elif name.startswith("extinction_") or name == "ebv":
            values[(values < _LEAST_EXTINCTION) | (values > _FAINTEST_MAGNITUDE)] = np.nan
    catalogs.check_rows(path, catalog)
    return catalog


def read_positions(path: Path, extras: Mapping[str, Sequence[str]]) -> Columns:
    """Read a published list of positions, whose names may be long and stand there twice.

    Parameters
    ----------
    path : Path
        As for `read_catalog`.
    extras : mapping of name to sequence of str
        Text columns wanted beside, each under any of these names.

    Returns
    -------
    dict
        ``id`` (text, empty where the file names none), ``ra``, ``dec`` (deg), and those of
        `extras` that are there.

    Raises
    ------
    RequestError
        If the file can't be read, has no positions, or a position is none.
    """
    raw = read_table(path, None)
    named = catalogs.find(path, raw, ("ra", "dec"), {})
    found = {name: catalogs.degrees(path, raw, column) for name, column in named.items()}
    catalogs.check_positions(path, found["ra"], found["dec"])
    keys = {catalogs.key(column): column for column in reversed(list(raw))}
    for name, usual in {"id": catalogs.USUAL_NAMES["id"], **extras}.items():
        column = next((keys[key] for key in usual if key in keys), None)
        if column is not None:
            found[name] = np.array([catalogs.text(value) for value in raw[column]], dtype=object)
    found.setdefault("id", np.full(len(found["ra"]), "", dtype=object))
    return found


def read_labels(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Read which objects are lenses, as the Bologna challenge lists them.

    Returns
    -------
    labels : dict
        Id to 1 or 0.
    splits : dict
        Id to train, val or test, where a column ``split`` says so.

    Raises
    ------
    RequestError
        If the file can't be read, has no column ``is_lens`` or ``label`` of ones and zeros, says
        both of one id, or names another split.
    """
    raw = read_table(path, None)
    keys = {catalogs.key(column): column for column in raw}
    column = keys.get("islens") or keys.get("label")
    if column is None:
        raise RequestError(f"{path} says of no object what it is", "a column is_lens or label")
    try:
        values = catalogs.numbers(path, raw, column)
    except RequestError as error:
        raise RequestError(error.what, "1 for a lens, else 0") from error
    catalogs.refuse(path, ~np.isin(values, (0, 1)), f"{column} is neither 0 nor 1", "1 for a lens")
    ids = [catalogs.text(value) for value in raw[catalogs.find(path, raw, ("id",), {})["id"]]]
    labels: dict[str, int] = {}
    other = [labels.setdefault(name, int(v)) != v for name, v in zip(ids, values, strict=True)]
    catalogs.refuse(path, np.array(other, bool), f"{column} is 0 and 1 of one id", "one label each")
    if "split" not in keys:
        return labels, {}
    told = np.array([catalogs.text(value).strip() for value in raw[keys["split"]]], dtype=object)
    unknown = ~np.isin(told.astype(str), ("", *schema.SPLITS))
    catalogs.refuse(path, unknown, f"{keys['split']} is none", f"one of {', '.join(schema.SPLITS)}")
    return labels, {name: split for name, split in zip(ids, told, strict=True) if split}


def read_table(path: Path, id_column: str | None = None) -> catalogs.Listed:
    """Read all columns of a CSV, TSV, ECSV, FITS, VOTable or Parquet file; refuse what is none."""
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no such catalogue: {path}"
        raise RequestError(what, "a CSV, TSV, ECSV, FITS, VOTable or Parquet file")
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            return catalogs.Listed(
                _read_csv(path, id_column, "\t" if suffix == ".tsv" else ","), {}
            )
        if suffix == ".parquet":
            return catalogs.Listed(_read_parquet(path, id_column), {})
        formats = {".ecsv": "ascii.ecsv", ".vot": "votable", ".xml": "votable"}
        fits = {".fits": "fits", ".fit": "fits", ".gz": "fits"}
        if suffix not in formats | fits:
            raise RequestError(
                f"{path}: unknown kind of catalogue", ".csv, .tsv, .ecsv, .fits, .vot or .parquet"
            )
        if formats.get(suffix) == "votable":
            _refuse_remote_stream(path)
        return _read_astropy(path, (formats | fits)[suffix])
    except (OSError, ValueError, TypeError, LookupError, SyntaxError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(f"{path} can't be read as a catalogue: {reason}") from error


def _read_astropy(path: Path, kind: str) -> catalogs.Listed:
    from astropy.table import Table

    from lensfinder.footprints import READ_ERRORS

    try:
        with warnings.catch_warnings():
            # Catalogues break their standards in harmless ways; rows are checked afterwards.
            warnings.simplefilter("ignore")
            if kind == "fits":
                _refuse_unfit(path)
            loaded = Table.read(path, format=kind)
            return catalogs.Listed(
                {name: catalogs.plain(loaded[name]) for name in loaded.colnames},
                {name: str(loaded[name].unit or "") for name in loaded.colnames},
            )
    except READ_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _refuse_unfit(path: Path) -> None:
    """Refuse a FITS file of several tables: which one lists the objects is not for us to guess.

    Raises OSError before room is made for rows that a header declares and no file holds.
    """
    from astropy.io import fits

    from lensfinder import headers

    with fits.open(path) as hdus:
        for hdu in hdus:
            if short := headers.shortfall(path, hdu):
                declared, found = short
                raise OSError(f"a header declares {declared} bytes, and the file holds {found}")
        names = [
            f"{number} ({hdu.name})" if hdu.name else str(number)
            for number, hdu in enumerate(hdus)
            if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU))
        ]
    if len(names) > 1:
        raise RequestError(
            f"{path} holds {len(names)} tables, HDUs {', '.join(names[:5])}",
            "one",
            "Write the one that lists the objects to a file of its own.",
        )


def _refuse_remote_stream(path: Path) -> None:
    """Refuse a VOTable that asks its reader to fetch data from an address or another file."""
    # Expat resolves no external entities and stops entity bombs by itself.
    from xml.etree import ElementTree

    for _, element in ElementTree.iterparse(path, events=("start",)):  # noqa: S314
        if element.tag.rpartition("}")[2] == "STREAM" and "href" in element.attrib:
            raise RequestError(f"{path} refers to data elsewhere", "data inside the file itself")


def _read_csv(path: Path, id_column: str | None, delimiter: str) -> dict[str, NDArray[Any]]:
    from pyarrow import csv

    how = csv.ParseOptions(delimiter=delimiter)
    with csv.open_csv(path, parse_options=how) as opened:
        header = opened.schema.names
    # What may be an id stays as it was written: 007 is not 7, and NA is a name.
    text = dict.fromkeys(_maybe_ids(header, id_column), "string")
    table = csv.read_csv(
        path, parse_options=how, convert_options=csv.ConvertOptions(column_types=text)
    )
    # Blanks after the commas are no part of the names between them.
    return {name.strip(): table[name].to_numpy() for name in table.column_names}


def _read_parquet(path: Path, id_column: str | None) -> dict[str, NDArray[Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    columns = read_columns(path)
    # Where one is missing, the numbers of the others would pass through float64.
    for name in _maybe_ids(columns, id_column):
        (exact,) = parquet.read_table(path, columns=[name], partitioning=None).columns
        if pa.types.is_integer(exact.type):
            columns[name] = exact.cast(pa.string()).to_numpy()
    return columns


def _maybe_ids(columns: Iterable[str], id_column: str | None) -> list[str]:
    return [
        name
        for name in columns
        if name == id_column or catalogs.key(name) in catalogs.USUAL_NAMES["id"]
    ]


def write_columns(
    path: Path,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a Parquet file by the commit protocol, units and meanings with each column.

    Parameters
    ----------
    path : Path
        Final name, ending in ``.parquet``.
    columns : mapping of name to values of one length
        Types follow `schema`; NaN in ``logit`` and ``score`` becomes null.
    metadata : mapping, optional
        Anything JSON can hold; stands under the key ``lensfinder``.
    """
    import pyarrow as pa
    from pyarrow import parquet

    arrays, fields = [], []
    for name, values in columns.items():
        known = schema.column(name)
        array = np.asarray(values, dtype=object if known and known.dtype == "str" else None)
        if known is not None and known.dtype != "str" and array.dtype.kind in "OU":
            known = None  # words in place of numbers, such as the flags of candidates
        if (known is not None and known.dtype == "str") or array.dtype.kind in "OU":
            column = pa.array([str(value) for value in array], pa.string())
        else:
            typed = array.astype(known.dtype) if known is not None else array
            column = pa.array(typed, from_pandas=name in ("logit", "score"))
        meaning = known.meaning if known else ""
        arrays.append(column)
        fields.append(
            pa.field(name, column.type, metadata={"unit": schema.unit_of(name), "meaning": meaning})
        )
    table = pa.Table.from_arrays(
        arrays, schema=pa.schema(fields, metadata={"lensfinder": json.dumps(metadata or {})})
    )
    rows = table.num_rows

    def check(temporary: Path) -> None:
        found = parquet.read_metadata(temporary).num_rows
        if found != rows:
            raise OSError(errno.EIO, f"{found} rows instead of {rows}")

    with commit(path, check=check) as temporary:
        parquet.write_table(table, temporary)


def read_columns(path: Path, names: Sequence[str] | None = None) -> Columns:
    """Read columns of a Parquet file; null becomes NaN.

    Raises
    ------
    RequestError
        If the file is none or damaged.
    """
    from pyarrow import parquet

    with _as_parquet(path):
        # Without a partitioning, a folder named seed=2 would become a column.
        table = parquet.read_table(
            path, columns=list(names) if names is not None else None, partitioning=None
        )
        # Text is decoded here, and may turn out to be none.
        return {name: table[name].to_numpy() for name in table.column_names}


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Return what `write_columns` was told, or None if the file can't be read."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        stored = parquet.read_schema(path).metadata or {}
        content: dict[str, Any] = json.loads(stored.get(b"lensfinder", b"{}"))
    except (OSError, pa.ArrowException, json.JSONDecodeError):
        return None
    return content


def names_of(path: Path) -> list[str]:
    """List the columns of a Parquet file; raises as `read_columns`."""
    from pyarrow import parquet

    with _as_parquet(path):
        return list(parquet.read_schema(path).names)


def rows_of(path: Path) -> int:
    """Count the rows of a Parquet file; raises as `read_columns`."""
    from pyarrow import parquet

    with _as_parquet(path):
        return int(parquet.read_metadata(path).num_rows)


@contextmanager
def _as_parquet(path: Path) -> Iterator[None]:
    """Put into words that a file is none, or damaged."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise RequestError(f"no such file: {path}", "a Parquet table") from None
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"{path} can't be read as Parquet", "a whole table") from error


def concatenate(parts: Sequence[Mapping[str, NDArray[Any]]]) -> Columns:
    """Stack column sets; a column that one of them lacks is filled with its empty value."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    lengths = [len(next(iter(part.values()), ())) for part in parts]

    def of(part: Mapping[str, NDArray[Any]], name: str, rows: int) -> NDArray[Any]:
        if name in part:
            return part[name]
        filler = np.nan if schema.column(name) is None else schema.empty_value(name)
        return np.full(rows, filler, dtype=object if isinstance(filler, str) else None)

    return {
        name: np.concatenate(
            [of(part, name, rows) for part, rows in zip(parts, lengths, strict=True)]
        )
        for name in names
    }


_CARRIED: Mapping[str, Callable[[str], str]] = {
    "fits": lambda text: catalogs.printable(text).encode("ascii", "backslashreplace").decode(),
    "ascii.ecsv": catalogs.safe_cell,
    "votable": catalogs.printable,
}


def write_astropy(path: Path, columns: Mapping[str, NDArray[Any]], format: str) -> None:
    """Write columns as ``fits``, ``ascii.ecsv`` or ``votable``, with units.

    Text becomes what the format can carry: ASCII in FITS, no formulas where spreadsheets read, no
    control characters in XML.
    """
    from astropy.table import Table

    table = Table()
    names = list(columns)
    if format == "ascii.ecsv":
        # A row that begins with # would be a comment: a number stands first.
        numbers = [name for name in names if _is_number(columns[name])]
        names = numbers[:1] + [name for name in names if name not in numbers[:1]]
    for name in names:
        values = columns[name]
        if not _is_number(values):
            values = np.array([_CARRIED[format](str(value)) for value in values], dtype=str)
        table[name] = values
        if schema.unit_of(name):
            table[name].unit = schema.unit_of(name)
        if format == "votable" and name in _UCDS:
            table[name].info.meta = {"ucd": _UCDS[name]}
    with commit(path) as temporary:
        table.write(temporary, format=format)


def _is_number(values: NDArray[Any]) -> bool:
    return values.dtype.kind != "O"
