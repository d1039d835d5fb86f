"""Small tiles with galaxies at known places, and whether a run's books balance over them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from skies import sky_YX, tan_wcs, write_kids_tile

from lensfinder import shards, tables
from lensfinder.ledger import products_of, read_index

SHAPE_YX = (80, 80)
OBJECTS_XY = [(20.0, 30.0), (60.0, 55.0), (40.0, 15.0)]


def write_tile(folder: Path, name: str, ra: float) -> list[tuple[float, float]]:
    """Write a tile of three galaxies; return their positions."""
    wcs = tan_wcs(ra, 0.0, SHAPE_YX)
    images = {band: sky_YX(SHAPE_YX, OBJECTS_XY, n) for n, band in enumerate("gri")}
    write_kids_tile(folder, name, images, wcs, weight=np.ones(SHAPE_YX), mask=np.zeros(SHAPE_YX))
    return [tuple(map(float, wcs.all_pix2world(x, y, 0))) for x, y in OBJECTS_XY]


def check_ledger(folder: Path, planned: list[str]) -> Counter[str]:
    """Assert that the books balance, and return how often each outcome occurs."""
    counts = read_index(folder)["counts"]
    assert counts["planned"] == sum(
        counts[name] for name in ("ok", "flagged", "rejected", "failed")
    )
    ledger = tables.read_columns(folder / "ledger.parquet")
    assert sorted(ledger["id"]) == sorted(planned)
    occurs = Counter(ledger["outcome"].tolist())
    assert {name: n for name, n in counts.items() if n and name != "planned"} == dict(occurs)
    kept = []
    for product in products_of(folder, "cutout"):
        with shards.read(product) as shard:
            kept += shard.catalog["id"].tolist()
    whole = np.isin(ledger["outcome"], ["ok", "flagged"])
    assert sorted(kept) == sorted(ledger["id"][whole])
    return occurs


def overlapping(folder: Path, centres: dict[str, float]) -> np.ndarray:
    """Write tiles that overlap along RA; return (N, 2) positions all over them."""
    for name, ra in centres.items():
        wcs = tan_wcs(ra, 0.0, SHAPE_YX)
        images = {band: sky_YX(SHAPE_YX, [], n) for n, band in enumerate("gri")}
        write_kids_tile(folder, name, images, wcs)
    ra = np.arange(min(centres.values()) - 0.0018, max(centres.values()) + 0.0018, 0.0004)
    return np.column_stack([ra, np.linspace(-0.001, 0.001, len(ra))])
