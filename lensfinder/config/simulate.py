"""The section ``[simulate]``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from lensfinder.config.fields import (
    INPUT,
    NO_OUTPUT,
    Fraction,
    InputPath,
    Listed,
    NameOrFile,
    OddSize,
    Section,
)


class SimulateConfig(Section):
    """`simulate`: mock lenses and non-lenses, with truth."""

    population: NameOrFile = Field(
        "general",
        description="Population: a recipe by name, or a TOML file of your own.",
        json_schema_extra=INPUT,
    )
    count: int = Field(
        20000,
        ge=1,
        le=2**40,
        description="How many mocks.",
        json_schema_extra={"flag": "-n", **NO_OUTPUT},
    )
    bands: Listed[str] = Field((), description="Bands in order; default: the survey's.")
    size: OddSize = Field(101, description="Side of a stamp in pixels, odd.")
    hosts: InputPath | None = Field(
        None,
        description="Paint on the real galaxies of this cutout folder instead of modelled ones.",
        json_schema_extra=INPUT,
    )
    known: InputPath | None = Field(
        None,
        description="Catalogue of known lenses; hosts within 5 arcsec of one are left out.",
        json_schema_extra=INPUT,
    )
    sources: InputPath | None = Field(
        None,
        description="FITS images of galaxies (a file of many, or a folder) that are ray-traced in "
        "place of modelled sources, each scaled to the size that was drawn for it.",
        json_schema_extra=INPUT,
    )
    source_pixel_arcsec: float | None = Field(
        None,
        gt=0,
        description="Pixel of the source images, arcsec, where their headers don't tell.",
    )
    psf: InputPath | None = Field(
        None,
        description="PSF images instead of round ones: FITS images, cubes or PSFEx models, one "
        "file a band, such as 'psfs/{band}.fits'.",
        json_schema_extra=INPUT,
    )
    sky: InputPath | None = Field(
        None,
        description="Real sky instead of drawn noise: a cutout folder of empty places.",
        json_schema_extra=INPUT,
    )
    truth: InputPath | None = Field(
        None,
        description="Render exactly the systems of this table (Parquet, CSV, ECSV, FITS): a "
        "truth.parquet, or lenses of your own.",
        json_schema_extra={"flag": "--from", **INPUT},
    )
    val_fraction: Fraction = Field(0.1, description="Share of the validation split.")
    test_fraction: Fraction = Field(0.2, description="Share of the test split.")
    unit_size: int = Field(
        2048, ge=64, multiple_of=64, description="Mocks in a shard, a multiple of 64."
    )
    compile: bool = Field(
        False,
        description="Render by compiled kernels: about twice as fast, after half a minute of "
        "compiling that is kept for later runs. Needs numba: pip install 'lensfinder[compile]'.",
    )
    preview: bool = Field(
        False,
        description="Also write preview.png, a mosaic with the truth beneath each stamp.",
        json_schema_extra=NO_OUTPUT,
    )

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        for name, other in (("known", "hosts"), ("source_pixel_arcsec", "sources")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise ValueError(f"{name} is about {other}; expected {other}, too")
        return self

    @model_validator(mode="after")
    def _room_for_training(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction leave nothing to train on")
        return self
