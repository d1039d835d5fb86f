"""The section ``[run]``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from lensfinder.config.fields import INPUT, NO_OUTPUT, EngineName, NameOrFile, Section


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
    engine: EngineName = Field(
        "local",
        description="serial | local (Dask on this machine) | slurm (its jobs) | ADDRESS or "
        "FILE.json of a Dask scheduler.",
        json_schema_extra=NO_OUTPUT,
    )

    timeout_s: float = Field(
        21_600.0,
        ge=0,
        description="Seconds after which a unit (a tile, a shard) fails with the reason timeout; "
        "0: never.",
        json_schema_extra=NO_OUTPUT,
    )
    workers_timeout_s: float = Field(
        300.0,
        gt=0,
        description="Seconds without any worker after which the run stops, to go on later (exit "
        "code 75).",
        json_schema_extra=NO_OUTPUT,
    )

    @model_validator(mode="after")
    def _known_engine(self) -> Self:
        known = self.engine in ("serial", "local", "slurm")
        if not (known or "://" in self.engine or self.engine.endswith(".json")):
            raise ValueError(
                f"engine '{self.engine}' is unknown; expected serial, local, slurm, the address of "
                "a Dask scheduler such as tcp://127.0.0.1:8786, or its file such as scheduler.json"
            )
        return self
