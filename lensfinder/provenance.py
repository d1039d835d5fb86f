"""How a product came about, in its own words."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from lensfinder import __version__
from lensfinder.config import Config

_PACKAGES = ("numpy", "astropy", "photutils", "h5py", "torch", "pyarrow", "scikit-learn", "numba")


def version_of(package: str) -> str:
    """Tell the version that is installed; empty if none is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def describe(config: Config, section: str, command: str) -> dict[str, Any]:
    """Describe how a product came about; stored beside the fingerprint, never compared.

    Parameters
    ----------
    config : Config
    section : str
        The stage's.
    command : str
        The command line.

    Returns
    -------
    dict
        Of JSON: ``command``, ``folder`` (where it was given, to which paths are relative),
        ``config`` (all keys of ``[run]`` and of the stage), ``given`` (those that somebody set,
        rather than left at their defaults), ``versions`` and ``seed``.
    """
    sections = {"run": config.run, section: getattr(config, section)}
    return {
        "command": command,
        "folder": str(Path.cwd()),
        "config": {name: keys.model_dump(mode="json") for name, keys in sections.items()},
        "given": {name: sorted(keys.model_fields_set) for name, keys in sections.items()},
        "versions": {
            "lensfinder": __version__,
            "python": sys.version.split()[0],
            **{name: version for name in _PACKAGES if (version := version_of(name))},
        },
        "seed": config.run.seed,
    }
