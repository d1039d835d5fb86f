"""Thresholds written into the model file: what they are, and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scored import draw_no_figures, mock_scores, report, write_scores

from lensfinder import checkpoint, networks
from lensfinder.commit import sha256_of, write_json
from lensfinder.errors import MismatchError, RequestError
from lensfinder.ledger import INDEX, read_index
from lensfinder.model import Model, Spec, create
from lensfinder.pixels import RECIPES, PixelTransform


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_no_figures(monkeypatch)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    image_NCHW = torch.from_numpy(rng.normal(0, 3, (16, 1, 25, 25)).astype(np.float32))
    mask_NCHW = torch.zeros(image_NCHW.shape, dtype=torch.uint8)
    return create(
        Spec("lensnet", ("r",), 25, 0.2),
        networks.build("lensnet", 1, 25),
        PixelTransform.fit(RECIPES["sky"], [(image_NCHW, mask_NCHW)]),
        temperature=1.2, training_prevalence=0.5, provenance={},
    )  # fmt: skip


def test_thresholds_are_the_reports_and_scores_stay_the_same(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "train" / "products" / "model.safetensors"
    checkpoint.save(path, model)
    index = {"stage": "train", "products": [{"product": "products/model.safetensors"}]}
    write_json(tmp_path / "train" / INDEX, index)
    before = checkpoint.load(path, "cpu")
    scores = mock_scores(60, 400) | {"model_id": [model.model_id] * 460}
    mocks = write_scores(tmp_path / "mocks", scores)
    summary = report(tmp_path / "out", [mocks], write_model=tmp_path / "train")
    assert summary.exit_code == 0
    assert f"The thresholds stand in {path}" in summary.lines

    # Opening it scores the golden stamps again.
    after = checkpoint.load(path, "cpu")
    assert after.model_id == before.model_id
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert after.thresholds["operating_logit"] == stored["operating"]["logit"]
    for written, row in zip(after.thresholds["points"], stored["thresholds"], strict=True):
        assert (written["fpr_asked"], written["logit"]) == (row["fpr_asked"], row["logit"])
        assert written["fpr"] == row["fpr"]
    # What `lensfinder status --deep` compares with.
    (entry,) = read_index(tmp_path / "train")["products"]
    assert entry["sha256"] == sha256_of(path)
    assert [point["logit"] is None for point in after.thresholds["points"]] == [False, True, True]

    # A report that stands already is not made again, and is written into a fresh copy all the same.
    checkpoint.save(path, model)
    again = report(tmp_path / "out", [mocks], write_model=path)
    assert (again.reused, again.done) == (1, 0)
    assert checkpoint.load(path, "cpu").thresholds == after.thresholds


def test_another_model_than_the_one_that_scored_is_refused_and_left_alone(
    model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, model)
    whole = path.read_bytes()
    mocks = write_scores(tmp_path / "mocks", mock_scores(60, 400))
    with pytest.raises(MismatchError, match="whose scores set the thresholds"):
        report(tmp_path / "out", [mocks], write_model=path)
    assert path.read_bytes() == whole
    assert not (tmp_path / "out" / "report.json").exists()  # told before any work
    with pytest.raises(RequestError, match="no such model"):
        report(tmp_path / "out", [mocks], write_model=tmp_path / "gone.safetensors")
