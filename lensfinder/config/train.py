"""The section ``[train]``."""

from __future__ import annotations

from pydantic import Field

from lensfinder.config.fields import NO_OUTPUT, POSITIONAL, Fraction, InputPath, Listed, Section


class TrainConfig(Section):
    """`train`: shards to a model."""

    shards: Listed[InputPath] = Field(
        (), description="Folders of mock or labelled shards.", json_schema_extra=POSITIONAL
    )
    network: str = Field("lensnet", description="Architecture, see `lensfinder networks`.")
    epochs: int = Field(20, ge=1, description="Passes over the training split.")
    batch_size: int = Field(128, ge=2, description="Stamps in a global batch, over all ranks.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(1e-3, ge=0, description="AdamW weight decay.")
    warmup: Fraction = Field(0.05, description="Share of the steps with a rising learning rate.")
    clip_norm: float = Field(1.0, gt=0, description="Gradient norm above which it is clipped.")
    shift_pixels: int = Field(2, ge=0, description="Augmentation: largest shift in x and y.")
    ranks: int = Field(
        1, ge=1, le=1024, description="Processes to train with, one GPU each where there are."
    )
    save_every_s: float = Field(
        60.0,
        gt=0,
        description="Seconds between saved training states.",
        json_schema_extra=NO_OUTPUT,
    )
