"""The configuration: one frozen model per TOML section, checked before any work starts.

A section has the name of its sub-command and a key the name of its command-line option, so
each key is described once, here. Values come from the defaults below, then the TOML file, then
``--set section.key=value``, then the options; the last one wins. Every error is reported, not
just the first. Relative paths in a TOML file are relative to that file's folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lensfinder.config.cutout import CutoutConfig
from lensfinder.config.fields import Section
from lensfinder.config.infer import InferConfig
from lensfinder.config.report import ReportConfig
from lensfinder.config.run import RunConfig
from lensfinder.config.simulate import SimulateConfig
from lensfinder.config.slurm import SlurmConfig
from lensfinder.config.targets import TargetsConfig
from lensfinder.config.train import TrainConfig
from lensfinder.errors import RequestError, in_words, nearest

__all__ = [
    "STAGES",
    "Config",
    "CutoutConfig",
    "InferConfig",
    "ReportConfig",
    "RunConfig",
    "Section",
    "SimulateConfig",
    "SlurmConfig",
    "TargetsConfig",
    "TrainConfig",
    "load",
    "section_model",
]


class Config(Section):
    """A whole pipeline file."""

    run: RunConfig = RunConfig()
    slurm: SlurmConfig = SlurmConfig()
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
    *,
    recorded: tuple[Mapping[str, Any], Path, Path] | None = None,
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
    recorded : (sections, folder, product), optional
        In place of a file: what stands in a product, and where its paths begin.

    Raises
    ------
    RequestError
        Naming every wrong value and every unknown key with the nearest known one.
    """
    sections_there, base, source = recorded or ({}, None, None)
    given: dict[str, Any] = dict(sections_there)
    if file is not None:
        given, base, source = _read(file), file.parent, file
    unknown = [key for key in given if key not in Config.model_fields]
    problems = [
        f"[{key}]: unknown section; expected {nearest(key, Config.model_fields)}" for key in unknown
    ]
    chosen: dict[str, dict[str, Any]] = {}
    for text in sets:
        section, key, value = _parse_set(text)
        if section in Config.model_fields:
            _set_key(chosen.setdefault(section, {}), key, value, given.get(section))
        else:
            known = nearest(section, Config.model_fields)
            problems.append(f"--set {text}: unknown section '{section}'; expected {known}")
    for section, keys in (options or {}).items():
        chosen.setdefault(section, {}).update(keys)
    sections: dict[str, Any] = {}
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
        where = f"{source}: " if source is not None else ""
        raise RequestError(
            f"{where}{len(problems)} problem{'s' if len(problems) > 1 else ''} in the request\n  "
            + "\n  ".join(problems)
        )
    return Config.model_construct(**sections)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
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


def _set_key(table: dict[str, Any], key: str, value: Any, in_file: Any) -> None:
    """Set `key`; a dotted one, such as ``columns.ra``, in the table inside, beside its others."""
    outer, dot, inner = key.partition(".")
    before = table.get(outer, in_file.get(outer, {}) if isinstance(in_file, dict) else {})
    if dot and isinstance(before, dict):
        table[outer] = {**before, inner: value}
    else:
        table[key] = value


def _describe(section: str, model: type[Section], item: Any) -> str:
    where = ".".join([section, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key; expected {nearest(str(item['loc'][-1]), model.model_fields)}"
    return f"{where}: {in_words(item)}"
