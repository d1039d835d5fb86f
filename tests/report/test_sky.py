"""Laws of what the sky says: areas, workloads, budgets, kinds in proportion, known lenses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2, poisson

from lensfinder import schema
from lensfinder.report import inputs, inspection, kinds, known, metrics, sky
from lensfinder.report.calibration import Calibration, probability_at, reliability
from lensfinder.report.candidates import rank
from lensfinder.report.estimates import Estimate, clopper_pearson
from lensfinder.report.logits import Logits


def tile_of_targets(
    n: int, ra_deg: float, name: str, side_pix: int = 5000
) -> dict[str, np.ndarray]:
    """Targets evenly spread over a tile of 0.2 arcsec pixels at the equator."""
    rng = np.random.default_rng(n)
    x, y = rng.uniform(0, side_pix, (2, n))
    return {
        "tile": np.full(n, name), "x": x, "y": y,
        "ra": ra_deg + x * 0.2 / 3600, "dec": y * 0.2 / 3600,
    }  # fmt: skip


def test_the_area_is_that_of_the_tiles_within_a_percent() -> None:
    parts = [tile_of_targets(400, 10.0, "a"), tile_of_targets(300, 50.0, "b")]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    area = inspection.area_of_targets(columns)
    assert area.deg2 == pytest.approx(2 * (5000 * 0.2 / 3600) ** 2, rel=0.02)
    assert "2 tiles" in area.how


def test_an_area_that_cannot_be_told_is_refused() -> None:
    few = tile_of_targets(9, 10.0, "a")
    assert inspection.area_of_targets(few).deg2 is None
    assert "area_deg2" in inspection.area_of_targets(few).how
    nameless = tile_of_targets(50, 10.0, "")
    assert inspection.area_of_targets(nameless).deg2 is None
    one_pixel = {**tile_of_targets(50, 1.0, "a"), "x": np.ones(50), "y": np.ones(50)}
    assert inspection.area_of_targets(one_pixel).deg2 is None


def test_workload_by_hand_with_the_exact_poisson_interval() -> None:
    work = inspection.workload(250, inspection.Area(5.0, "as given"), 500.0)
    assert (work.per_deg2.value, work.hours) == (50.0, 0.5)
    assert work.per_deg2.low == pytest.approx(chi2.ppf(0.025, 500) / 10)
    assert poisson.cdf(250, work.per_deg2.high * 5.0) == pytest.approx(0.025)
    nothing = inspection.workload(0, inspection.Area(5.0, "as given"), 500.0)
    assert (nothing.per_deg2.low, nothing.hours) == (0.0, 0.0)
    assert nothing.per_deg2.high == pytest.approx(-np.log(0.025) / 5)
    assert inspection.workload(None, inspection.Area(5.0, ""), 1.0).n_candidates is None
    assert inspection.workload(9, inspection.Area(None, "why"), 1.0).per_deg2.reason == "why"


def test_a_budget_pays_for_no_more_objects_than_it_can() -> None:
    sky_logit = np.r_[np.arange(100.0), np.full(5, 90.0)]
    lens, negative = np.array([80.0, 95.0, 99.0]), np.arange(50.0) + 46
    found = inspection.within_budget(
        Logits.of(sky_logit), lens, negative, hours=0.02, per_hour=500.0, prevalence=1e-3
    )
    # Ten can be graded; the eleventh is one of six at 90, so that nine stand above it.
    assert (found.n_inspected, found.logit, found.n_candidates) == (10, 90.0, 9)
    assert found.tpr.value == pytest.approx(2 / 3)
    assert found.fpr.value == pytest.approx(5 / 50)
    assert (found.fpr.low, found.fpr.high) == tuple(float(x) for x in clopper_pearson(5, 50))
    everything = inspection.within_budget(
        Logits.of(sky_logit), lens, negative, hours=1.0, per_hour=500.0, prevalence=1e-3
    )
    assert (everything.logit, everything.n_candidates) == (None, 105)
    assert everything.tpr.value == everything.fpr.value == 1.0


@pytest.mark.parametrize(
    ("mocks", "on_sky", "differs"),
    [(0.01, 0.019, False), (0.01, 0.021, True), (0.01, 0.0051, False), (0.01, 0.0049, True)],
)
def test_mocks_and_sky_differ_beyond_a_factor_of_two(
    mocks: float, on_sky: float, differs: bool
) -> None:
    sure = [Estimate(value, value - 1e-5, value + 1e-5) for value in (mocks, on_sky)]
    found = sky.compare(*sure, False)
    assert found.differs is differs
    assert found.ratio == pytest.approx(on_sky / mocks)


def test_without_a_false_positive_the_intervals_must_part() -> None:
    none = Estimate(0.0, 0.0, 0.01)
    few = Estimate(0.05, 0.005, 0.2)  # a factor of five that chance alone explains
    assert not sky.compare(Estimate(0.01, 0.008, 0.013), few, False).differs
    assert not sky.compare(none, Estimate(0.02, 0.005, 0.05), False).differs
    assert sky.compare(none, Estimate(0.05, 0.02, 0.09), False).differs
    assert not sky.compare(Estimate(None), Estimate(0.05), False).differs


def measured_kinds() -> list[kinds.KindMeasured]:
    # 100 rings of which 20 pass, 400 spirals of which 4 do, and 200 lenses.
    logit_N = np.r_[np.full(20, 5.0), np.zeros(80), np.full(4, 5.0), np.zeros(396), np.full(200, 9)]
    kind_N = np.array(["ring"] * 100 + ["spiral"] * 400 + ["lens"] * 200)
    hosts = np.full(700, "")
    return kinds.measure_kinds(
        logit_N, kind_N == "lens", kind_N, hosts, threshold=1.0, prevalence=1e-3, seed=0
    )


def test_kinds_are_measured_against_all_lenses() -> None:
    ring, spiral = measured_kinds()
    assert (ring.kind, ring.n_above, spiral.n_above) == ("ring", 20, 4)
    assert ring.rate.value == 0.2
    assert ring.auroc.value == spiral.auroc.value == 1.0
    # A hundredth of 100 rings is one, fewer than three: refused, with the number it takes.
    assert "takes 300" in str(ring.tpr_at_kind_fpr.reason)
    assert spiral.tpr_at_kind_fpr.value == 1.0


def test_the_weighted_rate_by_hand() -> None:
    found = kinds.weighted_rate(measured_kinds(), {"ring": 0.1, "spiral": 0.3, "disc": 0.6})
    assert found.rate.value == pytest.approx((0.1 * 0.2 + 0.3 * 0.01) / 0.4)
    assert found.rate.low < found.rate.value < found.rate.high
    assert (found.without_weight, found.not_simulated) == ([], ["disc"])
    assert kinds.weighted_rate(measured_kinds(), {"spiral": 1.0}).without_weight == ["ring"]
    assert kinds.weighted_rate(measured_kinds(), {}).rate.value is None


def test_the_weighted_rate_covers_the_truth() -> None:
    rng = np.random.default_rng(8)
    truth, weights, n = {"ring": 0.05, "spiral": 0.01}, {"ring": 0.2, "spiral": 0.8}, 400
    rate = sum(weights[kind] * truth[kind] for kind in truth)
    no_roc = metrics.RocCurve(np.empty(0), np.empty(0), np.empty(0))
    held = 0
    for _ in range(300):
        counted = [
            kinds.KindMeasured(
                kind, int(rng.binomial(n, p)), n, Estimate(None, n=n), *[Estimate(None)] * 4, no_roc
            )
            for kind, p in truth.items()
        ]
        found = kinds.weighted_rate(counted, weights).rate
        held += found.low <= rate <= found.high
    assert held >= 0.95 * 300


def test_probabilities_follow_bayes_rule() -> None:
    calibration = Calibration(temperature=2.0, training_prevalence=0.5)
    # A calibrated logit of 0 at a prevalence of one half is the prevalence itself elsewhere.
    assert probability_at(np.array([0.0]), calibration, 1e-3)[0] == pytest.approx(1e-3)
    odds = np.exp(8.0 / 2.0) * (0.2 / 0.8)
    assert probability_at(np.array([8.0]), calibration, 0.2)[0] == pytest.approx(odds / (1 + odds))
    quarter = Calibration(1.0, 0.25)
    assert probability_at(np.array([1.3]), quarter, 0.25)[0] == pytest.approx(
        1 / (1 + np.exp(-1.3))
    )


def test_probabilities_are_calibrated_where_lenses_are_rarer() -> None:
    rng = np.random.default_rng(9)
    logits = np.r_[rng.normal(2, 2, 5_000), rng.normal(-2, 2, 495_000)]  # log odds = logit
    is_lens_N = np.arange(500_000) < 5_000
    probability_N = probability_at(logits, Calibration(1.0, 0.5), 0.01)
    bins = reliability(probability_N, is_lens_N, 10)
    well = (bins.low_B <= bins.score_B) & (bins.score_B <= bins.high_B)
    assert well.sum() >= len(well) - 2
    assert bins.n_B.sum() == 500_000


def test_known_lenses_outside_of_the_area_are_counted_and_not_listed() -> None:
    columns = {
        "id": np.array(["a", "b"]), "ra": np.array([10.0, 10.1]), "dec": np.array([0.0, 0.0]),
        "logit": np.array([2.0, 1.0]), "flags": np.zeros(2, np.int32),
    }  # fmt: skip
    lenses = {
        "id": np.array(["hit", "near", "far", "near bis"], object),
        "ra": np.array([10.1, 10.05, 200.0, 10.05001]),
        "dec": np.zeros(4), "grade": np.array(["A", "A", "B", "A"], object),
    }  # fmt: skip
    found = known.cross_match(lenses, columns, rank(columns["logit"], columns["id"]), 1.5)
    assert (found["n"], found["n_covered"], found["n_targets"], found["n_above"]) == (4, 2, 1, 0)
    assert [row["id"] for row in found["rows"]] == ["hit", "near"]
    assert found["rows"][0]["rank"] == 2
    assert [(row["grade"], row["n_covered"]) for row in found["grades"]] == [("A", 2)]
    assert found["selected"]["value"] == 0.5


def test_lenses_that_trained_the_model_or_stand_there_twice_prove_nothing() -> None:
    ra = np.array([10.0, 10.1, 10.2])
    columns = {
        "id": np.array(["seen", "found", "missed"]), "ra": ra, "dec": np.zeros(3),
        "logit": np.array([3.0, 2.0, 1.0]),
        "flags": np.array([schema.FLAG_SEEN_IN_TRAINING, 0, 0], np.int32),
    }  # fmt: skip
    lenses = {"id": np.array(["a", "b", "b again", "c"], object), "ra": ra[[0, 1, 1, 2]],
              "dec": np.zeros(4)}  # fmt: skip
    found = known.cross_match(lenses, columns, rank(columns["logit"], columns["id"]), 1.5)
    assert (found["n_targets"], found["n_above"], found["n_seen"]) == (3, 2, 1)
    assert (found["recall"]["value"], found["recall"]["n"]) == (0.5, 2)


def test_shares_on_the_sky_do_not_hang_on_the_order_of_the_mocks() -> None:
    columns = {
        "kind": np.array(["ring", "ring", "spiral"]),
        "sky_fraction": np.array([np.nan, 0.01, 0.99]),
    }
    for order in ([0, 1, 2], [1, 2, 0]):
        told = {name: values[order] for name, values in columns.items()}
        assert inputs.sky_fraction_of(told) == {"ring": 0.01, "spiral": 0.99}
    columns["sky_fraction"][0] = 0.5
    assert inputs.sky_fraction_of(columns) == {}


def test_lenscats_columns_are_understood(real_data: Path) -> None:
    path = real_data / "catalogues" / "lenscat_catalog.csv"
    lenses = inputs.read_known(path)
    assert len(lenses["id"]) == len(path.read_text(encoding="utf-8").splitlines()) - 1
    assert {"confident", "probable"} == set(lenses["grade"])
    assert {"galaxy", "group", "cluster"} == set(lenses["type"])
    first = {"id": np.array(["x"]), "ra": lenses["ra"][:1], "dec": lenses["dec"][:1],
             "logit": np.ones(1), "flags": np.zeros(1, np.int32)}  # fmt: skip
    found = known.cross_match(lenses, first, np.array([0]), 0.5)
    assert found["rows"][0]["id"] == lenses["id"][0]
    assert found["rows"][0]["rank"] == 1
