"""What decides a product, the hash of it, and what differs between two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lensfinder import schema
from lensfinder.config import Section


def fingerprint(ingredients: Mapping[str, Any]) -> str:
    """Hash `ingredients` (anything JSON can hold) independently of the order of its keys."""
    canonical = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def ingredients(
    stage: str, algorithm: int, config: Section | Mapping[str, Any], **inputs: Any
) -> dict[str, Any]:
    """Assemble what decides a product: the stage's algorithm version, its keys and its inputs."""
    keys = config.fingerprint() if isinstance(config, Section) else dict(config)
    return {
        "stage": stage,
        "algorithm": algorithm,
        "schema": schema.SCHEMA_VERSION,
        stage: keys,
        **inputs,
    }


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], most: int = 4) -> list[str]:
    """Name what differs between two ingredient lists, innermost key first: ``size: 101 → 65``."""
    found: list[str] = []

    def walk(old: Any, new: Any, where: str) -> None:
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for key in sorted({*old, *new}):
                walk(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        elif old != new:
            found.append(f"{where}: {_short(old)} → {_short(new)}")

    walk(stored, json.loads(json.dumps(wanted)), "")
    return found[:most] + ([f"… {len(found) - most} more"] if len(found) > most else [])


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 40 else text[:36] + "…" + text[-1]
