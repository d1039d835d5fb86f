"""Shards: HDF5 files of stamps with their catalogue (design: the contract of `schema`).

The only user of h5py. A shard is written whole by the commit protocol and never changed. Pixels
are contiguous and uncompressed, so that random stamps can be read through a memory map.
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lensfinder import schema
from lensfinder.commit import commit, need_space
from lensfinder.errors import MismatchError, RequestError
from lensfinder.pieces import Parts, PiecesFile

Columns = dict[str, NDArray[Any]]
_PIXELS = {"image": np.float32, "mask": np.uint8, "variance": np.float32}
_UNITS = {"image": "nJy", "variance": "nJy2"}
_TEXT = h5py.string_dtype()
_MAKE_AGAIN = "Delete it, and run the command that wrote it again: it makes what is missing."
# A foreign file may declare more than it holds; gzip makes a thousandth of zeros at best.
_UNSUSPICIOUS_BYTES = 2**26
_MOST_COMPRESSED = 2000


@dataclass(frozen=True)
class Header:
    """What is said of a shard as a whole.

    Attributes
    ----------
    stage : str
        Stage that wrote it.
    survey : str
        Name of the survey.
    bands : tuple of str
        In the order of the band axis.
    pixel_scale_arcsec : float
        Side of a pixel.
    ingredients : mapping
        What the content was made from; its hash is the fingerprint.
    provenance : mapping
        Command, resolved configuration, versions and seed.
    stretched : bool
        Pixels are a stretched composite rather than fluxes.
    """

    stage: str
    survey: str
    bands: tuple[str, ...]
    pixel_scale_arcsec: float
    ingredients: Mapping[str, Any]
    provenance: Mapping[str, Any]
    stretched: bool = False


@dataclass(frozen=True)
class Shard:
    """A shard open for reading; pixels are read when they are sliced.

    Attributes
    ----------
    image : (N, band, y, x) float32 in nJy, NaN where there is no data
    mask : (N, band, y, x) uint8, 0 good, else bits of `schema`
    catalog : columns of length N
    """

    path: Path
    header: Header
    image: Any
    mask: Any
    variance: Any
    catalog: Columns
    ledger: Columns

    def __len__(self) -> int:
        return int(self.image.shape[0])

    @property
    def size(self) -> int:
        return int(self.image.shape[-1])


def write(
    path: Path,
    header: Header,
    image_NCHW: NDArray[np.float32],
    mask_NCHW: NDArray[np.uint8],
    catalog: Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    variance_NCHW: NDArray[np.float32] | None = None,
    ledger: Mapping[str, Sequence[str] | NDArray[Any]] | None = None,
) -> str:
    """Write a shard by the commit protocol.

    Parameters
    ----------
    path : Path
        Final name, ending in ``.h5``.
    header : Header
        Root attributes.
    image_NCHW : (N, band, y, x) float32
        Stamps in nJy.
    mask_NCHW : (N, band, y, x) uint8
        0 good, else bits of `schema`.
    catalog : mapping of column to length-N values
        Must hold `schema.REQUIRED_COLUMNS`.
    variance_NCHW : (N, band, y, x) float32, optional
        In nJy².
    ledger : mapping, optional
        ``id``, ``outcome``, ``reason`` of every target of the unit, rejected ones too.

    Returns
    -------
    str
        sha256 of the file, of what was meant to be written rather than what the disk kept.

    Raises
    ------
    ValueError
        If shapes or columns break the contract: a bug in the caller.
    DiskError
        If it does not fit on the disk.
    """
    _check_contract(header, image_NCHW, mask_NCHW, catalog)
    need_space(path, image_NCHW.nbytes * 2 + mask_NCHW.nbytes + 1_000_000)
    # HDF5 writes its few headers to memory and Python everything to the disk: on a full one, h5py
    # crashes the interpreter. Pixels go straight from their array to their place in the file.
    headers = PiecesFile()
    pixels: dict[str, NDArray[Any]] = {"image": image_NCHW, "mask": mask_NCHW}
    if variance_NCHW is not None:
        pixels["variance"] = variance_NCHW
    with h5py.File(headers, "w", libver="v108") as file:
        _describe(file, header)
        _write_columns(file.create_group("catalog"), catalog)
        _write_columns(file.create_group("ledger"), ledger or {})
        offsets = {name: _allocate(file, name, array.shape) for name, array in pixels.items()}
    placed = [(offsets[name], np.ascontiguousarray(array)) for name, array in pixels.items()]
    # Hashing leaves the interpreter to the thread that writes, and the other way round.
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(headers.sha256_with, placed)
        with commit(path, check=lambda written: _check_rows(written, len(image_NCHW))) as temporary:
            with temporary.open("wb") as stream:
                headers.write_to(stream)
                for offset, array in placed:
                    stream.seek(offset)
                    stream.write(array.data)
        return digest.result()


@contextmanager
def in_parts(path: Path, header: Header, n: int, size: int) -> Iterator[Parts]:
    """Write a shard whose stamps are never in memory together, by the commit protocol.

    Every row must be put, and the catalogue be set, before the end.

    Parameters
    ----------
    path, header
        As for `write`.
    n, size : int
        Stamps, and their side.
    """
    shape = (n, len(header.bands), size, size)
    headers, pixels = PiecesFile(), math.prod(shape)
    need_space(path, pixels * 5 + 1_000_000)
    with (
        commit(path, check=lambda written: _check_rows(written, n)) as temporary,
        temporary.open("wb") as stream,
    ):
        with h5py.File(headers, "w", libver="v108") as file:
            _describe(file, header)
            made = Parts(stream, {name: _allocate(file, name, shape) for name in ("image", "mask")})
            yield made
            _check_columns(n, made.catalog)
            _write_columns(file.create_group("catalog"), made.catalog)
            file.create_group("ledger")
        headers.write_to(stream)


def _describe(file: h5py.File, header: Header) -> None:
    file.attrs["schema_version"] = schema.SCHEMA_VERSION
    file.attrs["bands"] = list(header.bands)
    for name in ("stage", "survey", "pixel_scale_arcsec", "stretched"):
        file.attrs[name] = getattr(header, name)
    # Attributes end at 64 kB; a list of inputs may not.
    for name in ("ingredients", "provenance"):
        file.create_dataset(name, data=json.dumps(getattr(header, name)), dtype=_TEXT)


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...]) -> int:
    """Create a contiguous dataset without writing it; return where its pixels belong."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dataset = h5py.h5d.create(
        file.id,
        name.encode(),
        h5py.h5t.py_create(np.dtype(_PIXELS[name])),
        h5py.h5s.create_simple(shape),
        how,
    )
    if name in _UNITS:
        file[name].attrs["unit"] = _UNITS[name]
    return int(dataset.get_offset() or 0)


