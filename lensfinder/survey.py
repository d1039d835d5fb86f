"""Surveys: what their files are called and what their pixels mean, as TOML.

A definition in ``surveys/`` and a user's own file are read the same way; nothing about a survey
is code.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lensfinder.errors import RequestError, in_words, nearest

Positive = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Kind = Literal["image", "weight", "variance", "rms", "mask", "psf"]
# Kinds that tell a pixel's noise; a band has at most one of them.
NOISE_KINDS: tuple[Kind, ...] = ("weight", "variance", "rms")
# Bits of a mask: their sum, or a list of bit numbers and of names in the mask's header
# (``"SAT"`` is bit MP_SAT; with a question mark, ``"CLIPPED?"``, it may be missing).
Bits = int | list[int | str]


class Files(_Part):
    """Where the planes of a tile stand.

    `pattern` is a regular expression on the file name with the group ``tile`` and, where there are
    several files, ``band`` and ``kind``; a file without a band serves all bands. `kinds` says what
    each kind holds ("" where the group is missing). `hdus` says which HDU of its file a kind is,
    by number or EXTNAME (``"{band}_RMS"``); without it, a file must hold one image. `band_names`
    are the survey's own words for bands in names of files and HDUs. `cube` lists the bands of the
    first axis of a cube. With `chips`, each image of a file is a tile of its own, as the CCDs of
    a camera are. `band_cards` are header cards that name the filter: an image that names
    another band than its file is refused.
    """

    pattern: str
    kinds: dict[str, Kind] = {}
    hdus: dict[Kind, int | str] = {}
    band_names: dict[str, str] = {}
    cube: list[str] = []
    chips: bool = False
    band_cards: list[str] = ["FILTER", "BAND"]

    @field_validator("pattern")
    @classmethod
    def _groups(cls, pattern: str) -> str:
        try:
            groups = set(re.compile(pattern).groupindex)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        known = {"tile", "band", "kind"}
        if "tile" not in groups:
            raise ValueError("the pattern needs the groups (?P<tile>…) and (?P<band>…)")
        if not groups <= known:
            strange = ", ".join(sorted(groups - known))
            raise ValueError(f"the pattern has a group {strange}; expected tile, band and kind")
        return pattern

    @model_validator(mode="after")
    def _kinds_told(self) -> Self:
        if ("kind" in re.compile(self.pattern).groupindex) != bool(self.kinds):
            raise ValueError("the group (?P<kind>…) in the pattern and kinds go together")
        if self.hdus and "image" not in self.hdus and not self.kinds:
            raise ValueError("hdus says where other planes are, but not the image")
        return self

    def kinds_of(self, word: str | None) -> list[Kind]:
        """List what a file holds, by the word for its kind in its name; nothing if unknown."""
        if self.kinds:
            return [self.kinds[word or ""]] if (word or "") in self.kinds else []
        return list(self.hdus) or ["image"]

    def hdu_of(self, kind: Kind, band: str) -> int | str | None:
        """Say which HDU of its file a plane is; None: the only image."""
        hdu = self.hdus.get(kind)
        if isinstance(hdu, str):
            return hdu.replace("{band}", self.band_names.get(band, band))
        return hdu

    def band_of(self, word: str) -> str:
        """Translate a band's name in a file's name."""
        return next((band for band, name in self.band_names.items() if name == word), word)


class ZeroPoint(_Part):
    """AB zero point of the image's numbers, and their unit.

    `value` is the magnitude of 1 (for all bands, or for each); or `card` is the header card that
    holds it; or `flux_card` the one with the flux of magnitude 0. Cards are looked for in the
    image's header and in the primary one. A file whose BUNIT is not `unit` is refused.
    """

    value: float | dict[str, float] | None = None
    card: str | None = None
    flux_card: str | None = None
    unit: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if [self.value, self.card, self.flux_card].count(None) != 2:
            raise ValueError("give either value or card or flux_card")
        return self


class MaskBits(_Part):
    """What spoils a pixel.

    Bits of the mask plane, for all bands or for each (`Bits`); or, where `codes` is true, whole
    values of it. `saturation_card` holds the level from which the image is saturated;
    `no_data_value` is the number that stands in the image where there is no data.
    """

    saturated: Bits | dict[str, Bits] = 0
    bad: Bits | dict[str, Bits] = 0
    no_data: Bits | dict[str, Bits] = 0
    codes: bool = False
    saturation_card: str | None = None
    no_data_value: float | None = None

    @property
    def names_bits(self) -> bool:
        """Whether any number of a mask plane spoils a pixel."""
        return any((self.saturated, self.bad, self.no_data))


class Psf(_Part):
    """Where the FWHM of a tile's PSF stands: a header card of the PSF, the image or the file."""

    card: str | None = None
    unit: Literal["arcsec", "pix"] = "arcsec"


