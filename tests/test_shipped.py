"""Models that come along: each opens, scores its golden stamps, is small and has its card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensfinder import checkpoint, shards, shipped, tables
from lensfinder.config import InferConfig
from lensfinder.ledger import products_of, read_index
from lensfinder.model import GOLDEN_COUNT

Command = Callable[..., Any]
EXPECTED = {"euclid-vis", "kids-gri", "lsst-g", "lsst-i", "rgb-composite"}


def test_they_are_there() -> None:
    assert set(shipped.names()) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_opens_and_says_what_it_said_when_it_was_made(name: str) -> None:
    path = shipped.file_of(name)
    assert path.stat().st_size <= 10e6
    model = checkpoint.load(path, "cpu")  # scores the golden stamps
    assert len(model.golden["logit_N"]) == GOLDEN_COUNT
    points = {point["fpr_asked"]: point["logit"] for point in model.thresholds["points"]}
    assert points[1e-1] < points[1e-2] < points[1e-3], "thresholds of its own mocks stand in it"


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_card_names_the_recipe_and_the_model(name: str, root: Path) -> None:
    card = shipped.card_of(name).read_text(encoding="utf-8")
    recipe = f"pipelines/models/{name}.toml"
    assert recipe in card
    assert (root / recipe).is_file()
    assert checkpoint.read_header(shipped.file_of(name))["model_id"][:12] in card
    for part in ("## What it takes", "## How it was made", "## What was measured", "## Limits"):
        assert part in card


def test_a_name_stands_for_a_model_unless_a_file_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (asked,) = InferConfig(model="kids-gri").model
    assert asked == shipped.file_of("kids-gri")
    monkeypatch.chdir(tmp_path)
    for other in ("kids-gri", "./kids-gri", "no-such-model"):
        Path("kids-gri").touch()
        (asked,) = InferConfig(model=other).model
        assert asked == Path(other)


def test_an_unknown_name_is_answered_with_those_there_are(command: Command, tmp_path: Path) -> None:
    said = command("infer", tmp_path, "-o", tmp_path / "out", "--model", "kids-gry")
    assert said.code == 2
    assert "kids-gry" in said.err
    assert all(name in said.err for name in EXPECTED)


def test_they_are_listed(command: Command) -> None:
    listed = json.loads(command("networks", "--models", "--json").out)
    assert {item["name"] for item in listed} == EXPECTED
    assert all(Path(item["card"]).is_file() and len(item["model_id"]) == 64 for item in listed)
    assert all(item["name"] in command("networks", "--models").out for item in listed)


def test_one_scores_mocks_as_it_is_told_to(command: Command, tmp_path: Path) -> None:
    """The whole way of a user with a name and no model: mocks, scores, thresholds."""
    out = ["--engine", "serial", "-q", "-o"]
    mocks = ["simulate", "--survey", "kids", "-n", 64, "--size", 61, "--set"]
    assert command(*mocks, "simulate.test_fraction=0.8", *out, tmp_path / "mocks").code == 0
    infer = ["infer", tmp_path / "mocks", "--model", "kids-gri"]
    assert command(*infer, *out, tmp_path / "scores").code == 0
    assert read_index(tmp_path / "scores")["counts"]["ok"] > 30
    scores = tables.read_columns(products_of(tmp_path / "scores")[0])
    lens = scores["label"] == 1
    assert scores["logit"][lens].mean() > scores["logit"][~lens].mean()
    with shards.read(products_of(tmp_path / "mocks")[0]) as shard:
        assert not shard.header.stretched
    refused = command(*infer[:3], "rgb-composite", *out, tmp_path / "no")
    assert refused.code == 4
    assert "fluxes (data) and stretched (model)" in refused.err
    assert np.isfinite(scores["logit"]).all()
