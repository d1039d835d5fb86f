"""The training curve as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO


def draw(history: Sequence[Mapping[str, Any]], file: BinaryIO) -> None:
    """Draw losses and validation figures over the epochs, as PNG.

    Parameters
    ----------
    history : sequence of mapping
        The lines of ``metrics.jsonl``.
    file : binary file
        Written to.
    """
    from matplotlib.figure import Figure

    epochs = [line["epoch"] for line in history]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    losses, rates = figure.subplots(1, 2)
    for name, label in (("train_loss", "train"), ("val_loss", "val")):
        losses.plot(epochs, [line[name] for line in history], label=label)
    losses.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    for name in (key for key in history[0] if key.startswith(("val_tpr", "val_auroc"))):
        label = name.removeprefix("val_").replace("_", " ")
        rates.plot(epochs, [line[name] for line in history], label=label)
    rates.set(xlabel="epoch", ylabel="on the val split", ylim=(0, 1.02))
    best = [line["epoch"] for line in history if line["best"]][-1]
    for axes in (losses, rates):
        axes.axvline(best, color="grey", linewidth=0.8, linestyle=":", label=f"kept: {best}")
        axes.legend(frameon=False, fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    # Without the software's version, equal curves are equal files.
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