class Dust(_Part):
    """Extinction by the Milky Way's dust: magnitudes in each band for E(B-V) = 1, and whence."""

    coefficients: dict[str, Positive]
    source: str


class Survey(_Part):
    """A survey.

    Attributes
    ----------
    name, title : str
    stamps : bool
        Its files are stamps, an object each, rather than tiles; the group ``tile`` is its id.
    stretched : bool
        Pixels are a stretched picture rather than fluxes.
    source : str
        Where its tiles can be had and where these numbers come from.
    pixel_scale_arcsec : float
    reference_pixel_inside : bool
        A tile's WCS has its reference pixel inside the image. Where it has not, the image may be a
        cutout that kept its tile's header, and it is said.
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
    stamps: bool = False
    stretched: bool = False
    pixel_scale_arcsec: Positive
    reference_pixel_inside: bool = False
    bands: list[str]
    default_bands: list[str]
    reference_band: str
    files: Files
    zero_point: ZeroPoint
    mask: MaskBits = MaskBits()
    psf: Psf = Psf()
    dust: Dust | None = None
    psf_fwhm_arcsec: dict[str, Positive]
    sky_rms_njy: dict[str, Positive]

    @model_validator(mode="after")
    def _bands_described(self) -> Self:
        for band in [*self.default_bands, self.reference_band]:
            if band not in self.bands:
                raise ValueError(f"band '{band}' is not one of {self.bands}")
        files = self.files
        told = (
            "band" in re.compile(files.pattern).groupindex
            or "{band}" in str(files.hdus.get("image", ""))
            or set(files.cube) >= set(self.bands)
        )
        if not told and len(self.bands) > 1:
            raise ValueError(
                "the pattern needs the groups (?P<tile>…) and (?P<band>…), "
                "or hdus or cube must tell the bands apart"
            )
        by_band: dict[str, Any] = {
            "psf_fwhm_arcsec": self.psf_fwhm_arcsec,
            "sky_rms_njy": self.sky_rms_njy,
            "zero_point.value": self.zero_point.value,
            "dust.coefficients": self.dust.coefficients if self.dust else None,
            **{
                f"mask.{name}": getattr(self.mask, name) for name in ("no_data", "saturated", "bad")
            },
        }
        for name, value in by_band.items():
            if not isinstance(value, Mapping):
                continue
            strange = sorted(set(value) - set(self.bands))
            if strange:
                raise ValueError(f"{name} has {strange}, which are no bands")
            missing = [band for band in self.bands if band not in value]
            # What a survey says nothing of spoils no pixel, and dims no light.
            if missing and not name.startswith(("dust", "mask")):
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

    def bands_named(self, words: str) -> set[str]:
        """List the bands that a header's words name: ``"z DECam SDSS c0004"`` names z."""
        said = {word.casefold() for word in (words.strip(), *re.split(r"[^A-Za-z0-9]+", words))}
        names = self.files.band_names
        return {b for b in self.bands if said & {b.casefold(), names.get(b, b).casefold()}}

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
            f"{'.'.join(map(str, item['loc'])) or 'survey'}: {_describe(item)}"
            for item in error.errors()
        ]
        raise RequestError(f"survey {name}:\n  " + "\n  ".join(problems)) from error


def _describe(problem: Any) -> str:
    if problem["type"] != "extra_forbidden":
        return in_words(problem)
    *tables, key = map(str, problem["loc"])
    parts: dict[str, type[_Part]] = {
        "files": Files,
        "zero_point": ZeroPoint,
        "mask": MaskBits,
        "psf": Psf,
        "dust": Dust,
    }
    known: type[_Part] = parts[tables[0]] if tables else Survey
    return f"unknown key; expected {nearest(key, known.model_fields)}"
