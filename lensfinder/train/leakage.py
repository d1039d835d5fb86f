"""Whether train, val and test share anything that a network could learn by heart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from lensfinder import schema
from lensfinder.errors import MismatchError
from lensfinder.simulate.splits import sky_cell

Names = npt.NDArray[np.str_]

_PRINT = "\x1f"  # stands between an id and the number of its print; no id has it
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads neighbouring numbers


def check_names(what: str, name_N: Names, split_N: Names) -> None:
    """Refuse names that stand in two splits; an empty name is nobody's.

    Raises
    ------
    MismatchError
        With how many there are, and one of them.
    """
    by_split = {
        split: np.unique(name_N[(split_N == split) & (name_N != "")]) for split in schema.SPLITS
    }
    for one, other in combinations(schema.SPLITS, 2):
        shared = np.intersect1d(by_split[one], by_split[other], assume_unique=True)
        if len(shared):
            raise MismatchError(
                f"{len(shared)} {what} stand in both {one} and {other}, among them "
                f"{str(shared[0]).partition(_PRINT)[0]!r}",
                "splits that share no host, no source, no cell of the sky, no draw and no pixels",
                "Figures on such splits mean nothing; simulate again, with another --seed, or "
                "repair the split column.",
            )


def cells_of(radec_deg_N2: npt.NDArray[np.float64]) -> Names:
    """Name the cell of the sky of each position; empty where there is none."""
    placed_N = np.isfinite(radec_deg_N2).all(axis=1)
    cells = np.full(len(radec_deg_N2), "", dtype="<U16")
    unique_U2, back_N = np.unique(radec_deg_N2[placed_N], axis=0, return_inverse=True)
    named_U = np.array([sky_cell(float(ra), float(dec)) for ra, dec in unique_U2], dtype="<U16")
    cells[placed_N] = named_U[back_N.reshape(-1)] if len(named_U) else cells[placed_N]
    return cells


def prints_of(image_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return a number for each stamp that stays if it is turned or mirrored, (N,).

    The bits of all pixels are mixed and added up, so that equal numbers mean equal pixels in some
    order. 0 stands for a stamp without any scatter, which tells nothing.
    """
    n, bands, height, width = image_NCHW.shape
    bits_NCP = np.ascontiguousarray(image_NCHW).view(np.uint32).reshape(n, bands, height * width)
    mixed_NCP = bits_NCP.astype(np.uint64) * _ODD
    mixed_NCP ^= mixed_NCP >> np.uint64(29)
    mixed_NCP *= _ODD
    band_C = 2 * np.arange(bands, dtype=np.uint64) + np.uint64(1)
    total_N = (mixed_NCP.sum(axis=2) * band_C).sum(axis=1)
    flat_N = (bits_NCP == bits_NCP[:, :, :1]).all(axis=(1, 2))
    total_N[flat_N] = 0
    return np.asarray(total_N.view(np.int64))


def check_prints(print_N: npt.NDArray[np.int64], id_N: Names, split_N: Names) -> None:
    """Refuse stamps with the same pixels, turned or mirrored or not, in two splits.

    Raises
    ------
    MismatchError
        Naming one of them.
    """
    check_names("stamps (the same pixels, turned or not)", _first_ids(print_N, id_N), split_N)


def _first_ids(print_N: npt.NDArray[np.int64], id_N: Names) -> Names:
    """Name each stamp after the first one with its pixels; empty where they tell nothing.

    Stamps of several folders may have one id; the print keeps them apart.
    """
    _, first_U, back_N = np.unique(print_N, return_index=True, return_inverse=True)
    names = np.array([f"{id_N[first]}{_PRINT}{k}" for k, first in enumerate(first_U.tolist())])
    return np.where(print_N == 0, "", names[back_N.reshape(-1)])


def draws_of(catalog: Mapping[str, npt.NDArray[Any]]) -> Names:
    """Name what each modelled mock was drawn from: its seed and index; empty for other stamps.

    Two recipes draw much the same galaxy, surroundings and noise from one seed and index.
    """
    modelled_N = ~np.isfinite(np.asarray(catalog["ra"], np.float64))
    if "noise_seed" not in catalog or "noise_index" not in catalog:
        return np.full(len(modelled_N), "", dtype="<U1")
    drawn_from = zip(catalog["noise_seed"], catalog["noise_index"], strict=True)
    return np.where(modelled_N, np.array([f"{seed}/{index}" for seed, index in drawn_from]), "")


def groups_of(labels: Iterable[Names]) -> npt.NDArray[np.int64]:
    """Number the groups of objects that share any name, directly or over others, (N,).

    Parameters
    ----------
    labels : iterable of (N,) ndarray of str
        Hosts, sources, cells of the sky; an empty name is nobody's.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    columns, nodes = [], 0
    for name_N in labels:
        _, number_N = np.unique(name_N, return_inverse=True)
        columns.append((np.flatnonzero(name_N != ""), number_N.reshape(-1), nodes))
        nodes += int(number_N.max(initial=-1)) + 1
    objects = len(number_N)
    rows = np.concatenate([named for named, _, _ in columns])
    ends = np.concatenate([objects + start + number[named] for named, number, start in columns])
    total = objects + nodes
    graph = coo_array((np.ones(len(rows), np.int8), (rows, ends)), shape=(total, total))
    _, group_N = connected_components(graph, directed=False)
    return np.asarray(group_N[:objects], dtype=np.int64)
