"""Laws of `--adapt` with a model that `train` made: it knows on which PSF it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensfinder import checkpoint, schema, shards, tables
from lensfinder.config import load
from lensfinder.ledger import products_of
from lensfinder.runs import Execution, Summary, execute

SIZE, BANDS = 25, ("g", "r")
SERIAL = Execution(engine="serial", verbosity=-1)


def write_shard(path: Path, psf_arcsec: dict[str, list[float]], **columns: Any) -> None:
    """Write noise with a blob in the middle; the PSF columns decide how many stamps."""
    n = len(psf_arcsec["g"])
    rng = np.random.default_rng(n)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    image = rng.normal(size=(n, len(BANDS), SIZE, SIZE)) + 40 * np.exp(-(x**2 + y**2) / 8)
    stored: dict[str, Any] = {
        name: np.array([schema.empty_value(name)] * n) for name in schema.REQUIRED_COLUMNS
    }
    stored |= {"id": np.array([f"{path.stem}{k}" for k in range(n)], object)}
    stored |= {f"psf_fwhm_{b}_arcsec": np.array(w, np.float32) for b, w in psf_arcsec.items()}
    header = shards.Header("simulate", "kids", BANDS, 0.2, {"made": path.stem}, {})
    mask = np.zeros(image.shape, np.uint8)
    shards.write(path, header, image.astype(np.float32), mask, stored | columns)


def run(stage: str, folder: Path, **keys: Any) -> Summary:
    return execute(stage, load(None, (), {stage: keys}), folder, SERIAL)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    # Of g half are wider, by which the median is 0.9; val and test say something else.
    widths = {"g": [0.8, 1.0] * 20 + [3.0] * 16, "r": [0.7] * 40 + [3.0] * 16}
    split = np.array(["train"] * 40 + ["val"] * 8 + ["test"] * 8, object)
    label = np.tile(np.array([1, 0], np.int8), 28)
    write_shard(folder / "mocks.h5", widths, split=split, label=label)
    keys = {"shards": (folder / "mocks.h5",), "network": "lenet5", "epochs": 1, "batch_size": 20}
    assert run("train", folder / "model", **keys).exit_code == 0
    return folder / "model"


def test_a_model_tells_the_median_psf_of_its_training_stamps(model: Path) -> None:
    (path,) = products_of(model)
    told = checkpoint.read_header(path)["provenance"]["psf_fwhm_arcsec"]
    assert told == pytest.approx({"g": 0.9, "r": 0.7}, abs=1e-6)


def test_narrower_psfs_are_widened_and_flagged_and_no_others(model: Path, tmp_path: Path) -> None:
    # Narrower in g; as wide; wider in both; narrower in r; not known.
    widths = {"g": [0.6, 0.9, 1.5, 0.9, np.nan], "r": [0.7, 0.7, 1.5, 0.5, np.nan]}
    write_shard(tmp_path / "sky.h5", widths)
    infer = {"inputs": (tmp_path / "sky.h5",), "model": (model,)}
    columns = {}
    for name, adapt in (("as-it-is", False), ("adapted", True)):
        done = run("infer", tmp_path / name, **infer, adapt=adapt)
        assert not any("PSF" in line for line in done.lines)
        columns[name] = tables.read_columns(products_of(tmp_path / name)[0])
    changed = columns["as-it-is"]["logit"] != columns["adapted"]["logit"]
    assert changed.tolist() == [True, False, False, True, False]
    flagged = (columns["adapted"]["flags"] & schema.FLAG_ADAPTED) != 0
    assert flagged.tolist() == changed.tolist()
    assert columns["adapted"]["outcome"].tolist() == [
        schema.FLAGGED if one else schema.OK for one in changed
    ]
