"""K-fold: parts of train and val, each of which one model leaves out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensfinder.errors import RequestError


def fold_of(
    group_N: npt.NDArray[np.int64], label_N: npt.NDArray[np.int8], folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Put objects into `folds` parts of like size and like shares of the classes, (N,).

    Parameters
    ----------
    group_N : ndarray of int
        Objects of a group (one host, one source, one cell of the sky) stay together.
    label_N : ndarray of int8
        1 lens, 0 not.
    folds : int
        Number of parts, >= 2.
    seed : int
        Decides who goes where.

    Raises
    ------
    RequestError
        If a class would be missing in a part: there are too few groups.
    """
    groups, number_N = np.unique(group_N, return_inverse=True)
    number_N = number_N.reshape(-1)
    lenses_G = np.bincount(number_N, weights=label_N == 1, minlength=len(groups))
    others_G = np.bincount(number_N, weights=label_N == 0, minlength=len(groups))
    shuffled = np.random.default_rng((seed, 5)).permutation(len(groups))
    largest_first = shuffled[np.argsort(-(lenses_G + others_G)[shuffled], kind="stable")]
    # The part that has least of what the group has most of gets it.
    share_G2 = np.column_stack([lenses_G / lenses_G.sum(), others_G / others_G.sum()])
    held_F2 = np.zeros((folds, 2))
    fold_G = np.zeros(len(groups), np.int64)
    for group in largest_first:
        class_ = int(np.argmax(share_G2[group]))
        fold = int(np.lexsort((held_F2.sum(axis=1), held_F2[:, class_]))[0])
        fold_G[group] = fold
        held_F2[fold] += share_G2[group]
    if not (held_F2 > 0).all():
        raise RequestError(
            f"{len(groups)} groups that share no host, source or cell of the sky make no {folds} "
            "folds with lenses and non-lenses in each",
            "more groups, or fewer folds",
            "Lower train.folds, or give more stamps.",
        )
    return fold_G[number_N]
