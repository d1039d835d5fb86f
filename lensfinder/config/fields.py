"""What sections of the configuration are made of: types of keys, and their base class."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import time
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic.config import JsonDict

from lensfinder import shipped


def _resolve(path: Path, info: ValidationInfo) -> Path:
    # `Path` has folded the two slashes of http:// into one.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ValueError("a local path is expected, not a URL")
    base = (info.context or {}).get("base")
    return path if base is None or path.is_absolute() else Path(base) / path


def _resolve_model(path: Path, info: ValidationInfo) -> Path:
    known = shipped.model_path(path)
    return known if known != path else _resolve(path, info)


def _resolve_name(name: str, info: ValidationInfo) -> str:
    return str(_resolve(Path(name), info)) if name.endswith(".toml") else name


def _resolve_engine(name: str, info: ValidationInfo) -> str:
    is_file = name.endswith(".json") and "://" not in name
    return str(_resolve(Path(name), info)) if is_file else name


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (value,) if isinstance(value, (Path, int, float)) else value


def _split_paths(value: object, info: ValidationInfo) -> object:
    """Take a text that names something for one path, commas and all."""
    if isinstance(value, str):
        base = Path((info.context or {}).get("base") or "")
        return (value,) if os.path.exists(base / value) else _split(value)
    return _split(value)


def _split_options(value: object) -> object:
    """Options of another program may hold commas: the next one begins with a dash."""
    if isinstance(value, str):
        return tuple(part.strip() for part in re.split(r",\s*(?=-)", value) if part.strip())
    return value


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"{value} is even; a stamp has a central pixel, so its size is odd")
    return value


_T = TypeVar("_T")
InputPath = Annotated[Path, AfterValidator(_resolve)]
# A file, a folder of `train`, or the name of a model that comes along.
ModelPath = Annotated[Path, AfterValidator(_resolve_model)]
NameOrFile = Annotated[str, AfterValidator(_resolve_name)]
EngineName = Annotated[str, AfterValidator(_resolve_engine)]
Listed = Annotated[tuple[_T, ...], BeforeValidator(_split)]
ListedPaths = Annotated[tuple[_T, ...], BeforeValidator(_split_paths)]
ListedOptions = Annotated[tuple[str, ...], BeforeValidator(_split_options)]
OddSize = Annotated[int, Field(ge=9, le=1023), AfterValidator(_odd)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]

# What a key means beside its type, read by `fingerprint` and by the command line.
INPUT: JsonDict = {"input": True}  # names an input; its content counts, not its name
POSITIONAL: JsonDict = {"input": True, "positional": True}
NO_OUTPUT: JsonDict = {"no_output": True}  # cannot change a product


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, given: Any) -> Any:
        """Take 04:00:00, which is a time in TOML, for the text that it is here."""
        if not isinstance(given, dict):
            return given
        return {k: v.isoformat() if isinstance(v, time) else v for k, v in given.items()}

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
