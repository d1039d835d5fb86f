"""What of files and surveys travels in a unit: plain text, and what decides its product."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensfinder.survey import Survey
from lensfinder.tiles import TileFiles


def plain_paths(files: TileFiles) -> dict[str, dict[str, str]]:
    return {band: {k: str(p) for k, p in kinds.items()} for band, kinds in files.paths.items()}


def from_plain(paths: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Path]]:
    return {band: {k: Path(p) for k, p in kinds.items()} for band, kinds in paths.items()}


def meaning(survey: Survey) -> dict[str, Any]:
    """What a survey says of pixels; its title and its prose change nothing."""
    prose: Any = {"title": True, "source": True, "dust": {"source"}}
    return survey.model_dump(mode="json", exclude=prose)
