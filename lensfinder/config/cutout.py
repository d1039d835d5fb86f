"""The section ``[cutout]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lensfinder.config.fields import POSITIONAL, InputPath, ListedPaths
from lensfinder.config.targets import TargetsConfig


class CutoutConfig(TargetsConfig):
    """`cutout`: FITS tiles to stamps."""

    tiles: ListedPaths[InputPath] = Field(
        (), description="FITS files, or folders of them.", json_schema_extra=POSITIONAL
    )
    variance: bool = Field(False, description="Store the variance of each pixel, too.")
    missing_band: Literal["reject", "mask"] = Field(
        "reject",
        description="A tile without one of the bands is rejected, or that band is NaN and masked.",
    )
