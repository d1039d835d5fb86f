"""The section ``[infer]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lensfinder.config.fields import INPUT, NO_OUTPUT, POSITIONAL, InputPath, Listed
from lensfinder.config.targets import TargetsConfig


class InferConfig(TargetsConfig):
    """`infer`: score stamps, or tiles straight away."""

    inputs: Listed[InputPath] = Field(
        (),
        description="Cutout or mock folders, shards, or FITS tiles.",
        json_schema_extra=POSITIONAL,
    )
    model: InputPath | None = Field(
        None, description="Model file, or the folder `train` wrote.", json_schema_extra=INPUT
    )
    splits: Listed[Literal["train", "val", "test"]] = Field(
        ("test",), description="Splits of labelled shards to score."
    )
    views: Literal[1, 8] = Field(1, description="Average over 8 flips and rotations, or not.")
    batch_size: int = Field(
        256, ge=1, description="Stamps in a forward pass.", json_schema_extra=NO_OUTPUT
    )
    candidates: int = Field(
        2000,
        ge=0,
        description="Best-ranked stamps kept in candidates.h5.",
        json_schema_extra=NO_OUTPUT,
    )
