"""A mosaic of stamps to look at, in several stretches, with the truth beneath each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_STRETCHES = ("arcsinh", "sqrt", "linear")
_WEIGHTS = (0.75, 1.0, 1.6)  # red, green, blue


def compose(image_CYX: np.ndarray, sky_rms_njy_C: np.ndarray, stretch: str) -> np.ndarray:
    """Colour (or grey) picture of a stamp.

    The three bands share one stretch of their mean, so that colours keep their ratios (Lupton et
    al. 2004, PASP 116, 133), and are weighted so that a galaxy between red and blue looks white.

    Parameters
    ----------
    image_CYX : nJy, bands from blue to red; first, middle and last make blue, green and red
    sky_rms_njy_C : noise of a pixel; the stretch is in units of the middle band's
    stretch : arcsinh, sqrt or linear

    Returns
    -------
    rgb_YX3 : in [0, 1]
    """
    bands = len(image_CYX)
    chosen = [bands - 1, bands // 2, 0]
    flux = np.nan_to_num(image_CYX[chosen]) / sky_rms_njy_C[bands // 2]
    scaled = flux * np.array(_WEIGHTS)[:, None, None] if bands > 1 else flux
    mean = np.clip(scaled.mean(axis=0), 1e-3, None)
    limits = {"arcsinh": 60.0, "sqrt": 60.0, "linear": 20.0}
    relative = np.clip(mean / limits[stretch], 0, 1)
    if stretch == "arcsinh":
        relative = np.arcsinh(30 * relative) / np.arcsinh(30)
    elif stretch == "sqrt":
        relative = np.sqrt(relative)
    rgb = np.clip(scaled, 0, None) * (relative / mean)
    # Where one colour would overflow, all are scaled: a bright core keeps its hue.
    rgb = rgb / np.maximum(rgb.max(axis=0), 1)
    result: np.ndarray = np.moveaxis(rgb, 0, -1)
    return result


def choose(kind_N: np.ndarray, lenses: int = 20, each: int = 10) -> np.ndarray:
    """Rows worth a look: some lenses first, then a line of each kind of negative, by name."""
    parts = [np.flatnonzero(kind_N == "lens")[:lenses]]
    parts += [np.flatnonzero(kind_N == kind)[:each] for kind in sorted({*kind_N} - {"lens"})]
    return np.concatenate(parts)


def caption(truth: Mapping[str, Any], band: str) -> str:
    """Two short lines about a mock."""
    first, magnitude = str(truth["kind"]), truth[f"mag_{band}"]
    if np.isfinite(magnitude):
        first += f"  {band} {magnitude:.1f}"
    if not np.isfinite(truth["theta_e_arcsec"]):
        return first
    return f"{first}\nθE {truth['theta_e_arcsec']:.2f}″  S/N {truth['source_snr']:.0f}"


def write_mosaic(
    path: Path,
    image_NCHW: np.ndarray,
    columns: Mapping[str, np.ndarray],
    bands: tuple[str, ...],
    *,
    reference_band: str,
    columns_of_stamps: int = 10,
) -> None:
    """Write a PNG with one panel for each stretch.

    Parameters
    ----------
    image_NCHW : nJy
    columns : truth, with kind, theta_e_arcsec, source_snr and sky_rms_<band>_njy
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(image_NCHW)
    lines = -(-n // columns_of_stamps)
    size = (1.35 * columns_of_stamps, 1.75 * lines * len(_STRETCHES) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subfigures(len(_STRETCHES), 1, squeeze=False)[:, 0]
    for panel, stretch in zip(panels, _STRETCHES, strict=True):
        panel.suptitle(f"{stretch} · {', '.join(bands)}", fontsize=8)
        axes = panel.subplots(lines, columns_of_stamps, squeeze=False).ravel()
        for k, axis in enumerate(axes):
            axis.set_axis_off()
            if k >= n:
                continue
            truth = {name: values[k] for name, values in columns.items()}
            sky = np.array([truth[f"sky_rms_{b}_njy"] for b in bands])
            axis.imshow(compose(image_NCHW[k], sky, stretch), origin="lower")
            text = caption(truth, reference_band)
            axis.text(0.5, -0.03, text, fontsize=5, va="top", ha="center", transform=axis.transAxes)
    figure.savefig(path, format="png", dpi=110)
