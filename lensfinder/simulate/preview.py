"""A mosaic of stamps to look at, in several stretches, with the truth beneath each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lensfinder.simulate.composite import WHITE

STRETCHES = ("arcsinh", "sqrt", "linear")
_WEIGHTS = (0.75, 1.0, 1.6)  # red, green, blue
# White is the level that this share of a stamp's pixels stays below, but never less than so many
# times its noise: a bright galaxy does not drown its surroundings, a faint one shows its noise.
_WHITE_QUANTILE = 0.998
_LEAST_WHITE = {"arcsinh": 40.0, "sqrt": 25.0, "linear": 12.0}
_LINEAR_WHITE = 0.25  # of white: what is faint beside a core is seen in the linear stretch
_ARCSINH_SOFTENING = 8.0  # in units of the noise
_GREY_BELOW = 3.0  # likewise


def compose(image_CYX: np.ndarray, sky_rms_njy_C: np.ndarray, stretch: str) -> np.ndarray:
    """Colour (or grey) picture of a stamp.

    The three bands share one stretch of their mean, so that colours keep their ratios (Lupton et
    al. 2004, PASP 116, 133), and are weighted so that a galaxy between red and blue looks white.

    Parameters
    ----------
    image_CYX : nJy, bands from blue to red; first, middle and last make blue, green and red
    sky_rms_njy_C : noise of a pixel; the stretch is in units of the middle band's
    stretch : one of `STRETCHES`

    Returns
    -------
    rgb_YX3 : in [0, 1]
    """
    bands = len(image_CYX)
    chosen = [bands - 1, bands // 2, 0]
    flux = np.nan_to_num(image_CYX[chosen]) / sky_rms_njy_C[bands // 2]
    scaled = flux * np.array(_WEIGHTS)[:, None, None] if bands > 1 else flux
    mean = np.clip(scaled.mean(axis=0), 1e-3, None)
    white = max(float(np.quantile(mean, _WHITE_QUANTILE)), _LEAST_WHITE[stretch])
    if stretch == "arcsinh":
        soft = _ARCSINH_SOFTENING
        bright = np.arcsinh(mean / soft) / np.arcsinh(white / soft)
    elif stretch == "sqrt":
        bright = np.sqrt(mean / white)
    else:
        bright = mean / max(_LINEAR_WHITE * white, _LEAST_WHITE[stretch])
    # What is no brighter than the noise has no colour of its own: shown grey.
    told = mean / (mean + _GREY_BELOW)
    hue = told * np.clip(scaled, 0, None) / mean + (1 - told)
    rgb = hue * np.minimum(bright, 1)
    # Where one colour would overflow, all are scaled: a bright core keeps its hue.
    rgb = rgb / np.maximum(rgb.max(axis=0), 1)
    result: np.ndarray = np.moveaxis(rgb, 0, -1)
    return result


def choose(kind_N: np.ndarray, lenses: int, each: int) -> list[np.ndarray]:
    """Rows worth a look: some lenses, then some of each kind of negative, by name."""
    parts = [np.flatnonzero(kind_N == "lens")[:lenses]]
    parts += [np.flatnonzero(kind_N == kind)[:each] for kind in sorted({*kind_N} - {"lens"})]
    return [part for part in parts if len(part)]


def caption(truth: Mapping[str, Any], band: str) -> str:
    """Two short lines about a mock."""
    magnitude = truth[f"mag_{band}"]
    first = f"{band} {magnitude:.1f}" if np.isfinite(magnitude) else ""
    if truth["kind"] == "lens":
        return (
            f"{first}  z {truth['z_lens']:.2f}, {truth['z_source']:.2f}\n"
            f"θE {truth['theta_e_arcsec']:.2f}″  S/N {truth['source_snr']:.0f}"
        )
    second = str(truth["artefact"]).replace("_", " ") if truth["kind"] == "artefact" else ""
    return f"{first}\n{second}"


def write_mosaic(
    path: Path,
    image_NCHW: np.ndarray,
    columns: Mapping[str, np.ndarray],
    bands: tuple[str, ...],
    *,
    reference_band: str,
    pictures: bool = False,
    most_across: int = 10,
    lines_of_lenses: int = 3,
) -> None:
    """Write a PNG: lines of lenses, then a line of each kind of negative, in every stretch.

    Parameters
    ----------
    image_NCHW : nJy
    columns : truth, with kind, theta_e_arcsec, source_snr and sky_rms_<band>_njy
    pictures : the stamps are composites already, and shown as they are
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = choose(columns["kind"], lines_of_lenses * most_across, most_across)
    # A few are shown larger.
    across = min(most_across, max(len(part) for part in chosen))
    side = 1.3 * min(3.0, most_across / across)
    lines = [part[k : k + across] for part in chosen for k in range(0, len(part), across)]
    stretches = ("composite",) if pictures else STRETCHES
    # Inches, of a title and of what stands beneath a stamp.
    title, caption_room = 0.3, 0.3
    height = (side + caption_room) * len(lines) + title
    figure = Figure(figsize=(max(side * across, 2.6), height * len(stretches)))
    FigureCanvasAgg(figure)
    panels = figure.subfigures(len(stretches), 1, squeeze=False)[:, 0]
    for panel, stretch in zip(panels, stretches, strict=True):
        panel.subplots_adjust(
            *(0.02, caption_room / height, 0.995, 1 - title / height),
            *(0.03, caption_room / side),
        )
        panel.suptitle(f"{stretch} · {', '.join(bands)}", fontsize=9, y=0.995, va="top")
        axes = panel.subplots(len(lines), across, squeeze=False)
        for line, rows in zip(axes, lines, strict=True):
            for axis in line:
                axis.set_axis_off()
            for axis, k in zip(line, rows.tolist(), strict=False):
                truth = {name: values[k] for name, values in columns.items()}
                if pictures:
                    rgb_YX3 = np.moveaxis(np.nan_to_num(image_NCHW[k][::-1]), 0, -1) / WHITE
                else:
                    sky = np.array([truth[f"sky_rms_{b}_njy"] for b in bands])
                    rgb_YX3 = compose(image_NCHW[k], sky, stretch)
                axis.imshow(rgb_YX3, origin="lower")
                below = {"transform": axis.transAxes, "fontsize": 5.5, "va": "top"}
                axis.text(0.5, -0.03, caption(truth, reference_band), ha="center", **below)
            kind = str(columns["kind"][rows[0]]).replace("_", " ")
            line[0].text(
                *(-0.1, 0.5, kind),
                **{"transform": line[0].transAxes, "rotation": 90, "fontsize": 8},
                **{"va": "center", "ha": "center"},
            )
    figure.savefig(path, format="png", dpi=110)
