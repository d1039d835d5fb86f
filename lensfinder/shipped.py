"""Models that come along: a name stands for a file wherever a model is asked for.

Beside each ``NAME.safetensors`` of the folder ``models`` lies its card, ``NAME.md``: what it was
trained on, by which command, what was measured, and where it fails.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

_SUFFIX = ".safetensors"


def folder() -> Path:
    """Where they lie; an installed package is a folder on disk."""
    return Path(str(resources.files("lensfinder"))) / "models"


def names() -> list[str]:
    """Names of the models that come along."""
    return sorted(path.stem for path in folder().glob(f"*{_SUFFIX}"))


def model_path(given: Path) -> Path:
    """The file that a name stands for; what is no name, or exists as a path, stays as it is."""
    if given.parts != (given.name,) or given.exists() or given.name not in names():
        return given
    return file_of(given.name)


def file_of(name: str) -> Path:
    """The model file of this name."""
    return folder() / f"{name}{_SUFFIX}"


def card_of(name: str) -> Path:
    """The card of the model of this name."""
    return folder() / f"{name}.md"
