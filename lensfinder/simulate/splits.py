"""Which split and which class a host belongs to: decided by hash, before anything is paired."""

from __future__ import annotations

import hashlib
import math

SPLITS = ("train", "val", "test")


def fraction_of(text: str) -> float:
    """Map a text to [0, 1), evenly and for ever the same."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def split_of(text: str, val_fraction: float, test_fraction: float) -> str:
    """Split of whatever goes by this name: a host, a source or a cell of the sky.

    A larger share leaves members where they are as far as it can: test grows from one end, val
    from the other.
    """
    position = fraction_of(f"split/{text}")
    if position < test_fraction:
        return "test"
    return "val" if position >= 1 - val_fraction else "train"


def sky_cell(ra_deg: float, dec_deg: float, side_deg: float = 0.05) -> str:
    """Name of the cell of a position: rings of constant declination, cut into near-squares."""
    rings = round(180 / side_deg)
    ring = min(int((dec_deg + 90) / 180 * rings), rings - 1)
    middle = math.radians((ring + 0.5) / rings * 180 - 90)
    columns = max(round(360 * math.cos(middle) / side_deg), 1)
    return f"{ring}/{int((ra_deg % 360) / 360 * columns) % columns}"
