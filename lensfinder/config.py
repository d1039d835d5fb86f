"""The configuration: one frozen model per TOML section, checked before any work starts.

A section has the name of its sub-command and a key the name of its command-line option, so
each key is described once, here. Values come from the defaults below, then the TOML file, then
``--set section.key=value``, then the options; the last one wins. Every error is reported, not
just the first. Relative paths in a TOML file are relative to that file's folder.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.config import JsonDict

from lensfinder.errors import RequestError, nearest


def _resolve(path: Path, info: ValidationInfo) -> Path:
    # `Path` has folded the two slashes of http:// into one.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ValueError("a local path is expected, not a URL")
    base = (info.context or {}).get("base")
    return path if base is None or path.is_absolute() else Path(base) / path


def _resolve_name(name: str, info: ValidationInfo) -> str:
    return str(_resolve(Path(name), info)) if name.endswith(".toml") else name


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (value,) if isinstance(value, (Path, int, float)) else value


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"{value} is even; a stamp has a central pixel, so its size is odd")
    return value


_T = TypeVar("_T")
InputPath = Annotated[Path, AfterValidator(_resolve)]
NameOrFile = Annotated[str, AfterValidator(_resolve_name)]
Listed = Annotated[tuple[_T, ...], BeforeValidator(_split)]
OddSize = Annotated[int, Field(ge=9, le=1023), AfterValidator(_odd)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]

# What a key means beside its type, read by `fingerprint` and by the command line.
_INPUT: JsonDict = {"input": True}  # names an input; its content counts, not its name
_POSITIONAL: JsonDict = {"input": True, "positional": True}
_NO_OUTPUT: JsonDict = {"no_output": True}  # cannot change a product


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def fingerprint(self) -> dict[str, Any]:
        """Return the keys that change a product, apart from inputs (a unit adds their identity)."""
        dumped = self.model_dump(mode="json")
        return {name: dumped[name] for name, extra in self.extras() if not extra}

    @classmethod
    def extras(cls) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each key with what is said of it beside its type."""
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            yield (
                name,
                {
                    key: value
                    for key, value in (extra.items() if isinstance(extra, dict) else ())
                    if key != "flag"
                },
            )


class RunConfig(Section):
    """What all stages share."""

    seed: int = Field(1, ge=0, le=2**63 - 1, description="Seed of all random numbers.")
    survey: NameOrFile = Field(
        "kids",
        description="Survey: a name that `lensfinder surveys` lists, or a TOML file of your own.",
        json_schema_extra=_INPUT,
    )
    workers: int = Field(
        0,
        ge=0,
        le=4096,
        description="Worker processes; 0: one per core.",
        json_schema_extra=_NO_OUTPUT,
    )
    engine: str = Field(
        "local",
        description="serial | local (Dask on this machine) | ADDRESS of a Dask scheduler.",
        json_schema_extra=_NO_OUTPUT,
    )

    @model_validator(mode="after")
    def _known_engine(self) -> Self:
        if self.engine not in ("serial", "local") and "://" not in self.engine:
            raise ValueError(
                f"engine '{self.engine}' is unknown; expected serial, local or the address of a "
                "Dask scheduler such as tcp://127.0.0.1:8786"
            )
        return self


class TargetsConfig(Section):
    """Which objects of which tiles: shared by `cutout` and by `infer` on tiles."""

    catalog: InputPath | None = Field(
        None,
        description="Targets with id, ra, dec (CSV, ECSV, FITS, VOTable, Parquet). "
        "Without one, targets are detected.",
        json_schema_extra=_INPUT,
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="Catalogue columns under unusual names, {ra = 'RAdeg'}."
    )
    bands: Listed[str] = Field((), description="Bands in order; default: the survey's.")
    size: OddSize = Field(101, description="Side of a stamp in pixels, odd.")
    mag_min: float = Field(-99.0, description="Brightest target magnitude (reference band).")
    mag_max: float = Field(99.0, description="Faintest target magnitude (reference band).")
    ranges: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="Targets only within these ranges of columns or their differences, "
        "{mag_r = [17, 21], 'mag_g-mag_r' = [0.5, 2]}.",
    )
    selection: Literal["all", "lrg-petrillo2017"] = Field(
        "all", description="A colour cut by name: luminous red galaxies as in Petrillo+ 2017."
    )
    deredden: bool = Field(
        True, description="Take extinction_<band> off mag_<band>, where the catalogue has both."
    )
    detect_sigma: float = Field(
        2.0, gt=0, description="Detection: threshold above the sky in units of its rms."
    )
    detect_bands: Listed[str] = Field(
        (),
        description="Detection: on this band, or on the mean of these bands weighted by depth; "
        "default: the reference band.",
    )
    detect_pixels: int = Field(9, ge=1, description="Detection: connected pixels above it.")
    detect_size_ratio: float = Field(
        1.15,
        ge=0,
        description="Detection: half-light radius over the PSF's, below which it is a star; "
        "0 keeps stars.",
    )
    max_bad_fraction: Fraction = Field(
        0.5, description="Reject a target with more than this fraction of masked pixels."
    )


