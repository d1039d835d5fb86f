"""What the quickstart promises, read from the folder that ``--quickstart DIR`` names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensfinder import tables


@pytest.fixture
def finished(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--quickstart")
    if folder is None:
        pytest.skip("give a finished quickstart with --quickstart DIR")
    return Path(folder)


def test_mocks_are_told_apart(finished: Path) -> None:
    report = json.loads((finished / "report" / "report.json").read_text())
    assert report["metrics"]["auroc"]["value"] >= 0.95


def test_planted_lenses_are_found_among_few_candidates(finished: Path, root: Path) -> None:
    planted = set(tables.read_catalog(root / "sample_data" / "lenses.csv")["id"])
    found = tables.read_columns(finished / "report" / "candidates.parquet")["id"]
    assert len(found) <= 30
    assert len(planted & set(found)) >= 8
