"""Laws of thresholds: worked examples, exact intervals, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binomtest, norm

from lensfinder.report import thresholds
from lensfinder.report.estimates import Estimate, clopper_pearson, fraction
from lensfinder.report.logits import Logits


def test_threshold_is_the_k_plus_first_highest_negative() -> None:
    negatives = np.arange(300.0)
    lenses = np.array([296.0, 296.5, 500.0])
    point = thresholds.threshold_at_fpr(negatives, lenses, 0.01, 1e-3)
    # k = floor(0.01 * 300) = 3: the fourth highest, 296, and 297, 298, 299 pass.
    assert point.logit == 296.0
    assert point.n_false_positives == 3
    assert point.fpr.value == 0.01
    assert point.fpr.low == pytest.approx(beta.ppf(0.025, 4, 297))
    assert point.fpr.high == pytest.approx(beta.ppf(0.975, 4, 297))
    # The lens at 296 ties with the threshold and does not pass.
    assert point.tpr.value == pytest.approx(2 / 3)


@pytest.mark.parametrize(("fpr", "needed"), [(1e-2, 300), (1e-3, 3000), (1e-4, 30_000), (0.7, 5)])
def test_too_few_negatives_are_refused_with_the_number_it_takes(fpr: float, needed: int) -> None:
    assert thresholds.negatives_needed(fpr) == needed
    lenses = np.ones(3)
    short = thresholds.threshold_at_fpr(np.zeros(needed - 1), lenses, fpr, 1e-4)
    assert short.logit is None
    assert short.tpr.value is None
    assert short.purity.value is None
    assert f"takes {needed:,} negatives, there are {needed - 1:,}" in str(short.reason)
    assert thresholds.threshold_at_fpr(np.zeros(needed), lenses, fpr, 1e-4).logit == 0.0


def test_mocks_that_share_galaxies_count_as_the_galaxies() -> None:
    """Each galaxy ten times: rate and threshold stay, intervals are those of the galaxies."""
    rng = np.random.default_rng(3)
    negatives, lenses = rng.normal(0, 1, 400), rng.normal(3, 1, 100)
    alone = thresholds.threshold_at_fpr(negatives, lenses, 0.01, 1e-3)
    ten = thresholds.threshold_at_fpr(
        np.repeat(negatives, 10), np.repeat(lenses, 10), 0.01, 1e-3, galaxies=(400, 100)
    )
    assert (ten.n_negatives, ten.n_galaxies, alone.n_galaxies) == (4000, 400, 400)
    assert ten.logit == alone.logit
    for name in ("fpr", "tpr", "purity"):
        mine, theirs = getattr(ten, name), getattr(alone, name)
        np.testing.assert_allclose(
            (mine.value, mine.low, mine.high), (theirs.value, theirs.low, theirs.high), rtol=1e-9
        )
    refused = thresholds.threshold_at_fpr(
        np.repeat(negatives, 10), lenses, 0.001, 1e-3, galaxies=(400, 100)
    )
    assert refused.logit is None
    assert "takes 3,000 negatives, there are 4,000 on 400 galaxies" in str(refused.reason)
    assert thresholds.galaxies_of(np.array(["a", "b", "a", "", ""])) == 4


def test_product_of_rate_and_number_is_taken_as_a_decimal() -> None:
    assert 0.29 * 100 < 29  # in binary
    assert thresholds.threshold_at_fpr(np.arange(100.0), np.ones(1), 0.29, 0.1).logit == 70.0


def test_ties_at_the_threshold_let_fewer_pass_and_lower_the_low_end() -> None:
    negatives = np.r_[np.arange(296.0), np.full(4, 1000.0)]
    point = thresholds.threshold_at_fpr(negatives, np.array([1000.0, 2000.0]), 0.01, 1e-3)
    assert point.logit == 1000.0
    assert point.n_false_positives == 0
    assert (point.fpr.value, point.fpr.low) == (0.0, 0.0)
    assert point.fpr.high == pytest.approx(beta.ppf(0.975, 4, 297))
    assert "tie" in str(point.fpr.reason)
    assert point.tpr.value == 0.5
    # A lower end of 0 for the FPR bounds the purity by 1, without a division by zero.
    assert point.purity.value == 1.0
    assert point.purity.high == 1.0


def test_without_lenses_there_is_a_threshold_but_no_completeness() -> None:
    point = thresholds.threshold_at_fpr(np.arange(300.0), np.empty(0), 0.01, 1e-3)
    assert point.logit == 296.0
    assert point.tpr.value is None
    assert point.purity.value is None
    assert "no lenses" in str(point.purity.reason)


def test_nothing_found_and_no_false_positive_gives_no_purity() -> None:
    point = thresholds.threshold_at_fpr(np.zeros(300), np.zeros(5), 0.01, 1e-3)
    assert point.purity.value is None
    assert "no test object passes" in str(point.purity.reason)


def test_strictest_supported_rate_is_chosen_whatever_the_order() -> None:
    negatives, lenses = np.arange(3000.0), np.ones(1)
    points = [thresholds.threshold_at_fpr(negatives, lenses, f, 0.1) for f in (1e-3, 1e-2, 1e-4)]
    assert thresholds.strictest_supported(points) == 0
    assert thresholds.strictest_supported(points[2:]) is None


def test_purity_at_the_published_worked_examples() -> None:
    assert thresholds.purity(0.90, 1e-2, 1e-4) == pytest.approx(0.009, abs=1e-4)
    assert thresholds.purity(0.75, 1e-4, 1e-4) == pytest.approx(0.43, abs=2e-3)


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (1, 1), (0, 10_000), (3, 17), (500, 1000)])
def test_clopper_pearson_agrees_with_scipy(hits: int, trials: int) -> None:
    exact = binomtest(hits, trials).proportion_ci(0.95, "exact")
    low, high = clopper_pearson(hits, trials)
    assert (float(low), float(high)) == pytest.approx((exact.low, exact.high), abs=1e-10)


def test_no_false_positive_in_ten_thousand_bounds_only_three_in_ten_thousand() -> None:
    assert fraction(0, 10_000, "negatives").high == pytest.approx(3.7e-4, abs=1e-5)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="n_hits"):
        clopper_pearson(3, 2)
    assert fraction(0, 0, "lenses") == Estimate(None, n=0, reason="there are no lenses")


def test_beta_interval_of_the_fpr_covers_95_percent() -> None:
    rng = np.random.default_rng(0)
    n_sets, n = 20_000, 400
    covered = 0
    # The law holds for one k and N at a time; the interval is the same in every set.
    for negatives in rng.normal(size=(n_sets, n)):
        cut = np.partition(negatives, n - 1 - 4)[n - 1 - 4]
        covered += _INTERVAL[0] <= norm.sf(cut) <= _INTERVAL[1]
    assert covered / n_sets == pytest.approx(0.95, abs=0.01)


def _interval_of_threshold() -> tuple[float, float]:
    fpr = thresholds.threshold_at_fpr(np.arange(400.0), np.ones(1), 0.01, 0.1).fpr
    assert fpr.low is not None
    assert fpr.high is not None
    return fpr.low, fpr.high


_INTERVAL = _interval_of_threshold()


def test_clopper_pearson_covers_at_least_95_percent() -> None:
    for n in (5, 30, 200):
        low, high = clopper_pearson(np.arange(n + 1), np.full(n + 1, n))
        hits = np.arange(n + 1)
        for p in np.linspace(0.003, 0.997, 60):
            # Exact coverage: the probability of all outcomes whose interval holds p.
            chance = np.array([math.comb(n, int(k)) for k in hits], float)
            chance *= p**hits * (1 - p) ** (n - hits)
            assert chance[(low <= p) & (p <= high)].sum() >= 0.95


def test_purity_interval_covers_at_least_95_percent() -> None:
    rng = np.random.default_rng(5)
    n_sets, covered, prevalence = 2000, 0, 0.05
    for _ in range(n_sets):
        negatives, lenses = rng.normal(0, 1, 100), rng.normal(2, 1, 60)
        point = thresholds.threshold_at_fpr(negatives, lenses, 0.05, prevalence)
        assert point.logit is not None
        truth = thresholds.purity(
            float(norm.sf(point.logit - 2)), float(norm.sf(point.logit)), prevalence
        )
        assert point.purity.low is not None
        assert point.purity.high is not None
        covered += point.purity.low <= truth <= point.purity.high
    assert covered / n_sets >= 0.95 - 0.01


def test_sky_quantile_is_an_order_statistic_whose_interval_covers() -> None:
    assert thresholds.sky_quantile(Logits.of(np.arange(1000.0)), 0.01).value == 989.0
    rng = np.random.default_rng(6)
    truth = float(norm.isf(0.02))
    covered = 0
    for logits in rng.normal(size=(4000, 500)):
        quantile = thresholds.sky_quantile(Logits.of(logits), 0.02)
        assert quantile.low is not None
        assert quantile.high is not None
        covered += quantile.low <= truth <= quantile.high
    assert covered / 4000 >= 0.94


def test_sky_quantile_is_refused_for_too_few_objects() -> None:
    refused = thresholds.sky_quantile(Logits.of(np.zeros(100)), 1e-3)
    assert refused.value is None
    assert "takes 3,000 sky objects, there are 100" in str(refused.reason)


def test_where_none_may_lie_above_the_true_quantile_no_logit_bounds_it() -> None:
    few = thresholds.sky_quantile(Logits.of(np.arange(300.0)), 0.01)
    assert (few.value, few.high) == (296.0, None)
    assert few.low is not None
    more = thresholds.sky_quantile(Logits.of(np.arange(1000.0)), 0.01)
    assert more.low < more.value < more.high