class CutoutConfig(TargetsConfig):
    """`cutout`: FITS tiles to stamps."""

    tiles: Listed[InputPath] = Field(
        (), description="FITS files, or folders of them.", json_schema_extra=_POSITIONAL
    )
    variance: bool = Field(False, description="Store the variance of each pixel, too.")
    missing_band: Literal["reject", "mask"] = Field(
        "reject",
        description="A tile without one of the bands is rejected, or that band is NaN and masked.",
    )


class SimulateConfig(Section):
    """`simulate`: mock lenses and non-lenses, with truth."""

    population: NameOrFile = Field(
        "general",
        description="Population: a recipe by name, or a TOML file of your own.",
        json_schema_extra=_INPUT,
    )
    count: int = Field(
        20000,
        ge=1,
        le=2**40,
        description="How many mocks.",
        json_schema_extra={"flag": "-n", **_NO_OUTPUT},
    )
    bands: Listed[str] = Field((), description="Bands in order; default: the survey's.")
    size: OddSize = Field(101, description="Side of a stamp in pixels, odd.")
    hosts: InputPath | None = Field(
        None,
        description="Paint on the real galaxies of this cutout folder instead of modelled ones.",
        json_schema_extra=_INPUT,
    )
    known: InputPath | None = Field(
        None,
        description="Catalogue of known lenses; hosts within 5 arcsec of one are left out.",
        json_schema_extra=_INPUT,
    )
    val_fraction: Fraction = Field(0.1, description="Share of the validation split.")
    test_fraction: Fraction = Field(0.2, description="Share of the test split.")
    unit_size: int = Field(
        2048, ge=64, multiple_of=64, description="Mocks in a shard, a multiple of 64."
    )
    preview: bool = Field(
        False,
        description="Also write preview.png, a mosaic with the truth beneath each stamp.",
        json_schema_extra=_NO_OUTPUT,
    )

    @model_validator(mode="after")
    def _room_for_training(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction leave nothing to train on")
        return self


class TrainConfig(Section):
    """`train`: shards to a model."""

    shards: Listed[InputPath] = Field(
        (), description="Folders of mock or labelled shards.", json_schema_extra=_POSITIONAL
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
        json_schema_extra=_NO_OUTPUT,
    )


class InferConfig(TargetsConfig):
    """`infer`: score stamps, or tiles straight away."""

    inputs: Listed[InputPath] = Field(
        (),
        description="Cutout or mock folders, shards, or FITS tiles.",
        json_schema_extra=_POSITIONAL,
    )
    model: InputPath | None = Field(
        None, description="Model file, or the folder `train` wrote.", json_schema_extra=_INPUT
    )
    splits: Listed[Literal["train", "val", "test"]] = Field(
        ("test",), description="Splits of labelled shards to score."
    )
    views: Literal[1, 8] = Field(1, description="Average over 8 flips and rotations, or not.")
    batch_size: int = Field(
        256, ge=1, description="Stamps in a forward pass.", json_schema_extra=_NO_OUTPUT
    )
    candidates: int = Field(
        2000,
        ge=0,
        description="Best-ranked stamps kept in candidates.h5.",
        json_schema_extra=_NO_OUTPUT,
    )


class ReportConfig(Section):
    """`report`: scores to thresholds, candidates and a page."""

    scores: Listed[InputPath] = Field(
        (), description="Score folders with labels (mocks).", json_schema_extra=_POSITIONAL
    )
    sky: InputPath | None = Field(
        None,
        description="Score folder of the unlabelled sky, to take candidates from.",
        json_schema_extra=_INPUT,
    )
    known: InputPath | None = Field(
        None,
        description="Catalogue of known lenses, for recall and ranks.",
        json_schema_extra=_INPUT,
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
        json_schema_extra=_NO_OUTPUT,
    )


class Config(Section):
    """A whole pipeline file."""

    run: RunConfig = RunConfig()
    cutout: CutoutConfig = CutoutConfig()
    simulate: SimulateConfig = SimulateConfig()
    train: TrainConfig = TrainConfig()
    infer: InferConfig = InferConfig()
    report: ReportConfig = ReportConfig()


STAGES = ("cutout", "simulate", "train", "infer", "report")


def section_model(name: str) -> type[Section]:
    """Return the model of a section of `Config`."""
    return type(getattr(Config(), name))


def load(
    file: Path | None = None,
    sets: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """Put a configuration together and check all of it.

    Parameters
    ----------
    file : Path, optional
        TOML file.
    sets : sequence of str
        ``section.key=value`` each, the value as in TOML (bare text is taken as text); given on
        the command line, so that paths are relative to where it was given.
    options : mapping of section to {key: value}
        What the command line gave; wins over the rest.

    Raises
    ------
    RequestError
        Naming every wrong value and every unknown key with the nearest known one.
    """
    given: dict[str, Any] = _read(file) if file is not None else {}
    unknown = [key for key in given if key not in Config.model_fields]
    problems = [
        f"[{key}]: unknown section; expected {nearest(key, Config.model_fields)}" for key in unknown
    ]
    chosen: dict[str, dict[str, Any]] = {}
    for text in sets:
        section, key, value = _parse_set(text)
        if section in Config.model_fields:
            _set_key(chosen.setdefault(section, {}), key, value)
        else:
            known = nearest(section, Config.model_fields)
            problems.append(f"--set {text}: unknown section '{section}'; expected {known}")
    for section, keys in (options or {}).items():
        chosen.setdefault(section, {}).update(keys)
    sections: dict[str, Any] = {}
    base = file.parent if file is not None else None
    for name in Config.model_fields:
        model, table = section_model(name), given.get(name, {})
        if not isinstance(table, dict):
            problems.append(f"[{name}]: expected a table")
            continue
        try:
            sections[name] = model.model_validate(table, context={"base": base})
        except ValidationError as error:
            problems += [_describe(name, model, item) for item in error.errors()]
            # What the command line says is checked all the same, so that all errors stand there.
            sections[name] = model()
        try:
            if name in chosen:
                kept = {
                    key: getattr(sections[name], key) for key in sections[name].model_fields_set
                }
                sections[name] = model.model_validate({**kept, **chosen[name]})
        except ValidationError as error:
            problems += [_describe(name, model, item) for item in error.errors()]
    if problems:
        where = f"{file}: " if file is not None else ""
        raise RequestError(
            f"{where}{len(problems)} problem{'s' if len(problems) > 1 else ''} in the request\n  "
            + "\n  ".join(problems)
        )
    return Config.model_construct(**sections)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"no such file: {file}", "a TOML configuration") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{file} can't be read as TOML: {error}") from error


def _parse_set(text: str) -> tuple[str, str, Any]:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise RequestError(f"--set {text}", "section.key=value, such as train.epochs=5")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return section, key, value.strip()
    # More than one key: the text held a line break, and is text.
    return section, key, parsed["value"] if len(parsed) == 1 else value.strip()


def _set_key(table: dict[str, Any], key: str, value: Any) -> None:
    """Set `key`; a dotted one, such as ``columns.ra``, in the table inside."""
    outer, dot, inner = key.partition(".")
    if dot and isinstance(table.get(outer, {}), dict):
        table[outer] = {**table.get(outer, {}), inner: value}
    else:
        table[key] = value


def _describe(section: str, model: type[Section], item: Any) -> str:
    where = ".".join([section, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key; expected {nearest(str(item['loc'][-1]), model.model_fields)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" + (
        f" (got {item['input']!r})" if item["loc"] and not isinstance(item["input"], dict) else ""
    )
