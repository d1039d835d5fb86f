"""What a network learns from: labelled shards, checked before use, read through memory maps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lensfinder import schema, shards
from lensfinder.errors import MismatchError, RequestError, counted
from lensfinder.fingerprints import fingerprint
from lensfinder.train import leakage
from lensfinder.train.augment import Augmentation, view_onto
from lensfinder.train.folds import fold_of
from lensfinder.train.order import Index

# Stamps read at once, to look for twins.
_PIECE = 256

Stamps = tuple[torch.Tensor, torch.Tensor]  # image_NCHW float32 nJy, mask_NCHW uint8


@dataclass(frozen=True, eq=False)
class StampSet:
    """Labelled stamps of all shards, one after another; an object's index is its place there.

    Attributes
    ----------
    paths : tuple of Path
        Shards, in order.
    fingerprints : tuple of str
        Of each shard.
    bands, pixel_scale_arcsec, size, stretched
        The same for all shards.
    label_N : ndarray of int8
        1 lens, 0 not, -1 unknown.
    split_N : ndarray of str
        train, val, test or empty.
    radec_deg_N2 : ndarray of float64
        ICRS; NaN for a modelled host.
    id_N, host_id_N, source_id_N, cell_N, draw_N : ndarray of str
        Names of each object, its host, its source, its cell of the sky and, of a modelled mock,
        seed and index that it was drawn from; empty where it has none.
    start_S : ndarray of int
        Index of each shard's first object, and at the end the number of objects.
    """

    paths: tuple[Path, ...]
    fingerprints: tuple[str, ...]
    bands: tuple[str, ...]
    pixel_scale_arcsec: float
    size: int
    stretched: bool
    label_N: npt.NDArray[np.int8]
    split_N: npt.NDArray[np.str_]
    radec_deg_N2: npt.NDArray[np.float64]
    id_N: npt.NDArray[np.str_]
    host_id_N: npt.NDArray[np.str_]
    source_id_N: npt.NDArray[np.str_]
    cell_N: npt.NDArray[np.str_]
    draw_N: npt.NDArray[np.str_]
    start_S: Index

    def members(self, split: str) -> Index:
        """Return the indices of a split's objects with a known label."""
        known_N = self.label_N != schema.UNKNOWN
        return np.flatnonzero((self.split_N == split) & known_N)

    def folded(self, fold: int, folds: int, seed: int) -> StampSet:
        """Return the same stamps with one part of train and val as val, and the others as train.

        Objects that share a host, a source or a cell of the sky stay together. Where nothing is
        said of an object, it is a group of its own.
        """
        pool_N = np.sort(np.concatenate([self.members("train"), self.members("val")]))
        names = (self.host_id_N, self.source_id_N, self.cell_N, self.draw_N)
        group_N = leakage.groups_of([name_N[pool_N] for name_N in names])
        fold_N = fold_of(group_N, self.label_N[pool_N], folds, seed)
        split_N = self.split_N.copy()
        split_N[pool_N] = np.where(fold_N == fold, "val", "train")
        return replace(self, split_N=split_N)


