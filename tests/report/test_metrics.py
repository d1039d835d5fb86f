"""Laws of the figures of merit: worked examples, scikit-learn as oracle, one class only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve, roc_auc_score

from lensfinder.report import bootstrap, calibration, metrics, thresholds

LENS, NOT = True, False


def labelled(lenses: list[float], negatives: list[float]) -> tuple[np.ndarray, np.ndarray]:
    logit_N = np.array([*lenses, *negatives], dtype=np.float64)
    return logit_N, np.array([LENS] * len(lenses) + [NOT] * len(negatives), bool)


def test_tpr0_counts_only_lenses_strictly_above_the_highest_negative() -> None:
    # 5 and 4 stand above 3; the lens at 3 ties with a negative and is not above it.
    estimate = metrics.tpr_before(*labelled([5, 4, 3, 1], [3, 2, 0]), 1)
    assert estimate.value == 0.5
    assert estimate.n == 3


def test_tpr10_lets_nine_negatives_pass() -> None:
    negatives = list(range(20))  # the tenth highest is 10
    logit_N, is_lens_N = labelled([10, 10.5, 19.5, 9], negatives)
    assert metrics.tpr_before(logit_N, is_lens_N, 10).value == 0.5


def test_tpr10_without_ten_negatives_is_refused_with_the_number() -> None:
    estimate = metrics.tpr_before(*labelled([1, 2], [0] * 9), 10)
    assert estimate.value is None
    assert estimate.reason == "needs 10 negatives, there are 9"


@pytest.mark.parametrize(
    ("lenses", "negatives", "words"),
    [([1.0], [], "no negatives"), ([], [1.0], "no lenses"), ([], [], "no labelled objects")],
)
def test_one_class_only_gives_a_reason_instead_of_a_number(
    lenses: list[float], negatives: list[float], words: str
) -> None:
    logit_N, is_lens_N = labelled(lenses, negatives)
    curve = metrics.roc(logit_N, is_lens_N)
    assert curve.fpr_M.size == 0
    assert words in str(curve.reason)
    for estimate in (
        metrics.auroc(logit_N, is_lens_N, seed=0),
        metrics.tpr_before(logit_N, is_lens_N, 1),
        calibration.expected_calibration_error(logit_N, is_lens_N),
    ):
        assert estimate.value is None
        assert words in str(estimate.reason)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=30),
    st.lists(st.integers(-4, 4), min_size=1, max_size=30),
)
def test_tied_scores_agree_with_scikit_learn_and_with_the_pair_count(
    lenses: list[int], negatives: list[int]
) -> None:
    logit_N, is_lens_N = labelled([float(x) for x in lenses], [float(x) for x in negatives])
    ranking = bootstrap.WeightedRanking(logit_N[is_lens_N], logit_N[~is_lens_N])
    once = np.ones(len(logit_N), int)
    ours, _ = ranking.draw(once[is_lens_N], once[~is_lens_N], np.empty(0))
    difference = np.subtract.outer(np.array(lenses), np.array(negatives))
    assert ours == pytest.approx(np.mean((difference > 0) + 0.5 * (difference == 0)))
    assert ours == pytest.approx(roc_auc_score(is_lens_N, logit_N))


def test_auroc_interval_is_the_same_for_a_seed_and_holds_the_value() -> None:
    rng = np.random.default_rng(1)
    logit_N = np.r_[rng.normal(1.0, 1, 300), rng.normal(0, 1, 300)]
    is_lens_N = np.arange(600) < 300
    first = metrics.auroc(logit_N, is_lens_N, seed=7)
    assert first == metrics.auroc(logit_N, is_lens_N, seed=7)
    assert first.low is not None
    assert first.high is not None
    assert first.value is not None
    assert first.low < first.value < first.high
    # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    assert first.low < 0.7602 < first.high


def test_auroc_interval_widens_when_mocks_share_their_host() -> None:
    rng = np.random.default_rng(2)
    # Twenty copies of each of 30 hosts: 30 independent draws, not 600.
    logit_N = np.repeat(np.r_[rng.normal(1, 1, 15), rng.normal(0, 1, 15)], 20)
    is_lens_N = np.arange(600) < 300
    host_id_N = np.repeat([f"host{i}" for i in range(30)], 20)
    alone = metrics.auroc(logit_N, is_lens_N, seed=0)
    by_host = metrics.auroc(logit_N, is_lens_N, seed=0, host_id_N=host_id_N)
    assert by_host.value == alone.value
    assert None not in (alone.low, alone.high, by_host.low, by_host.high)
    assert by_host.high - by_host.low > 2 * (alone.high - alone.low)  # type: ignore[operator]


def test_objects_without_a_host_are_units_of_their_own() -> None:
    rng = np.random.default_rng(3)
    logit_N = rng.normal(size=100)
    is_lens_N = np.arange(100) < 50
    nobody = np.full(100, "")
    assert metrics.auroc(logit_N, is_lens_N, seed=0, host_id_N=nobody) == metrics.auroc(
        logit_N, is_lens_N, seed=0
    )


def test_perfect_ranking_has_no_bootstrap_interval_and_says_so() -> None:
    estimate = metrics.auroc(*labelled([2, 3, 4, 5], [0, 1, -1, -2]), seed=0)
    assert (estimate.value, estimate.low) == (1.0, None)
    assert "no interval" in str(estimate.reason)


def test_roc_moves_over_a_tie_in_one_step() -> None:
    curve = metrics.roc(*labelled([2, 1], [1, 0]))
    points = set(zip(curve.fpr_M.tolist(), curve.tpr_M.tolist(), strict=True))
    assert {(0.0, 0.5), (0.5, 1.0)} <= points
    assert (0.0, 1.0) not in points


def test_calibration_error_by_hand_and_of_a_calibrated_score() -> None:
    # Two bins of [0, 1]: 0.2 and 0.4 hold one lens of two, 0.9 holds none of one:
    # (2 |1/2 - 0.3| + |0 - 0.9|) / 3
    score_N = np.array([0.2, 0.4, 0.9])
    estimate = calibration.expected_calibration_error(score_N, np.array([LENS, NOT, NOT]), n_bins=2)
    assert estimate.value == pytest.approx((0.4 + 0.9) / 3)
    rng = np.random.default_rng(4)
    score_N = rng.random(40_000)
    honest = calibration.expected_calibration_error(score_N, rng.random(40_000) < score_N)
    assert honest.value is not None
    assert honest.value < 0.02


def test_a_score_of_one_falls_in_the_last_bin() -> None:
    score_N = np.array([1.0, 0.0])
    estimate = calibration.expected_calibration_error(score_N, np.array([LENS, NOT]))
    assert estimate.value == 0.0


def test_the_drawn_weights_of_a_ranking_are_as_good_as_the_objects_drawn() -> None:
    rng = np.random.default_rng(5)
    lenses, negatives = rng.integers(-3, 6, 40) / 2.0, rng.integers(-6, 3, 200) / 2.0
    ranking = bootstrap.WeightedRanking(lenses, negatives)
    fpr_G = np.array([0.0, 0.01, 0.1, 0.5, 1.0])
    for _ in range(20):
        weight_P, weight_M = rng.integers(0, 4, 40), rng.integers(0, 4, 200)
        auroc, tpr_G = ranking.draw(weight_P, weight_M, fpr_G)
        drawn_P, drawn_M = np.repeat(lenses, weight_P), np.repeat(negatives, weight_M)
        labels = np.arange(len(drawn_P) + len(drawn_M)) < len(drawn_P)
        assert auroc == pytest.approx(roc_auc_score(labels, np.r_[drawn_P, drawn_M]))
        for fpr, tpr in zip(fpr_G[1:-1], tpr_G[1:-1], strict=True):
            if len(drawn_M) < 3 / fpr:
                continue
            point = thresholds.threshold_at_fpr(drawn_M, drawn_P, float(fpr), 0.5)
            assert tpr == point.tpr.value


def test_the_roc_band_holds_the_curve_and_widens_by_host() -> None:
    rng = np.random.default_rng(6)
    is_lens_N = np.arange(800) < 400
    logit_N = np.repeat(rng.normal(0, 1, 80), 10) + 1.5 * is_lens_N
    host_id_N = np.repeat([f"h{i}" for i in range(80)], 10)
    fpr_G = np.array([0.05, 0.2, 0.5])
    widths = []
    for hosts in (None, host_id_N):
        draws = bootstrap.roc_draws(logit_N, is_lens_N, seed=0, host_id_N=hosts, fpr_G=fpr_G)
        low_G, high_G = draws.band(0.95)
        curve = metrics.roc(logit_N, is_lens_N)
        for fpr, low, high in zip(fpr_G, low_G, high_G, strict=True):
            tpr = curve.tpr_M[np.searchsorted(curve.fpr_M, fpr, side="right") - 1]
            assert low <= tpr <= high
        widths.append(np.mean(high_G - low_G))
    assert widths[1] > 1.5 * widths[0]


def test_precision_agrees_with_scikit_learn_and_with_the_purity() -> None:
    rng = np.random.default_rng(7)
    is_lens_N = np.arange(500) < 100
    logit_N = np.round(rng.normal(0, 1, 500) + 2 * is_lens_N, 1)
    curve = metrics.roc(logit_N, is_lens_N)
    recall_M, precision_M = metrics.precision(curve, 0.2)
    theirs, recalls, cuts = precision_recall_curve(is_lens_N, logit_N)
    at = {float(cut): (r, p) for cut, r, p in zip(cuts, recalls, theirs, strict=False)}
    for cut, recall, precision in zip(curve.logit_M[1:], recall_M, precision_M, strict=True):
        assert at[float(cut)] == pytest.approx((recall, precision))
    _, rare_M = metrics.precision(curve, 1e-4)
    assert rare_M[-1] == pytest.approx(1e-4)
    assert rare_M[3] == pytest.approx(thresholds.purity(curve.tpr_M[4], curve.fpr_M[4], 1e-4))


def test_histograms_share_their_bins_and_lose_nothing() -> None:
    found = metrics.histograms({"a": np.array([-1.0, 3.0]), "b": np.empty(0), "c": np.zeros(5)})
    assert (found["edges"][0], found["edges"][-1]) == (-1.0, 3.0)
    assert {name: int(n.sum()) for name, n in found["counts"].items()} == {"a": 2, "c": 5}
    assert metrics.histograms({"a": np.empty(0)}) == {}
