"""The section ``[infer]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lensfinder.config.fields import (
    INPUT,
    NO_OUTPUT,
    POSITIONAL,
    InputPath,
    Listed,
    ListedPaths,
    ModelPath,
)
from lensfinder.config.targets import TargetsConfig


class InferConfig(TargetsConfig):
    """`infer`: score stamps, or tiles straight away."""

    inputs: ListedPaths[InputPath] = Field(
        (),
        description="Cutout or mock folders, shards, FITS tiles, or folders of stamps.",
        json_schema_extra=POSITIONAL,
    )
    model: ListedPaths[ModelPath] = Field(
        (),
        description="Model file, the folder `train` wrote, or a model that comes along by its name "
        "(`lensfinder networks --models`). Given several times, the models' mean logit and its "
        "spread.",
        json_schema_extra={**INPUT, "several": True},
    )
    splits: Listed[Literal["train", "val", "test"]] = Field(
        ("test",), description="Splits of labelled shards to score."
    )
    views: Literal[1, 8] = Field(1, description="Average over 8 flips and rotations, or not.")
    embed: bool = Field(
        False, description="Keep each object's penultimate features, as embedding_<k>."
    )
    keep_above: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Write only objects with a logit above this, and a histogram of all.",
    )
    adapt: bool = Field(
        False,
        description="Resample stamps of another pixel scale or size, and widen a PSF that is "
        "narrower than the model's; such objects are flagged.",
    )
    precision: Literal["float32", "half"] = Field(
        "float32",
        description="half: 16 bits, where the model's golden scores stay within 0.05.",
    )
    compile: bool = Field(
        False,
        description="Compile the network first: a minute, then about a third faster on CPUs.",
        json_schema_extra=NO_OUTPUT,
    )
    batch_size: int = Field(
        0,
        ge=0,
        description="Stamps in a forward pass; 0: what suits the device.",
        json_schema_extra=NO_OUTPUT,
    )
    ranked: int = Field(
        1_000_000,
        ge=0,
        description="Best objects listed in ranked.parquet.",
        json_schema_extra=NO_OUTPUT,
    )
    candidates: int = Field(
        2000,
        ge=0,
        description="Best-ranked stamps kept in candidates.h5.",
        json_schema_extra=NO_OUTPUT,
    )
    export: Listed[Literal["fits", "ecsv", "votable"]] = Field(
        (),
        description="Also write the ranked list so: fits, ecsv, votable.",
        json_schema_extra=NO_OUTPUT,
    )