def open_set(paths: Sequence[Path]) -> StampSet:
    """Read what shards say of themselves, without their pixels.

    Parameters
    ----------
    paths : sequence of Path
        At least one shard; a file counts once, however it is spelt.

    Raises
    ------
    MismatchError
        If shards differ in bands, pixel scale, size or stretch, or a host, a source or a cell of
        the sky stands in two splits.
    RequestError
        If train or val lack lenses or non-lenses, or a shard can't be read or is a copy of another.
    """
    paths = sorted({path.resolve(): path for path in reversed(paths)}.values())
    if not paths:
        raise RequestError("no shards to train on", "at least one", "Name folders of mocks.")
    labels, splits, positions, draws, fingerprints, geometries = [], [], [], [], [], []
    names: dict[str, list[npt.NDArray[Any]]] = {"id": [], "host_id": [], "source_id": []}
    for path in paths:
        with shards.read(path) as shard:
            catalog, header = shard.catalog, shard.header
            _check_columns(path, catalog, len(shard))
            labels.append(np.asarray(catalog["label"], np.int8))
            splits.append(np.asarray(catalog["split"]).astype(str))
            positions.append(np.column_stack([catalog["ra"], catalog["dec"]]))
            draws.append(leakage.draws_of(catalog))
            for name, values in names.items():
                values.append(np.asarray(catalog[name]).astype(str))
            fingerprints.append(fingerprint(header.ingredients))
            geometries.append(
                # Cut-outs take the scale from their WCS, which is good to some digits only.
                (header.bands, round(header.pixel_scale_arcsec, 4), shard.size, header.stretched)
            )
    _check_geometries(paths, geometries)
    _refuse_copies(paths, fingerprints, names["id"])
    split_N = np.concatenate(splits)
    radec_deg_N2 = np.concatenate(positions).astype(np.float64)
    cell_N = leakage.cells_of(radec_deg_N2)
    id_N, host_id_N, source_id_N = (np.concatenate(values) for values in names.values())
    leakage.check_names("host_id", host_id_N, split_N)
    leakage.check_names("source_id", source_id_N, split_N)
    leakage.check_names("cells of the sky", cell_N, split_N)
    draw_N = np.concatenate(draws)
    leakage.check_names("mocks of one seed and index", draw_N, split_N)
    bands, pixel_scale_arcsec, size, stretched = geometries[0]
    stamps = StampSet(
        tuple(paths),
        tuple(fingerprints),
        bands,
        pixel_scale_arcsec,
        size,
        stretched,
        np.concatenate(labels),
        split_N,
        radec_deg_N2,
        id_N,
        host_id_N,
        source_id_N,
        cell_N,
        draw_N,
        np.cumsum([0, *(len(label) for label in labels)]),
    )
    if not np.isin(stamps.label_N, (schema.LENS, schema.NOT_LENS)).any():
        raise RequestError(
            f"none of the {len(stamps.label_N)} stamps of {paths[0]}"
            f"{' and others' if len(paths) > 1 else ''} is labelled lens or non-lens",
            "mocks of `lensfinder simulate`, or cutouts that `lensfinder grades` has labelled",
        )
    unsplit = int((np.isin(stamps.label_N, (schema.LENS, schema.NOT_LENS)) & (split_N == "")).sum())
    if unsplit and not (split_N != "").any():
        raise RequestError(
            f"the {counted(unsplit, 'labelled stamp')} of {paths[0].parent} are of no split",
            "stamps to train on, and others to choose the epoch by",
            "Give each train, val or test in a column `split` of its classifications.csv.",
        )
    for split in ("train", "val"):
        _check_classes(split, stamps.label_N[stamps.members(split)])
    return stamps


def _check_columns(path: Path, catalog: shards.Columns, rows: int) -> None:
    for name in ("id", "label", "split", "ra", "dec", "host_id", "source_id"):
        if name not in catalog or len(catalog[name]) != rows:
            raise RequestError(
                f"{path}: catalog/{name} does not have a value for each of {rows} stamps",
                "a shard that `lensfinder simulate` or `lensfinder cutout` wrote",
            )


def _refuse_copies(
    paths: Sequence[Path], fingerprints: Sequence[str], ids: Sequence[npt.NDArray[Any]]
) -> None:
    known: dict[tuple[str, ...], Path] = {}
    for path, fingerprint_of, id_N in zip(paths, fingerprints, ids, strict=True):
        first = known.setdefault((fingerprint_of, *id_N.tolist()), path)
        if first is not path:
            raise RequestError(f"{first} and {path} hold the same stamps", "each of them once")


def _check_geometries(
    paths: Sequence[Path], geometries: Sequence[tuple[tuple[str, ...], float, int, bool]]
) -> None:
    names = ("bands", "pixel scale (arcsec)", "stamp size", "stretched")
    for path, geometry in zip(paths, geometries, strict=True):
        for name, first, this in zip(names, geometries[0], geometry, strict=True):
            if first != this:
                raise MismatchError(
                    f"{path} has {name} {this}, {paths[0]} has {first}",
                    "the same for all training shards",
                    "Train on shards made with the same settings.",
                )


_MORE_OF = {
    "train": "Name a folder that holds some, too, such as mocks of `lensfinder simulate`.",
    "val": "More stamps, or a larger share of them for val (of mocks: simulate.val_fraction).",
}


