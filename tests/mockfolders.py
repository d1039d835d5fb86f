"""What a run of `simulate` wrote, as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lensfinder import shards, tables
from lensfinder.ledger import products_of


def contents(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images and catalogue of all shards, in order."""
    images, catalogs = [], []
    for path in products_of(folder, "simulate"):
        with shards.read(path) as shard:
            images.append(shard.image[:])
            catalogs.append(shard.catalog)
    return np.concatenate(images), tables.concatenate(catalogs)
