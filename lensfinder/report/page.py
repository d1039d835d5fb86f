"""The page: one self-contained HTML file out of the report's numbers and pictures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lensfinder.catalogs import printable
from lensfinder.report import words
from lensfinder.report.bandpixels import SOFTENING_SIGMA, CodedStamp, shown_bands


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
    stamps: Sequence[CodedStamp | None],
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
    stamps : sequence of CodedStamp or None
        Of each candidate of ``content["candidates"]["rows"]``, None where there are no pixels.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        Where candidates and stamps differ in number.
    """
    rows = content["candidates"]["rows"] if content["candidates"] else []
    if len(rows) != len(stamps):
        raise ValueError(f"{len(rows)} candidates, {len(stamps)} stamps")
    environment = Environment(
        loader=PackageLoader("lensfinder.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "area": words.area,
        "percent": words.percent,
        "power": words.power,
        "interval": words.interval,
        "hours": words.hours,
        "number": words.number,
        "printable": printable,
        "data_uri": _data_uri,
    }
    return environment.get_template("page.html.j2").render(
        report=content,
        illustrations=illustrations,
        stamps=stamps,
        page_data=_page_data(content, rows, stamps),
        style_hash=_csp_hash(environment.get_template("page.css").render()),
        script_hashes=[
            _csp_hash(environment.get_template(name).render())
            for name in ("stretch.js", "grades.js", "page.js")
        ],
    )


def _page_data(
    content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], stamps: Sequence[Any]
) -> dict[str, Any]:
    """What the script needs to sort, stretch and grade, in the order of the cards."""
    listed = ("rank", "name", "id", "ra", "dec", "logit", "flags", "mags", "known")
    bands = content["settings"]["stamp_bands"]
    cards = [
        {
            **{key: row[key] for key in listed},
            "stamp": stamp
            and {
                "low": round(stamp.low, 5),
                "step": round(stamp.step, 7),
                "white": float(f"{stamp.white_sigma:.4g}"),
                "noise": [float(f"{sigma:.4g}") for sigma in stamp.noise_njy],
            },
        }
        for row, stamp in zip(rows, stamps, strict=True)
    ]
    # Grades are kept under a name of their own for each list of candidates.
    identity = hashlib.sha256(
        repr([content["settings"]["model_id"], [row["id"] for row in rows]]).encode()
    )
    return {
        "report": identity.hexdigest()[:16],
        "model_id": content["settings"]["model_id"],
        "bands": bands,
        "channels": shown_bands(len(bands)) if bands else (),
        "softening": SOFTENING_SIGMA,
        "cards": cards,
    }


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