def _check_classes(split: str, label_N: npt.NDArray[np.int8]) -> None:
    for label, name in ((schema.LENS, "lenses"), (schema.NOT_LENS, "non-lenses")):
        if not (label_N == label).any():
            raise RequestError(
                f"the {split} split has no {name} among {len(label_N)} labelled stamps",
                "both classes in train and in val",
                _MORE_OF[split],
            )


class Pixels:
    """Random access to the stamps of a set; not shared between processes."""

    def __init__(self, stamps: StampSet) -> None:
        self._stamps = stamps
        self._maps = [
            (shards.memory_map(path, "image"), shards.memory_map(path, "mask"))
            for path in stamps.paths
        ]

    @property
    def stretched(self) -> bool:
        """Whether they are levels of a picture rather than fluxes."""
        return self._stamps.stretched

    @property
    def stamp_shape(self) -> tuple[int, int, int]:
        """Bands, rows and columns of a stamp."""
        return len(self._stamps.bands), self._stamps.size, self._stamps.size

    def gather(self, index_B: Index, augmentation_B4: Index | None = None) -> Stamps:
        """Copy stamps out of the shards, each turned and shifted as its augmentation says."""
        shape = (len(index_B), *self.stamp_shape)
        image_NCHW = torch.empty(shape, dtype=torch.float32)
        mask_NCHW = torch.empty(shape, dtype=torch.uint8)
        image_out, mask_out = image_NCHW.numpy(), mask_NCHW.numpy()
        shard_B = np.searchsorted(self._stamps.start_S, index_B, side="right") - 1
        row_B = index_B - self._stamps.start_S[shard_B]
        for i, (shard, row) in enumerate(zip(shard_B, row_B, strict=True)):
            for pixels, out in zip(self._maps[shard], (image_out, mask_out), strict=True):
                stamp_CHW = pixels[row]
                if augmentation_B4 is not None:
                    stamp_CHW = view_onto(stamp_CHW, Augmentation(*augmentation_B4[i]))
                out[i] = stamp_CHW
        return image_NCHW, mask_NCHW

    def prints(self, index_N: Index) -> Index:
        """Return `leakage.prints_of` some stamps, each shard read from front to back."""
        found = np.zeros(len(index_N), np.int64)
        shard_N = np.searchsorted(self._stamps.start_S, index_N, side="right") - 1
        for shard, (image_NCHW, _) in enumerate(self._maps):
            here = np.flatnonzero(shard_N == shard)
            for piece in np.array_split(here, len(here) // _PIECE + 1):
                rows = index_N[piece] - self._stamps.start_S[shard]
                found[piece] = leakage.prints_of(image_NCHW[rows])
        return found


# What no fresh mocks can be made from, in words.
_MADE_FROM = {"hosts": "hosts", "truth": "truth", "material": "real sources, PSFs or sky"}


def recipe_of(stamps: StampSet) -> dict[str, Any]:
    """Return what mocks like those of all shards are made of.

    Raises
    ------
    RequestError
        If some shard holds no mocks, or mocks on real galaxies or from a table.
    MismatchError
        If they were made in different ways.
    """
    recipes = []
    for path in stamps.paths:
        with shards.read(path) as shard:
            recipe = {k: v for k, v in shard.header.ingredients.items() if k != "range"}
        own = sorted(_MADE_FROM.keys() & set(recipe))
        if "population" not in recipe or own:
            what = f"mocks made from {_MADE_FROM[own[0]]}" if own else "no mocks"
            raise RequestError(
                f"{path} holds {what}, which train.stream can't make more of",
                "mocks on modelled galaxies",
                "Leave out --stream, and simulate as many as there is room for.",
            )
        recipes.append(recipe)
        if recipe != recipes[0]:
            raise MismatchError(
                f"{path} and {stamps.paths[0]} hold mocks of different recipes",
                "one recipe for train.stream",
                "Stream from the shards of one folder.",
            )
    return recipes[0]


def prefetch(make: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield ``make(item)`` for each item, the next one being made while the caller works."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        ahead: deque[Future[Any]] = deque()
        for item in items:
            ahead.append(pool.submit(make, item))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
