"""Errors a user can act on: what is wrong, what was expected, what to do.

Library code raises these; only :mod:`lensfinder.cli` prints them and exits with their code.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class LensfinderError(Exception):
    """Base class; every subclass fixes the exit code of the command line.

    Parameters
    ----------
    what : str
        What is wrong, with the value and the file.
    expected : str, optional
        What would have been right.
    remedy : str, optional
        What to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, expected: str = "", remedy: str = "") -> None:
        self.what, self.expected, self.remedy = what, expected, remedy
        parts = [what]
        if expected:
            parts.append(f"expected {expected}")
        super().__init__("; ".join(parts) + (f". {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type[LensfinderError], tuple[str, str, str]]:
        # Exceptions travel from Dask workers by pickle, which would pass the joined text alone.
        return type(self), (self.what, self.expected, self.remedy)


class RequestError(LensfinderError):
    """The request is wrong: usage, config, or an input that can't be used (exit 2)."""

    exit_code = 2


class UnitError(LensfinderError):
    """One unit of work can't be done: its input is damaged (exit 3, or 2 if it is the only one).

    Parameters
    ----------
    reason : str
        A reason code for the ledger, such as ``truncated`` or ``no_wcs``.
    what, expected, remedy : str
        As in :class:`LensfinderError`.
    """

    exit_code = 3

    def __init__(self, reason: str, what: str, expected: str = "", remedy: str = "") -> None:
        super().__init__(what, expected, remedy)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnitError], tuple[str, str, str, str]]:  # type: ignore[override]
        return type(self), (self.reason, self.what, self.expected, self.remedy)


class MismatchError(LensfinderError):
    """Products disagree: bands, pixel scale, model, fingerprint, leakage (exit 4)."""

    exit_code = 4


class DiskError(LensfinderError):
    """The disk is full or can't be written (exit 74)."""

    exit_code = 74


class Interrupted(LensfinderError):
    """Stopped by a signal; the same command goes on from here (exit 75)."""

    exit_code = 75


def printable(text: str) -> str:
    """Keep escape codes of a hostile file name or id out of the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" or unicodedata.category(c) == "Zs" else repr(c)[1:-1]
        for c in text
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names there are, the most similar one first.

    Returns
    -------
    str
        ``"'lensnet'"`` if one is close to `name`, else ``"one of 'a', 'b'"``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"'{close[0]}'" if close else "one of " + ", ".join(f"'{n}'" for n in names)


# What pydantic calls its complaints, in our words.
_EXPECTED = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "multiple_of": "a multiple of {multiple_of:g}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    **dict.fromkeys(("int_parsing", "int_parsing_size", "int_type"), "a whole number"),
    "int_from_float": "a whole number",
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("string_type", "string_unicode"), "text"),
    "string_pattern_mismatch": "text that matches {pattern}",
    "path_type": "a path",
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a table"),
    "too_short": "{min_length} or more values",
    "too_long": "{max_length} or fewer values",
    "missing": "a value; it is missing",
}


def in_words(problem: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, as pydantic found it: its type, and what was expected.

    Parameters
    ----------
    problem : mapping
        One of ``ValidationError.errors()``.

    Returns
    -------
    str
        ``"expected 1 or more (got 0)"``.
    """
    expected = _EXPECTED.get(problem["type"])
    said = (
        str(problem["msg"]).removeprefix("Value error, ")
        if expected is None
        else "expected " + expected.format(**problem.get("ctx", {}))
    )
    # A table as a whole says nothing of the part that is wrong or missing.
    whole = isinstance(problem["input"], dict) and problem["type"] in ("missing", "value_error")
    return said if whole or not problem["loc"] else f"{said} (got {problem['input']!r})"


def counted(number: int, what: str) -> str:
    """Count in words: ``"1 object"``, ``"2 objects"``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
