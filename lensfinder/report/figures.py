"""Figures of the report as PNG bytes, for a light and a dark page.

Figure objects are used without pyplot: no global state, no display.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from lensfinder.report.completeness import CompletenessMap
from lensfinder.report.metrics import RocCurve


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a figure; the pairs differ in lightness too, for print and colour blindness."""

    paper: str
    ink: str
    faint: str
    lens: str
    negative: str
    sky: str
    cells: tuple[str, str]


LIGHT = Palette("#ffffff", "#1c2430", "#c9d0da", "#0b5cad", "#c2530a", "#5b6675",
                ("#f1f6fc", "#0b5cad"))  # fmt: skip
DARK = Palette("#161c26", "#e6eaf0", "#3b4656", "#6db3ff", "#ffa057", "#9aa7b8",
               ("#1e2836", "#6db3ff"))  # fmt: skip


def roc_figure(
    curve: RocCurve,
    n_negatives: int,
    operating: tuple[float, float] | None,
    palette: Palette = LIGHT,
) -> bytes:
    """ROC over a logarithmic FPR; the region that the negatives cannot support is shaded.

    Parameters
    ----------
    curve : RocCurve
        Not refused.
    n_negatives : int
        Negatives behind it; below 3 / n_negatives nothing is bounded.
    operating : (fpr, tpr) or None
        The operating point.
    palette : Palette
        Colours.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _canvas(palette)
    lowest = 0.3 / n_negatives
    supported = min(3.0 / n_negatives, 1.0)
    axes.axvspan(lowest, supported, color=palette.faint, alpha=0.45, linewidth=0)
    axes.annotate(
        f"below 3/{n_negatives:,}: too few negatives", (supported, 0.03), (-4, 0),
        textcoords="offset points", rotation=90, ha="right", va="bottom", fontsize=8.5,
        color=palette.ink,
    )  # fmt: skip
    # The first point of a ROC has FPR 0, which a logarithm has no place for.
    fpr_M = np.maximum(curve.fpr_M, lowest)
    axes.step(fpr_M, curve.tpr_M, where="post", color=palette.lens, linewidth=2, label="network")
    chance = np.geomspace(lowest, 1.0, 200)
    axes.plot(chance, chance, ":", color=palette.sky, linewidth=1.4, label="chance")
    if operating is not None and operating[0] > 0:
        axes.plot(*operating, "o", markersize=8, color=palette.negative, markeredgewidth=0,
                  label="operating threshold")  # fmt: skip
    axes.set(xscale="log", xlim=(lowest, 1.0), ylim=(0.0, 1.02),
             xlabel="false positive rate (mock negatives)",
             ylabel="true positive rate (mock lenses)")  # fmt: skip
    _legend(figure, palette)
    return _png(figure)


def histogram_figure(
    logits: Mapping[str, NDArray[np.floating]],
    threshold: float | None,
    palette: Palette = LIGHT,
) -> bytes:
    """Distributions of the logit, each with unit area, on a logarithmic axis.

    Parameters
    ----------
    logits : mapping of "lenses", "negatives", "sky" to float arrays
        Finite logits; empty ones are left out, at least one is not empty.
    threshold : float or None
        Operating threshold in logit.
    palette : Palette
        Colours.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _canvas(palette)
    styles = {
        "lenses": ("mock lenses", palette.lens, "-", True),
        "negatives": ("mock negatives", palette.negative, "-", True),
        "sky": ("sky", palette.ink, "--", False),
    }
    shown = {name: values for name, values in logits.items() if len(values)}
    low = min(float(values.min()) for values in shown.values())
    high = max(float(values.max()) for values in shown.values())
    pad = 0.5 if high == low else 0.0
    edges = np.linspace(low - pad, high + pad, 49)
    for name, values in shown.items():
        label, colour, line, filled = styles[name]
        density, _ = np.histogram(values, edges, density=True)
        axes.stairs(density, edges, color=colour, linestyle=line, linewidth=1.7,
                    label=f"{label} ({len(values):,})")  # fmt: skip
        if filled:
            axes.stairs(density, edges, color=colour, alpha=0.18, fill=True)
    if threshold is not None:
        axes.axvline(threshold, color=palette.ink, linewidth=1.2, linestyle=":")
        axes.annotate("threshold", (threshold, 1.0), (4, -4), textcoords="offset points",
                      xycoords=("data", "axes fraction"), rotation=90, va="top", ha="left",
                      fontsize=8.5, color=palette.ink)  # fmt: skip
    axes.set(yscale="log", xlabel="logit of the network", ylabel="density")
    _legend(figure, palette)
    return _png(figure)


