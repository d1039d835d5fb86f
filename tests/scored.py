"""Folders of scores as `infer` leaves them, and a report of them: what tests of `report` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensfinder import runs, tables
from lensfinder.config import Config, ReportConfig
from lensfinder.report import illustrate

MODEL = "a" * 64


def write_scores(folder: Path, columns: dict[str, Any], name: str = "scores") -> Path:
    """A folder as `infer` leaves it."""
    product = folder / "products" / f"{name}.parquet"
    metadata = {
        "ingredients": {"made": f"{folder.name} {name}"},
        "calibration": {"temperature": 2.0, "training_prevalence": 0.5},
    }
    tables.write_columns(product, columns, metadata)
    runs.write_json(
        folder / runs.INDEX,
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
