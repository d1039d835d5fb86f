"""Figures on the validation split, and the calibration of logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


# A threshold that fewer negatives may pass hangs on chance: epochs can't be compared by it.
_FEWEST_ABOVE = 10


def selection_fpr(negatives: int, fpr: float) -> float:
    """Return the rate by which epochs are compared: `fpr`, or the least that the negatives bear."""
    return max(fpr, min(_FEWEST_ABOVE / negatives, 0.5))


def selection_figure(fpr: float) -> str:
    """Name the figure that decides which epoch is best."""
    return f"val_tpr_at_fpr_{fpr:.3g}"


def figures(logit_N: Logits, label_N: Labels, fpr: float) -> dict[str, float]:
    """Return mean cross-entropy, AUROC and TPR at `fpr`; both classes must be there."""
    return {
        "val_loss": cross_entropy(logit_N, label_N),
        "val_auroc": auroc(logit_N, label_N),
        selection_figure(fpr): tpr_at_fpr(logit_N, label_N, fpr),
    }


def merit(measured: dict[str, float], fpr: float) -> tuple[float, float]:
    """Rank an epoch by what it finds at a low FPR; AUROC, which saturates, decides ties."""
    return measured[selection_figure(fpr)], measured["val_auroc"]


def cross_entropy(logit_N: Logits, label_N: Labels, prevalence: float | None = None) -> float:
    """Mean binary cross-entropy, in nats; at `prevalence` of lenses rather than the labels' own."""
    loss_N = np.logaddexp(0.0, logit_N) - label_N * logit_N
    if prevalence is None:
        return float(np.mean(loss_N))
    lenses, others = loss_N[label_N == 1], loss_N[label_N == 0]
    return float(prevalence * np.mean(lenses) + (1 - prevalence) * np.mean(others))


def auroc(logit_N: Logits, label_N: Labels) -> float:
    """Return the chance that a lens scores above a non-lens; a tie counts half."""
    negative_N = np.sort(logit_N[label_N == 0])
    positive_N = logit_N[label_N == 1]
    below_N = np.searchsorted(negative_N, positive_N, side="left")
    not_above_N = np.searchsorted(negative_N, positive_N, side="right")
    return float(np.mean((below_N + not_above_N) / 2) / len(negative_N))


def allowed(negatives: int, fpr: float) -> int:
    """Say how many of the negatives a threshold for `fpr` may let pass."""
    return int(np.floor(fpr * negatives + 1e-9))


def tpr_at_fpr(logit_N: Logits, label_N: Labels, fpr: float) -> float:
    """Share of lenses above the threshold that at most ``fpr`` of the others exceed.

    The threshold is the (k+1)-th highest negative, with k = `allowed`; only logits
    strictly above it count.
    """
    negative_N = np.sort(logit_N[label_N == 0])[::-1]
    first_kept_out = negative_N[allowed(len(negative_N), fpr)]
    return float(np.mean(logit_N[label_N == 1] > first_kept_out))


def fit_temperature(logit_N: Logits, label_N: Labels, prevalence: float) -> float:
    """Find the temperature whose quotient logit / temperature has the least cross-entropy.

    Guo et al. (2017, arXiv:1706.04599), section 4.2. Bounded to (0.05, 20): classes that
    separate perfectly would ask for 0.

    Parameters
    ----------
    logit_N, label_N
        Of a validation split with both classes.
    prevalence : float
        Share of lenses for which the network was trained, at which the quotients will be logits
        of probabilities; the classes are weighed to that.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: cross_entropy(logit_N / np.exp(log_t), label_N, prevalence),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
    )
    return float(np.exp(found.x))
