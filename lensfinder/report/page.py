"""The page: one self-contained HTML file out of the report's numbers and pictures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lensfinder.report import document
from lensfinder.report.candidates import printable


@dataclass(frozen=True, slots=True)
class Illustration:
    """A figure of the page.

    Attributes
    ----------
    name, title, caption, alt : str
        Of its file, heading, what it shows, and what one who does not see it should know.
    light_png, dark_png : bytes
        For a light and a dark page.
    """

    name: str
    title: str
    caption: str
    alt: str
    light_png: bytes
    dark_png: bytes


def render(
    content: Mapping[str, Any],
    illustrations: Sequence[Illustration],
    thumbnails: Sequence[bytes | None],
) -> str:
    """Page as HTML text: no remote assets, no inline handlers, everything escaped.

    A content security policy lets only the page's own style sheet and script run, told by their
    sha256, and only embedded pictures load.

    Parameters
    ----------
    content : mapping
        What :func:`lensfinder.report.document.build` made; every number comes from it.
    illustrations : sequence of Illustration
        In the order shown.
    thumbnails : sequence of bytes or None
        PNG of each candidate of ``content["candidates"]["rows"]``, None where there are no pixels.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        Where candidates and thumbnails differ in number.
    """
    rows = content["candidates"]["rows"] if content["candidates"] else []
    if len(rows) != len(thumbnails):
        raise ValueError(f"{len(rows)} candidates, {len(thumbnails)} thumbnails")
    environment = Environment(
        loader=PackageLoader("lensfinder.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "area": document.area,
        "percent": document.percent,
        "power": document.power,
        "interval": document.interval,
        "printable": printable,
        "data_uri": _data_uri,
    }
    return environment.get_template("page.html.j2").render(
        report=content,
        illustrations=illustrations,
        thumbnails=thumbnails,
        # What sorting and filtering go by, in the order of the cards.
        sort_keys=[
            {key: row[key] for key in ("rank", "name", "id", "ra", "dec", "logit", "flags", "mags")}
            for row in rows
        ],
        style_hash=_csp_hash(environment.get_template("page.css").render()),
        script_hash=_csp_hash(environment.get_template("page.js").render()),
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
