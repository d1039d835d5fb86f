"""Scores as `infer` leaves them, measured and reported: what tests of `report` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensfinder import runs, tables
from lensfinder.commit import write_json
from lensfinder.config import Config, ReportConfig
from lensfinder.ledger import INDEX
from lensfinder.report import illustrate, measure, sky

SEEN, ADAPTED = 8, 16
KEPT_OUT = {"seen_in_training_bit": SEEN, "adapted_bit": ADAPTED}
MODEL = "a" * 64


def write_scores(
    folder: Path, columns: dict[str, Any], name: str = "scores", how: dict[str, Any] | None = None
) -> Path:
    """A folder as `infer` leaves it."""
    product = folder / "products" / f"{name}.parquet"
    metadata = {
        "ingredients": {"made": f"{folder.name} {name}", **({"infer": how} if how else {})},
        "calibration": {"temperature": 2.0, "training_prevalence": 0.5},
    }
    tables.write_columns(product, columns, metadata)
    write_json(
        folder / INDEX,
        {"stage": "infer", "counts": {}, "products": [{"product": f"products/{name}.parquet"}]},
    )
    return folder


def mock_scores(n_lenses: int = 60, n_negatives: int = 301) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    n = n_lenses + n_negatives
    lens_N = np.arange(n) < n_lenses
    logit_N = np.where(lens_N, rng.normal(3, 2, n), rng.normal(-5, 2, n))
    logit_N[-1] = np.nan
    outcome = np.full(n, "ok", object)
    outcome[-1] = "rejected"
    return {
        "id": [f"mock{i}" for i in range(n)],
        "ra": np.full(n, np.nan), "dec": np.full(n, np.nan), "tile": [""] * n,
        "x": np.zeros(n), "y": np.zeros(n),
        "logit": logit_N, "score": 1 / (1 + np.exp(-logit_N)),
        "outcome": outcome, "reason": [""] * n, "flags": np.zeros(n, int),
        "label": lens_N.astype(int), "kind": np.where(lens_N, "lens", "ring"),
        "split": ["test"] * n, "host_id": [f"h{i}" for i in range(n)], "source_id": [""] * n,
        "theta_e_arcsec": np.where(lens_N, 1.2, np.nan),
        "source_snr": np.where(lens_N, 30.0, np.nan), "model_id": [MODEL] * n,
    }  # fmt: skip


def draw_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take most of a small report's time."""
    monkeypatch.setattr(illustrate, "illustrations", lambda *_: [])


def report(folder: Path, scores: list[Path], **keys: Any) -> runs.Summary:
    config = Config(report=ReportConfig(scores=tuple(scores), prevalence=1e-3, **keys))
    return runs.execute("report", config, folder, runs.Execution(engine="serial", verbosity=-1))


def mock_columns(n_lenses: int, n_negatives: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = n_lenses + n_negatives
    is_lens_N = np.arange(n) < n_lenses
    logit_N = np.where(is_lens_N, rng.normal(3, 2, n), rng.normal(-5, 2, n))
    return {
        "id": np.array([f"mock{i}" for i in range(n)]),
        "logit": logit_N,
        "score": 1 / (1 + np.exp(-logit_N)),
        "label": is_lens_N.astype(np.int8),
        "kind": np.where(is_lens_N, "lens", np.where(np.arange(n) % 2, "ring", "spiral")),
        "split": np.full(n, "test"),
        "flags": np.zeros(n, np.int32),
        "host_id": np.array([f"host{i}" for i in range(n)]),
        "source_id": np.full(n, ""),
        "theta_e_arcsec": np.where(is_lens_N, rng.uniform(0.5, 3, n), np.nan),
        "source_snr": np.where(is_lens_N, rng.uniform(5, 200, n), np.nan),
    }


def sky_columns(n: int, n_high: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit_N = rng.normal(-6, 1, n)
    logit_N[:n_high] = 50.0 + np.arange(n_high)
    return {
        "id": np.array([f"sky {i}" for i in range(n)], dtype="<U64"),
        "ra": rng.uniform(0, 360, n),
        "dec": rng.uniform(-80, 80, n),
        "tile": np.full(n, "t"),
        "x": np.arange(n, dtype=float),
        "y": np.arange(n, dtype=float),
        "logit": logit_N,
        "score": 1 / (1 + np.exp(-logit_N)),
        "flags": np.zeros(n, np.int32),
        "mag_r": rng.normal(19, 1, n),
    }


def measured_of(columns: dict[str, np.ndarray]) -> tuple[measure.Measured, measure.Columns]:
    return measure.measure_labelled(
        columns, fprs=(1e-2, 1e-3, 1e-4), prevalence=1e-3, seed=0, **KEPT_OUT
    )


def sky_measured_of(
    columns: dict[str, np.ndarray], measured: measure.Measured, used: measure.Columns, **keys: Any
) -> sky.SkyMeasured:
    given = {"per_hour": 500.0, "hours": None, "area_deg2": 2.0, "prevalence": 1e-3, **keys}
    return sky.measure_sky(columns, measured, used, seed=0, **given, **KEPT_OUT)
