"""Make a product again from what stands in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensfinder.config import STAGES, Config, load, section_model
from lensfinder.errors import RequestError


def request_of(
    product: Path,
    sets: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[str, Config]:
    """Return the stage and the configuration that made a product.

    Parameters
    ----------
    product : Path
        A shard, a table of scores or targets, a model, ``report.json`` or ``run.json``.
    sets, options
        As for `config.load`; they win over what is recorded.

    Raises
    ------
    RequestError
        If it is none, or was made by a version whose keys this one does not know.
    """
    stored = _read(product)
    recorded = stored.get("config")
    recorded = recorded if isinstance(recorded, dict) else {}
    stages = [name for name in STAGES if name in recorded]
    if len(stages) != 1:
        raise RequestError(
            f"{product} does not say how it was made",
            "a pipeline's TOML file, or a product that lensfinder wrote",
        )
    # A key at its default is left so: what nobody said may come from a recipe or a model.
    kept = {
        name: {
            key: value
            for key, value in recorded[name].items()
            if key in stored.get("given", {}).get(name, recorded[name])
            or value != _default(name, key)
        }
        for name in ("run", *stages)
    }
    kept["run"].pop("engine", None)  # how, not what; a scheduler's address may be gone
    base = Path(stored.get("folder", "."))
    return stages[0], load(None, sets, options, recorded=(kept, base, product))


def _default(section: str, key: str) -> Any:
    return section_model(section)().model_dump(mode="json").get(key)


def _read(product: Path) -> dict[str, Any]:
    from lensfinder import shards, tables

    if product.is_dir():
        product = product / "run.json"
    suffix = product.suffix.lower()
    found: Any = None
    if not product.exists():
        raise RequestError(f"no such file: {product}", "a TOML configuration or a product")
    if suffix == ".h5":
        with shards.read(product) as shard:
            found = shard.header.provenance
    elif suffix == ".parquet":
        found = (tables.read_metadata(product) or {}).get("provenance")
    elif suffix == ".safetensors":
        from lensfinder import checkpoint

        found = checkpoint.read_header(product).get("provenance")
    elif suffix == ".json":
        try:
            found = json.loads(product.read_text(encoding="utf-8"))
            found = found.get("provenance", found)
        except (OSError, ValueError, AttributeError) as error:
            raise RequestError(f"{product} can't be read: {error}", "a product") from error
    return dict(found) if isinstance(found, Mapping) else {}
