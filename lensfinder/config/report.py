"""The section ``[report]``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensfinder.config.fields import (
    INPUT,
    NO_OUTPUT,
    POSITIONAL,
    InputPath,
    Listed,
    ListedPaths,
    Section,
)


class ReportConfig(Section):
    """`report`: scores to thresholds, candidates and a page."""

    scores: ListedPaths[InputPath] = Field(
        (), description="Score folders with labels (mocks).", json_schema_extra=POSITIONAL
    )
    sky: InputPath | None = Field(
        None,
        description="Score folder of the unlabelled sky, to take candidates from.",
        json_schema_extra=INPUT,
    )
    known: InputPath | None = Field(
        None,
        description="Catalogue of known lenses, for recall and ranks.",
        json_schema_extra=INPUT,
    )
    fpr: Listed[Annotated[float, Field(gt=0, lt=1)]] = Field(
        (1e-2, 1e-3, 1e-4), description="False-positive rates to set thresholds for."
    )
    prevalence: Annotated[float, Field(gt=0, lt=1)] = Field(
        1e-4, description="Share of lenses among the targets, for the purity."
    )
    name_prefix: str = Field(
        "LF", pattern=r"^[A-Za-z0-9 _-]{0,16}$", description="Prefix of candidates' names."
    )
    area_deg2: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Solid angle of the sky's scores; default: from how far the targets reach.",
    )
    inspect_per_hour: float = Field(
        500.0, gt=0, description="Candidates that a person grades in an hour."
    )
    inspect_hours: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Hours to be spent on grading: also set the threshold they pay for."
    )
    sky_fraction: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="Share of each kind of negative on the sky, {spiral = 0.3}, for an FPR in the "
        "sky's proportions; default: the scores' column sky_fraction, where there is one.",
    )
    write_model: InputPath | None = Field(
        None,
        description="Model file, or the folder `train` wrote, to write the thresholds into.",
        json_schema_extra=NO_OUTPUT,
    )
