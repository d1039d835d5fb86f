"""Surveys: what their files are called and what their pixels mean, as TOML.

A definition in ``surveys/`` and a user's own file are read the same way; nothing about a survey
is code.
"""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lensfinder.errors import RequestError, nearest

Positive = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Files(_Part):
    """How the files of a tile are told from their names.

    `pattern` is a regular expression on the file name with the groups ``tile``, ``band`` and,
    where there are several files a band, ``kind``; `kinds` says what each kind holds.
    """

    pattern: str
    kinds: dict[str, Literal["image", "weight", "mask"]] = {}

    @field_validator("pattern")
    @classmethod
    def _groups(cls, pattern: str) -> str:
        try:
            groups = set(re.compile(pattern).groupindex)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if not {"tile", "band"} <= groups <= {"tile", "band", "kind"}:
            raise ValueError("the pattern needs the groups (?P<tile>…) and (?P<band>…)")
        return pattern

    @model_validator(mode="after")
    def _kinds_told(self) -> Self:
        if ("kind" in re.compile(self.pattern).groupindex) != bool(self.kinds):
            raise ValueError("the group (?P<kind>…) in the pattern and kinds go together")
        return self


class ZeroPoint(_Part):
    """AB zero point: a fixed value, or the header card that holds it."""

    value: float | None = None
    card: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.value is None) == (self.card is None):
            raise ValueError("give either value or card")
        return self


class MaskBits(_Part):
    """Bits of the mask files that spoil a pixel, and the card with the saturation level."""

    saturated: int = 0
    bad: int = 0
    no_data: int = 0
    saturation_card: str | None = None


class Survey(_Part):
    """A survey.

    Attributes
    ----------
    name, title : str
    source : str
        Where its tiles can be had and where these numbers come from.
    pixel_scale_arcsec : float
    bands, default_bands : list of str
        Bands it has; those used unless others are asked for.
    reference_band : str
        Band for detection, magnitude cuts and signal-to-noise.
    psf_fwhm_arcsec : dict of band to float
        Typical FWHM, where a tile says nothing better.
    sky_rms_njy : dict of band to float
        Sky noise of a pixel.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")]
    title: str
    source: str
    pixel_scale_arcsec: Positive
    bands: list[str]
    default_bands: list[str]
    reference_band: str
    files: Files
    zero_point: ZeroPoint
    mask: MaskBits = MaskBits()
    psf_fwhm_arcsec: dict[str, Positive]
    sky_rms_njy: dict[str, Positive]

    @model_validator(mode="after")
    def _bands_described(self) -> Self:
        for band in [*self.default_bands, self.reference_band]:
            if band not in self.bands:
                raise ValueError(f"band '{band}' is not one of {self.bands}")
        for name in ("psf_fwhm_arcsec", "sky_rms_njy"):
            missing = [band for band in self.bands if band not in getattr(self, name)]
            if missing:
                raise ValueError(f"{name} lacks {missing}")
        return self

    def choose_bands(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """Return the asked bands, or the default ones.

        Raises
        ------
        RequestError
            If the survey lacks one of them, or one stands twice.
        """
        for band in asked:
            if band not in self.bands:
                raise RequestError(f"{self.name} has no band '{band}'", f"some of {self.bands}")
        if len(set(asked)) < len(asked):
            raise RequestError(f"bands {','.join(asked)}: one stands there twice")
        return tuple(asked or self.default_bands)

    def reference_of(self, bands: tuple[str, ...]) -> str:
        """Return the reference band, or the middle one of `bands` where it is not among them."""
        return self.reference_band if self.reference_band in bands else bands[len(bands) // 2]


def names() -> list[str]:
    """List the surveys that come with lensfinder."""
    folder = resources.files("lensfinder") / "surveys"
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def load(name: str) -> Survey:
    """Load a survey by name, or from a TOML file.

    Raises
    ------
    RequestError
        If there is none of that name, or the file breaks the rules; all errors at once.
    """
    if name.endswith(".toml"):
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"survey file {name} can't be read: {error}") from error
    elif name in names():
        text = (resources.files("lensfinder") / "surveys" / f"{name}.toml").read_text("utf-8")
    else:
        raise RequestError(
            f"unknown survey '{name}'",
            nearest(name, names()),
            "`lensfinder surveys` lists them; a TOML file of your own works the same.",
        )
    try:
        content: dict[str, Any] = tomllib.loads(text)
        return Survey.model_validate(content)
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"survey {name} can't be read as TOML: {error}") from error
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or 'survey'}: {item['msg']}"
            for item in error.errors()
        ]
        raise RequestError(f"survey {name}:\n  " + "\n  ".join(problems)) from error
