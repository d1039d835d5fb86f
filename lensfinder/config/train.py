"""The section ``[train]``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lensfinder.config.fields import (
    INPUT,
    NO_OUTPUT,
    POSITIONAL,
    Fraction,
    InputPath,
    ListedPaths,
    ModelPath,
    Section,
)

_SHARE_LEFT = 0.1  # smallest share of a stamp's side that zoom may leave to see


class TrainConfig(Section):
    """`train`: shards to a model."""

    shards: ListedPaths[InputPath] = Field(
        (), description="Folders of mock or labelled shards.", json_schema_extra=POSITIONAL
    )
    network: str = Field("lensnet", description="Architecture, see `lensfinder networks`.")
    pixels: Literal["auto", "sky", "sky-turned", "picture", "deeplens", "petrillo"] = Field(
        "auto",
        description="Pixels before the network: sky (background off, in sky sigma, arcsinh) | "
        "sky-turned (the same, and what half a turn about the galaxy changes: for one deep band, "
        "in which its light hides arcs, and few stamps) | picture (background off, in sigma of the "
        "set) | deeplens (mean image off, in sigma of the set) | petrillo (square root, over the "
        "stamp's maximum) | auto (those of the model given by init; as the network was published; "
        "else picture for stretched stamps and sky for others).",
    )
    epochs: int = Field(20, ge=1, description="Passes over the training split.")
    batch_size: int = Field(128, ge=2, description="Stamps in a global batch, over all ranks.")
    optimizer: Literal["adamw", "adam"] = Field("adamw", description="adamw | adam.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(1e-3, ge=0, description="Weight decay, of weights only.")
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="Learning rate after warm-up: cosine (to 0) | step | constant."
    )
    step_epochs: int = Field(40, ge=1, description="schedule step: epochs between steps.")
    step_factor: float = Field(0.1, gt=0, le=1, description="schedule step: factor of each step.")
    warmup: Fraction = Field(0.05, description="Share of the steps with a rising learning rate.")
    clip_norm: float = Field(1.0, gt=0, description="Gradient norm above which it is clipped.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of what the network computes with: float32, or bfloat16 or float16 mixed with "
        "it (GPUs; bfloat16 also CPUs with AMX); auto: bfloat16 where a GPU has it, else float32.",
    )
    ema: Fraction = Field(
        0.0, description="Decay of a moving average of the weights, such as 0.999; 0: none."
    )
    lens_weight: float = Field(1.0, gt=0, description="Weight of a lens in the loss, to others' 1.")
    balance: bool = Field(False, description="As many lenses as non-lenses in each batch.")
    shuffle_block: int = Field(
        0,
        ge=0,
        description="Read stamps in shuffled blocks of so many neighbours, for sets larger than "
        "memory on slow disks; 0: each for itself.",
    )
    flips: bool = Field(True, description="Augmentation: mirror images and quarter turns.")
    shift_pixels: int = Field(2, ge=0, description="Augmentation: largest shift in x and y.")
    rotation_deg: float = Field(
        0.0, ge=0, le=180, description="Augmentation: largest further rotation; 45: any angle."
    )
    zoom: float = Field(
        1.0, ge=_SHARE_LEFT, le=1, description="Augmentation: smallest share of the side shown."
    )
    noise: float = Field(
        0.0, ge=0, description="Augmentation: largest added noise, in units of the band's scale."
    )
    blur_pixels: float = Field(
        0.0, ge=0, le=10, description="Augmentation: largest sigma of a Gaussian PSF blur."
    )
    band_dropout: Fraction = Field(
        0.0, description="Augmentation: chance of a band to be missing; one always stays."
    )
    select_fpr: float = Field(
        1e-2,
        gt=0,
        lt=1,
        description="False-positive rate at which the best epoch finds most; where fewer "
        "than 10 of the val split's negatives may pass, the rate at which 10 do.",
    )
    patience: int = Field(
        0, ge=0, description="Stop after so many epochs without a better one; 0: never."
    )
    members: int = Field(1, ge=1, le=1000, description="Models of an ensemble, a seed each.")
    separately: bool = Field(
        False,
        description="An ensemble with models for each of SHARDS alone, instead of one on all.",
    )
    stream: bool = Field(
        False,
        description="Train on fresh mocks in each epoch, as many as the train split has, made on "
        "the way like those of SHARDS; val stays.",
    )
    folds: int = Field(
        0,
        ge=0,
        le=100,
        description="K-fold: models that each leave out one of K parts of train and val, and the "
        "scores of what they left out; 0: splits as they are.",
    )
    init: ModelPath | None = Field(
        None,
        description="Begin with the weights of this model (a file, a folder of `train`, or the "
        "name of one that comes along).",
        json_schema_extra=INPUT,
    )
    new_head: bool = Field(True, description="init: a new last layer, instead of the model's.")
    freeze: int = Field(
        0, ge=0, description="init: keep the weights of the lowest N convolutions and dense layers."
    )
    head_epochs: int = Field(
        0, ge=0, description="init: train only the last layer for so many epochs at first."
    )
    unfreeze_every: int = Field(
        0,
        ge=0,
        description="init: after that, set half of the frozen layers free each so many epochs.",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Learning rate of each layer, as a share of the next higher's."
    )
    ranks: int = Field(
        1, ge=1, le=1024, description="Processes to train with, one GPU each where there are."
    )
    save_every_s: float = Field(
        60.0,
        gt=0,
        description="Seconds between saved training states.",
        json_schema_extra=NO_OUTPUT,
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds = 1 leaves nothing to train on; expected 0, or 2 and more")
        asked = [
            name for name in ("freeze", "head_epochs", "unfreeze_every") if getattr(self, name)
        ]
        if asked and self.init is None:
            raise ValueError(f"{asked[0]} is about trained weights; expected init, too")
        with_stream = [
            name for name in ("balance", "shuffle_block", "folds") if getattr(self, name)
        ]
        if self.stream and with_stream:
            raise ValueError(
                f"stream makes other mocks in each epoch, and {with_stream[0]} parts "
                "those that are there; expected one of them"
            )
        if self.balance and self.lens_weight != 1:
            raise ValueError("balance and lens_weight do the same; expected one of them")
        return self
