"""Laws of scores of which only the highest were kept: exact above the cut, bounded below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored import MODEL, draw_no_figures, mock_scores, report, write_scores

from lensfinder import schema, tables
from lensfinder.infer import histogram
from lensfinder.infer.reach import add, reach
from lensfinder.report import thresholds
from lensfinder.report.logits import Counted, Logits


def logits_of(seed: int, n: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).normal(-4, 3, n).astype(np.float32)


def cut_at(logit_N: np.ndarray, limit: float) -> Logits:
    """Keep what lies above, and count the rest as `infer` does."""
    whole = histogram.histogram(logit_N, np.ones(len(logit_N), bool))
    kept = logit_N > limit
    left = histogram.histogram(logit_N[~kept], np.ones((~kept).sum(), bool))
    counts = np.zeros(len(whole["scored"]), np.int64)
    start = left["first"] - whole["first"]
    counts[start : start + len(left["scored"])] = left["scored"]
    return Logits.of(logit_N[kept], Counted.of(whole, counts, limit))


@given(seed=st.integers(0, 50), limit=st.floats(-12, 5), cut=st.floats(-12, 6))
def test_what_is_above_is_exact_above_the_cut_and_bounded_below(
    seed: int, limit: float, cut: float
) -> None:
    logit_N = logits_of(seed)
    limit = float(np.float32(limit))
    whole, part = Logits.of(logit_N), cut_at(logit_N, limit)
    assert len(part) == len(whole) == len(logit_N)
    truth = int(np.sum(logit_N > cut))
    assert whole.above(cut) == (truth, truth)
    fewest, most = part.above(cut)
    assert fewest <= truth <= most
    if cut >= limit:
        assert fewest == most


@given(seed=st.integers(0, 50), limit=st.floats(-12, 5), k=st.integers(0, 399))
def test_order_statistics_lie_where_they_are_said_to(seed: int, limit: float, k: int) -> None:
    logit_N = logits_of(seed)
    part = cut_at(logit_N, float(np.float32(limit)))
    low, high = part.highest(k)
    truth = float(np.sort(logit_N)[::-1][k])
    assert low - 1e-6 <= truth <= high + 1e-6
    assert high - low <= histogram.BIN_WIDTH + 1e-9
    if k < len(part.kept_K):
        assert low == high == truth


def test_a_quantile_of_the_sky_lets_no_more_pass_than_asked() -> None:
    logit_N = logits_of(1, 5000)
    whole = thresholds.sky_quantile(Logits.of(logit_N), 0.05)
    exact = thresholds.sky_quantile(cut_at(logit_N, whole.low - 0.5), 0.05)
    assert exact == whole
    binned = thresholds.sky_quantile(cut_at(logit_N, whole.high + 0.5), 0.05)
    assert np.mean(logit_N > binned.value) <= 0.05
    assert binned.low - 1e-6 <= whole.low <= whole.high <= binned.high + 1e-6
    assert "bin" in str(binned.reason)


def test_reaches_of_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(3)
    columns: dict[str, Any] = {name: rng.uniform(0, 9, 60) for name in ("x", "y", "ra", "dec")}
    columns["tile"] = np.array([["a", "b", ""][k % 3] for k in range(60)], object)
    columns["x"][5] = np.nan
    parts = [{n: v[k::4] for n, v in columns.items()} for k in range(4)]
    assert add([reach(part) for part in parts]) == reach(columns)


def sky_scores(n: int = 900) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    logit_N = np.r_[rng.normal(-6, 2, n - 20), rng.uniform(2, 8, 20)].astype(np.float32)
    logit_N[5] = np.nan
    flags = np.zeros(n, np.int32)
    flags[[1, n - 3]] = schema.FLAG_SEEN_IN_TRAINING
    flags[[1, 2, n - 4]] |= schema.FLAG_ADAPTED
    x, y = rng.uniform(0, 3000, (2, n))
    return {
        "id": [f"s{k}" for k in range(n)], "ra": 10 + x * 0.2 / 3600, "dec": y * 0.2 / 3600,
        "tile": ["a", "b"] * (n // 2), "x": x, "y": y, "logit": logit_N,
        "score": 1 / (1 + np.exp(-logit_N)), "flags": flags, "label": [-1] * n,
        "split": [""] * n, "model_id": [MODEL] * n,
    }  # fmt: skip


def write_kept(folder: Path, limit: float) -> Path:
    """Write scores as `infer --keep-above` leaves them."""
    columns = {name: np.asarray(values) for name, values in sky_scores().items()}
    logit, flags = columns["logit"], columns["flags"]
    scored = np.isfinite(logit)
    seen = (flags & schema.FLAG_SEEN_IN_TRAINING) != 0
    adapted = ((flags & schema.FLAG_ADAPTED) != 0) & ~seen
    about = {
        "ingredients": {"made": str(limit)},
        "histogram": histogram.histogram(logit, ~seen & ~adapted),
        "keep_above": limit,
        "seen_in_training": int((seen & scored).sum()),
        "adapted": int((adapted & scored).sum()),
        "reach": reach(columns),
    }
    kept = ~scored | (logit > limit)
    made = write_scores(folder, {n: v[kept] for n, v in columns.items()})
    tables.write_columns(
        made / "products" / "scores.parquet", {n: v[kept] for n, v in columns.items()}, about
    )
    return made


@pytest.fixture
def reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    draw_no_figures(monkeypatch)
    mocks = write_scores(tmp_path / "mocks", mock_scores())

    def make(sky: Path, **keys: Any) -> dict[str, Any]:
        folder = tmp_path / f"report-of-{sky.name}"
        done = report(folder, [mocks], sky=sky, inspect_hours=0.02, **keys)
        assert done.exit_code == 0, done.failures
        content: dict[str, Any] = json.loads((folder / "report.json").read_text())
        return content

    return make


def test_a_report_of_what_was_kept_has_the_numbers_of_one_of_all(
    tmp_path: Path, reported: Any
) -> None:
    whole = reported(write_scores(tmp_path / "whole", sky_scores()))
    operating = whole["operating"]["logit"]
    part = reported(write_kept(tmp_path / "part", operating - 1.0))
    for name in ("operating", "metrics", "candidates", "leads_with_sky"):
        assert part[name] == whole[name]
    for row, wanted in zip(part["thresholds"], whole["thresholds"], strict=True):
        assert row == wanted
    sky, wanted = dict(part["sky"]), dict(whole["sky"])
    left = sky.pop("not_kept")
    assert wanted.pop("not_kept") is None
    assert sky == wanted
    assert left["n"] + part["candidates"]["n_above"] <= sky["n_scored"]
    assert left["n_above_operating"] == 0
    # The best are no sample of the sky.
    assert part["audits"]["drifts"] is None
    assert "kept" in part["audits"]["separability"]["auroc"]["reason"]
    assert any("exact" in line and "--keep-above" in line for line in part["summary"])


def test_a_cut_above_the_threshold_bounds_and_says_what_no_table_lists(
    tmp_path: Path, reported: Any
) -> None:
    whole = reported(write_scores(tmp_path / "whole", sky_scores()))
    cut = whole["operating"]["logit"] + 2.0
    part = reported(write_kept(tmp_path / "part", cut))
    truth, bound = whole["sky"]["above_operating"], part["sky"]["above_operating"]
    assert bound["low"] <= truth["low"] <= truth["value"] <= bound["value"] <= bound["high"]
    missing = whole["candidates"]["n_above"] - part["candidates"]["n_above"]
    assert 0 < missing <= part["sky"]["not_kept"]["n_above_operating"]
    assert any("no table lists" in line for line in part["summary"])


def test_mocks_must_all_be_there(tmp_path: Path) -> None:
    kept = write_kept(tmp_path / "kept", 0.0)
    done = report(tmp_path / "out", [kept])
    assert done.exit_code == 2
    assert "without --keep-above" in str(next(iter(done.failures.values())).message)