def _check_contract(
    header: Header,
    image_NCHW: NDArray[Any],
    mask_NCHW: NDArray[Any],
    catalog: Mapping[str, Sequence[Any] | NDArray[Any]],
) -> None:
    n, bands, height, width = image_NCHW.shape
    if mask_NCHW.shape != image_NCHW.shape or bands != len(header.bands):
        raise ValueError(f"image {image_NCHW.shape}, mask {mask_NCHW.shape}, {header.bands}")
    if height != width or height % 2 == 0:
        raise ValueError(f"stamps of {width} x {height} are not square with an odd side")
    if image_NCHW.dtype != np.float32 or mask_NCHW.dtype != np.uint8:
        raise ValueError(f"image {image_NCHW.dtype}, mask {mask_NCHW.dtype}")
    _check_columns(n, catalog)


def _check_columns(n: int, catalog: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
    missing = [name for name in schema.REQUIRED_COLUMNS if name not in catalog]
    if missing:
        raise ValueError(f"catalogue without {missing}")
    wrong = {name: len(values) for name, values in catalog.items() if len(values) != n}
    if wrong:
        raise ValueError(f"columns of other length than {n}: {wrong}")


def _write_columns(group: h5py.Group, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
    for name, values in columns.items():
        known = schema.column(name)
        array = np.asarray(values)
        if array.dtype.kind in "OUS" or (known is not None and known.dtype == "str"):
            dataset = group.create_dataset(name, data=array.astype(object), dtype=_TEXT)
        else:
            dataset = group.create_dataset(
                name, data=array.astype(known.dtype) if known is not None else array
            )
        dataset.attrs["unit"] = schema.unit_of(name)


def _check_rows(path: Path, rows: int) -> None:
    with h5py.File(path, "r", locking=False) as file:
        found = {len(file[name]) for name in ("image", "mask")}
        found |= {len(column) for column in file["catalog"].values()}
    if found != {rows}:
        raise OSError(errno.EIO, f"{found} rows instead of {rows}")


@contextmanager
def read(path: Path) -> Iterator[Shard]:
    """Open a shard.

    Raises
    ------
    RequestError
        If the file is none, is damaged, or reaches outside itself (external, virtual or linked
        datasets are refused: a stranger's file must not read another one).
    MismatchError
        If it has another schema version.
    """
    with _opened(path) as file:
        with _damage(path):
            shard = _open(path, file)
        yield shard


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise RequestError(f"no such shard: {path}") from None
    except OSError as error:
        raise RequestError(
            f"{path} is not a readable HDF5 file, or only a part of one",
            "a shard",
            _MAKE_AGAIN,
        ) from error
    with file:
        yield file


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    # What reading a damaged or a foreign file has been seen to raise; UnicodeDecodeError and
    # JSONDecodeError are ValueErrors.
    try:
        yield
    except (KeyError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise RequestError(
            f"{path} is damaged or no shard: {error}", "a shard", _MAKE_AGAIN
        ) from error


def _open(path: Path, file: h5py.File) -> Shard:
    for name in ("image", "mask", "catalog", "ledger", "ingredients", "provenance"):
        _own(path, file, name)
    if "variance" in file:
        _own(path, file, "variance")
    version = int(file.attrs["schema_version"])
    if version != schema.SCHEMA_VERSION:
        raise MismatchError(
            f"{path} has schema version {version}",
            f"version {schema.SCHEMA_VERSION}",
            "Make it again with this version of lensfinder.",
        )
    header = Header(
        stage=str(file.attrs["stage"]),
        survey=str(file.attrs["survey"]),
        bands=tuple(str(band) for band in file.attrs["bands"]),
        pixel_scale_arcsec=float(file.attrs["pixel_scale_arcsec"]),
        ingredients=json.loads(file["ingredients"][()]),
        provenance=json.loads(file["provenance"][()]),
        stretched=bool(file.attrs["stretched"]),
    )
    shard = Shard(
        path,
        header,
        file["image"],
        file["mask"],
        file.get("variance"),
        _read_columns(path, file, "catalog"),
        _read_columns(path, file, "ledger"),
    )
    _check_contract(header, shard.image, shard.mask, shard.catalog)
    return shard


def _own(path: Path, group: h5py.Group, name: str) -> h5py.Dataset | h5py.Group:
    """Open what lies in the file itself; refuse what reaches outside, or pretends to be large."""
    link = group.get(name, getlink=True)
    if link is None:
        raise KeyError(f"no '{name}'")
    if not isinstance(link, h5py.HardLink):
        raise RequestError(f"{path}: '{name}' is a link", "data inside the file itself")
    item = group[name]
    if not isinstance(item, h5py.Dataset):
        return item
    stored = item.id.get_create_plist()
    if stored.get_external_count() or stored.get_layout() == h5py.h5d.VIRTUAL:
        raise RequestError(f"{path}: '{name}' lies in another file", "data inside the file itself")
    if item.nbytes > _UNSUSPICIOUS_BYTES:
        # Chunks that were never written take no room, until they are read.
        held = item.id.get_storage_size()
        if held * _MOST_COMPRESSED < item.nbytes:
            raise RequestError(
                f"{path}: '{name}' declares {item.nbytes} bytes and holds {held}", "whole data"
            )
    return item


def _read_columns(path: Path, file: h5py.File, group_name: str) -> Columns:
    group = file[group_name]
    columns: Columns = {}
    for name in group:
        dataset = _own(path, group, name)
        text = h5py.check_string_dtype(dataset.dtype) is not None
        columns[name] = dataset.asstr()[:] if text else dataset[:]
    return columns


def made_from(path: Path) -> dict[str, Any] | None:
    """Return a shard's ingredients, whatever its schema version, or None if it can't be read."""
    try:
        with _opened(path) as file, _damage(path):
            _own(path, file, "ingredients")
            return dict(json.loads(file["ingredients"][()]))
    except RequestError:
        return None


def memory_map(path: Path, name: str = "image") -> NDArray[Any]:
    """Map a pixel dataset of a shard into memory, read-only.

    Returns
    -------
    numpy.memmap
        (N, band, y, x) of the dataset's type.

    Raises
    ------
    RequestError
        If the dataset is not contiguous, so that it can't be mapped.
    """
    with read(path) as shard:
        dataset = getattr(shard, name)
        if dataset.size == 0:
            return np.empty(dataset.shape, dataset.dtype)
        offset = dataset.id.get_offset()
        if offset is None or dataset.chunks is not None:
            raise RequestError(f"{path}: '{name}' is chunked or compressed", "contiguous pixels")
        return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)
