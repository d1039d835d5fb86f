"""The section ``[run]``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from lensfinder.config.fields import INPUT, NO_OUTPUT, NameOrFile, Section


class RunConfig(Section):
    """What all stages share."""

    seed: int = Field(1, ge=0, le=2**63 - 1, description="Seed of all random numbers.")
    survey: NameOrFile = Field(
        "kids",
        description="Survey: a name that `lensfinder surveys` lists, or a TOML file of your own.",
        json_schema_extra=INPUT,
    )
    workers: int = Field(
        0,
        ge=0,
        le=4096,
        description="Worker processes; 0: one per core.",
        json_schema_extra=NO_OUTPUT,
    )
    engine: str = Field(
        "local",
        description="serial | local (Dask on this machine) | slurm (its jobs) | ADDRESS of a Dask "
        "scheduler.",
        json_schema_extra=NO_OUTPUT,
    )

    @model_validator(mode="after")
    def _known_engine(self) -> Self:
        if self.engine not in ("serial", "local", "slurm") and "://" not in self.engine:
            raise ValueError(
                f"engine '{self.engine}' is unknown; expected serial, local, slurm or the address "
                "of a Dask scheduler such as tcp://127.0.0.1:8786"
            )
        return self
