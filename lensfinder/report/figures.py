"""Figures of the report as PNG bytes, for a light and a dark page.

Figure objects are used without pyplot: no global state, no display.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from lensfinder.catalogs import printable
from lensfinder.report.bootstrap import RocDraws
from lensfinder.report.calibration import Reliability
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
    band: RocDraws | None = None,
    kinds: Mapping[str, RocCurve] | None = None,
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
    band : RocDraws, optional
        Bootstrap, drawn as a band of 95 %.
    kinds : mapping of kind to RocCurve, optional
        All lenses against each kind of negative, none refused.

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
    if band is not None and len(band.auroc_D):
        low_G, high_G = band.band(0.95)
        axes.fill_between(band.fpr_G, low_G, high_G, color=palette.lens, alpha=0.22, linewidth=0,
                          label="95 % band")  # fmt: skip
    for by_kind, style in zip((kinds or {}).values(), _kind_styles(palette), strict=False):
        fpr, tpr = _thinned(by_kind.fpr_M, by_kind.tpr_M)
        axes.step(np.maximum(fpr, lowest), tpr, where="post", alpha=0.9, **style)
    # The first point of a ROC has FPR 0, which a logarithm has no place for.
    fpr, tpr = _thinned(curve.fpr_M, curve.tpr_M)
    axes.step(np.maximum(fpr, lowest), tpr, where="post", color=palette.lens, linewidth=2,
              label="all")  # fmt: skip
    chance = np.geomspace(lowest, 1.0, 200)
    axes.plot(chance, chance, ":", color=palette.sky, linewidth=1.4, label="chance")
    if operating is not None and operating[0] > 0:
        axes.plot(*operating, "o", markersize=8, color=palette.negative, markeredgewidth=0,
                  label="operating threshold")  # fmt: skip
    axes.set(xscale="log", xlim=(lowest, 1.0), ylim=(0.0, 1.02),
             xlabel="false positive rate (mock negatives)",
             ylabel="true positive rate (mock lenses)")  # fmt: skip
    _legend(figure, axes, palette)
    _kind_key(axes, kinds, palette, "lower right")
    return _png(figure)


def precision_figure(
    recall_M: NDArray[np.floating],
    tested_M: NDArray[np.floating],
    at_prevalence_M: NDArray[np.floating],
    prevalence: float,
    palette: Palette = LIGHT,
    kinds: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]] | None = None,
) -> bytes:
    """Precision over recall, at the test split's mix and at the sky's prevalence.

    Parameters
    ----------
    recall_M, tested_M, at_prevalence_M : float arrays, shape (M,)
        Recall, and precision at either mix.
    prevalence : float
        Of the sky.
    palette : Palette
        Colours.
    kinds : mapping of kind to (recall, precision), optional
        At the sky's prevalence, were this kind the only negatives.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _canvas(palette)
    by_kind = (kinds or {}).values()
    for (recall, precision), style in zip(by_kind, _kind_styles(palette), strict=False):
        axes.plot(*_thinned(recall, precision), alpha=0.9, **style)
    axes.plot(*_thinned(recall_M, tested_M), "--", color=palette.negative, linewidth=1.7,
              label="as in the test split")  # fmt: skip
    axes.plot(*_thinned(recall_M, at_prevalence_M), color=palette.lens, linewidth=2,
              label=f"one lens in {1 / prevalence:,.0f}")  # fmt: skip
    axes.axhline(prevalence, color=palette.sky, linestyle=":", linewidth=1.4, label="chance")
    axes.set(yscale="log", xlim=(0.0, 1.0), ylim=(prevalence / 2, 1.3),
             xlabel="recall (mock lenses above the threshold)",
             ylabel="precision (lenses among them)")  # fmt: skip
    _legend(figure, axes, palette)
    _kind_key(axes, kinds, palette, "lower left")
    return _png(figure)


def reliability_figure(bins: Reliability, palette: Palette = LIGHT) -> bytes:
    """Fraction of lenses over mean score, on the diagonal where scores are probabilities.

    Parameters
    ----------
    bins : Reliability
        Not empty.
    palette : Palette
        Colours.

    Returns
    -------
    bytes
        PNG.
    """
    figure, axes = _canvas(palette)
    axes.plot([0, 1], [0, 1], ":", color=palette.sky, linewidth=1.4, label="calibrated")
    errors = np.abs(np.stack([bins.low_B, bins.high_B]) - bins.lenses_B)
    axes.errorbar(bins.score_B, bins.lenses_B, errors, fmt="o", markersize=5, capsize=2,
                  color=palette.lens, label="mocks, 95 %")  # fmt: skip
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="mean score", ylabel="share of lenses")
    _legend(figure, axes, palette)
    return _png(figure)


