"""Units of work: what travels to workers, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensfinder.fingerprints import fingerprint


@dataclass(frozen=True)
class Unit:
    """One piece of work with one product. Only paths, numbers and text: it travels to workers.

    Attributes
    ----------
    stage : str
        Stage whose ``do`` makes the product.
    name : str
        Unique within the run, and a file name.
    product : Path
        Where the product goes.
    ingredients : dict
        All that decides the product's content; its hash is the fingerprint.
    task : dict
        What ``do`` needs to know beside that: paths, positions of things.
    planned : int
        Targets in the unit.
    """

    stage: str
    name: str
    product: Path
    ingredients: Mapping[str, Any]
    task: Mapping[str, Any] = field(default_factory=dict)
    planned: int = 0

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.ingredients)


@dataclass(frozen=True)
class Receipt:
    """What a unit's product holds, counted by outcome, and its sha256 where that is known."""

    planned: int
    ok: int
    flagged: int = 0
    rejected: int = 0
    sha256: str = field(default="", kw_only=True)

    @property
    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("planned", "ok", "flagged", "rejected")}

    @property
    def closed(self) -> bool:
        return self.planned == self.ok + self.flagged + self.rejected


@dataclass(frozen=True)
class Failure:
    """Why a unit has no product.

    Attributes
    ----------
    reason : str
        Reason code for the ledger.
    message : str
        The sentence for the user.
    exit_code : int
        What the command exits with if this is its only unit.
    traceback : str
        Empty unless it is a bug.
    """

    reason: str
    message: str
    exit_code: int
    traceback: str = ""
