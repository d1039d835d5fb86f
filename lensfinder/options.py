"""A stage's command-line options, made from its configuration section."""

from __future__ import annotations

import inspect
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from lensfinder.config import Section

# What each stage does, and a command to begin with.
EXAMPLES = {
    "cutout": (
        "Cut stamps of targets out of survey tiles.",
        "lensfinder cutout tiles/ -o cutouts --survey kids --catalog targets.csv --bands g,r,i",
    ),
    "simulate": (
        "Make mock lenses and non-lenses, with truth.",
        "lensfinder simulate -o mocks --survey kids -n 20000 --size 61 --preview",
    ),
    "train": (
        "Train a network on mock or labelled shards.",
        "lensfinder train mocks -o model --network lensnet --epochs 20",
    ),
    "infer": (
        "Score stamps, or tiles straight away, with a trained model.",
        "lensfinder infer cutouts -o scores --model model",
    ),
    "report": (
        "Turn scores into thresholds, candidates and a page to look at.",
        "lensfinder report scores-mocks -o report --sky scores-sky",
    ),
}


def _option_type(annotation: Any) -> type:
    """Choose the command line's type for a key: lists and choices are given as text."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
        return _option_type(annotation)
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0])
    return annotation if annotation in (int, float, bool, Path) else str


def options_of(section: str, model: type[Section]) -> list[inspect.Parameter]:
    """Make an option of each key that is no table; its parameter is called ``section__key``."""
    made = []
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        kind = _option_type(field.annotation)
        if get_origin(field.annotation) is dict:
            continue  # a table is given in TOML, or key by key with --set
        help_text = field.description or ""
        annotation: Any
        if extra.get("positional"):
            annotation = Annotated[
                list[Path] | None, typer.Argument(metavar=f"{name.upper()}...", help=help_text)
            ]
        else:
            if field.default not in (None, (), "") and kind is not bool:
                shown = field.default
                shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else shown
                help_text += f" [default: {shown}]"
            dashed = name.replace("_", "-")
            flags = [*([str(extra["flag"])] if "flag" in extra else []), f"--{dashed}"]
            if kind is bool:
                flags[-1] += f"/--no-{dashed}"
                help_text += f" [default: {'on' if field.default else 'off'}]"
            # Given once for each of several, rather than as one text with commas.
            given = list[Path] | None if extra.get("several") else kind | None
            annotation = Annotated[given, typer.Option(*flags, help=help_text, show_default=False)]
        made.append(
            inspect.Parameter(
                f"{section}__{name}",
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=annotation,
            )
        )
    return made