def histogram_figure(
    edges: NDArray[np.floating],
    counts: Mapping[str, NDArray[np.integer]],
    threshold: float | None,
    palette: Palette = LIGHT,
) -> bytes:
    """Distributions of the logit, each with unit area, on a logarithmic axis.

    Parameters
    ----------
    edges : float array, shape (B + 1,)
        Of the bins, in logits.
    counts : mapping of str to int arrays, shape (B,)
        Of ``lenses``, ``negatives`` and ``sky``, as far as there are any.
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
    for name, values in counts.items():
        label, colour, line, filled = styles[name]
        density = values / (values.sum() * np.diff(edges))
        axes.stairs(density, edges, color=colour, linestyle=line, linewidth=1.7,
                    label=f"{label} ({values.sum():,})")  # fmt: skip
        if filled:
            axes.stairs(density, edges, color=colour, alpha=0.18, fill=True)
    if threshold is not None:
        axes.axvline(threshold, color=palette.ink, linewidth=1.2, linestyle=":")
        axes.annotate("threshold", (threshold, 1.0), (4, -4), textcoords="offset points",
                      xycoords=("data", "axes fraction"), rotation=90, va="top", ha="left",
                      fontsize=8.5, color=palette.ink)  # fmt: skip
    axes.set(yscale="log", xlabel="logit of the network", ylabel="density")
    _legend(figure, axes, palette)
    return _png(figure)


def kinds_figure(
    edges: NDArray[np.floating],
    counts: Mapping[str, NDArray[np.integer]],
    threshold: float | None,
    palette: Palette = LIGHT,
) -> bytes:
    """A strip for each kind: where its logits lie, darker where there are more of them.

    Parameters
    ----------
    edges : float array, shape (B + 1,)
        Of the bins, in logits.
    counts : mapping of kind to int arrays, shape (B,)
        None of them empty.
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
    names = list(counts)
    density_KB = np.stack([counts[name] / counts[name].max() for name in names])
    colours = LinearSegmentedColormap.from_list("strips", palette.cells)
    # The root shows single objects, which the threshold is all about.
    axes.pcolormesh(edges, np.arange(len(names) + 1), np.sqrt(np.ma.masked_equal(density_KB, 0)),
                    cmap=colours, vmin=0.0, vmax=1.0)  # fmt: skip
    axes.hlines(np.arange(1, len(names)), edges[0], edges[-1], color=palette.paper, linewidth=3)
    labels = [f"{_label(name)} ({counts[name].sum():,})" for name in names]
    axes.set_yticks(np.arange(len(names)) + 0.5, labels, fontsize=8)
    if threshold is not None:
        axes.axvline(threshold, color=palette.negative, linewidth=1.4, label="threshold")
        _legend(figure, axes, palette)
    axes.set(xlabel="logit of the network")
    axes.grid(visible=False)
    return _png(figure)


def completeness_figure(cells: CompletenessMap, palette: Palette = LIGHT) -> bytes:
    """Completeness in cells of Einstein radius and another truth, with counts in every cell.

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
    # Of all that were simulated: selected and then recovered.
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
    columns, rows = cells.theta_e_edges_arcsec, cells.edges
    axes.set_xticks(range(len(columns)), _edge_labels(columns))
    axes.set_yticks(range(len(rows)), _edge_labels(rows))
    axes.set(xlabel="Einstein radius (arcsec)", ylabel=_axis_name(cells.against))
    axes.grid(visible=False)
    # Above the plot, so that the cells have the width for their counts.
    percent = FuncFormatter(lambda value, _: f"{value:.0%}")
    bar = figure.colorbar(mesh, ax=axes, location="top", aspect=40, format=percent)
    bar.set_label("recovered above the threshold", color=palette.ink, fontsize=8.5)
    bar.ax.tick_params(colors=palette.ink, labelsize=8)
    bar.outline.set_edgecolor(palette.faint)
    return _png(figure)


def _edge_labels(edges: NDArray[np.float64]) -> list[str]:
    return [f"{edge:g}".replace("inf", "∞") for edge in edges]


def _axis_name(column: str) -> str:
    if column == "source_snr":
        return "S/N of the lensed source"
    return f"{column.rsplit('_', 1)[-1]} magnitude of the source"


def _kind_styles(palette: Palette) -> Iterator[dict[str, Any]]:
    """Thin lines that differ in dash as well as in colour; the ninth is like the first."""
    dashes = [(0, ()), (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1))]
    colours = (palette.negative, palette.sky, palette.ink, palette.lens)
    return cycle(
        {"color": colour, "linestyle": dash, "linewidth": 0.9}
        for dash in dashes
        for colour in colours[:2]
    )


def _thinned(
    x_M: NDArray[np.floating], y_M: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """A thousand points of a curve: its strict end in full, where an axis in logarithm is wide."""
    n = len(x_M)
    if n <= 1000:
        return x_M, y_M
    kept = np.unique(np.r_[np.arange(300), np.geomspace(300, n - 1, 700).astype(np.intp)])
    return x_M[kept], y_M[kept]


def _label(kind: str) -> str:
    """Name of a kind, short, and without the dollar that would begin a formula."""
    return printable(kind)[:18].replace("$", r"\$") or "unnamed"


def _kind_key(axes: Axes, kinds: Mapping[str, Any] | None, palette: Palette, where: str) -> None:
    """Name the thin lines inside the plot, in the order they were drawn."""
    if not kinds:
        return
    lines = [
        Line2D([], [], label=_label(kind), **style)
        for kind, style in zip(kinds, _kind_styles(palette), strict=False)
    ]
    key = axes.legend(handles=lines, loc=where, fontsize=6.5, handlelength=1.8, labelspacing=0.25,
                      labelcolor=palette.ink, framealpha=0.85, borderpad=0.3)  # fmt: skip
    key.get_frame().set(facecolor=palette.paper, edgecolor=palette.faint)


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


def _legend(figure: Figure, axes: Axes, palette: Palette) -> None:
    """Above the plot, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=8, frameon=False,
                  labelcolor=palette.ink, handlelength=1.4, columnspacing=1.0)  # fmt: skip


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Named instead of matplotlib's version, so that the bytes are the same every time.
    figure.savefig(buffer, format="png", metadata={"Software": "lensfinder"})
    return buffer.getvalue()
