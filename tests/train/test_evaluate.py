"""Figures agree with scikit-learn and with their definitions; calibration finds the temperature."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from lensfinder.train import evaluate


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    label_N = rng.integers(0, 2, 3000).astype(np.int8)
    return np.round(rng.normal(2.0 * label_N, 1.5), 2), label_N  # rounded, so that there are ties


def test_figures_agree_with_scikit_learn(scored):
    logit_N, label_N = scored
    figures = evaluate.figures(logit_N, label_N, 1e-2)
    assert figures["val_auroc"] == pytest.approx(roc_auc_score(label_N, logit_N), abs=1e-12)
    probability_N = 1 / (1 + np.exp(-logit_N))
    assert figures["val_loss"] == pytest.approx(log_loss(label_N, probability_N), abs=1e-9)


@pytest.mark.parametrize(("fpr", "tpr"), [(0.0, 0.4), (0.19, 0.4), (0.2, 0.6), (0.4, 1.0)])
def test_tpr_counts_lenses_above_what_fpr_allows(fpr, tpr):
    negative_N, positive_N = [5.0, 3.0, 1.0, 0.5, 0.0], [9.0, 8.0, 5.0, 2.0, 2.0]
    label_N = np.repeat(np.array([0, 1], np.int8), 5)
    logit_N = np.array(negative_N + positive_N)
    assert evaluate.tpr_at_fpr(logit_N, label_N, fpr) == tpr


def test_calibration_undoes_a_known_temperature():
    rng = np.random.default_rng(1)
    logit_N = rng.normal(0, 2, 40_000)
    label_N = (rng.random(40_000) < 1 / (1 + np.exp(-logit_N))).astype(np.int8)
    assert evaluate.fit_temperature(3.0 * logit_N, label_N, 0.5) == pytest.approx(3.0, rel=0.05)
    separated_N = np.where(label_N == 1, 50.0, -50.0)
    assert np.isfinite(evaluate.fit_temperature(separated_N, label_N, 0.5))


@pytest.mark.parametrize(
    ("negatives", "asked", "taken"),
    [(100_000, 1e-3, 1e-3), (1_000, 1e-3, 1e-2), (400, 1e-2, 0.025), (12, 1e-2, 0.5)],
)
def test_epochs_are_compared_where_ten_negatives_pass(
    negatives: int, asked: float, taken: float
) -> None:
    assert evaluate.selection_fpr(negatives, asked) == taken