def completeness_figure(cells: CompletenessMap, palette: Palette = LIGHT) -> bytes:
    """Completeness in cells of Einstein radius and source S/N, with counts in every cell.

    Parameters
    ----------
    cells : CompletenessMap
        Counts.
    palette : Palette
        Colours.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _canvas(palette)
    n_ST = cells.n_simulated_ST
    completeness_ST = np.divide(
        cells.n_recovered_ST, n_ST, out=np.full(n_ST.shape, np.nan), where=n_ST > 0
    )
    colours = LinearSegmentedColormap.from_list("completeness", palette.cells)
    mesh = axes.pcolormesh(np.ma.masked_invalid(completeness_ST), cmap=colours, vmin=0.0, vmax=1.0,
                           edgecolors=palette.paper, linewidth=1.5)  # fmt: skip
    for (row, column), n in np.ndenumerate(n_ST):
        dark_cell = completeness_ST[row, column] > 0.5
        colour = palette.paper if dark_cell else palette.ink
        text = f"{cells.n_recovered_ST[row, column]}/{n}" if n else "none"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7.5,
                  color=colour)  # fmt: skip
    columns, rows = cells.theta_e_edges_arcsec, cells.source_snr_edges
    axes.set_xticks(range(len(columns)), _edge_labels(columns))
    axes.set_yticks(range(len(rows)), _edge_labels(rows))
    axes.set(xlabel="Einstein radius (arcsec)", ylabel="S/N of the lensed source")
    axes.grid(visible=False)
    # Above the plot, so that the cells have the width for their counts.
    percent = FuncFormatter(lambda value, _: f"{value:.0%}")
    bar = figure.colorbar(mesh, ax=axes, location="top", aspect=40, format=percent)
    bar.set_label("recovered above the threshold", color=palette.ink, fontsize=8.5)
    bar.ax.tick_params(colors=palette.ink, labelsize=8)
    bar.outline.set_edgecolor(palette.faint)
    return _png(figure)


def _edge_labels(edges: NDArray[np.float64]) -> list[str]:
    return ["∞" if np.isinf(edge) else f"{edge:g}" for edge in edges]


def _canvas(palette: Palette) -> tuple[Figure, Axes]:
    """An empty figure in the palette's colours."""
    figure = Figure(figsize=(4.7, 3.7), dpi=160, layout="constrained", facecolor=palette.paper)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=palette.paper)
    axes.tick_params(which="both", colors=palette.ink)
    axes.xaxis.label.set_color(palette.ink)
    axes.yaxis.label.set_color(palette.ink)
    for spine in axes.spines.values():
        spine.set_color(palette.faint)
    axes.grid(visible=True, color=palette.faint, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: Figure, palette: Palette) -> None:
    """Above the plot, where it covers no data."""
    figure.legend(loc="outside upper left", ncols=3, fontsize=8, frameon=False,
                  labelcolor=palette.ink, handlelength=1.4, columnspacing=1.0)  # fmt: skip


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Named instead of matplotlib's version, so that the bytes are the same every time.
    figure.savefig(buffer, format="png", metadata={"Software": "lensfinder"})
    return buffer.getvalue()
