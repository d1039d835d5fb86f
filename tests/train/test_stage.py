"""`train` as a stage: one unit, proven by its model, refused where the request can't be met."""

import json

import numpy as np
import pytest

from lensfinder import checkpoint, runs
from lensfinder.config import Config, RunConfig, TrainConfig
from lensfinder.errors import MismatchError, RequestError
from lensfinder.runs import Execution

SERIAL = Execution(engine="serial", verbosity=-1)


def configure(path, seed=1, **changes):
    chosen = {"shards": path, "epochs": 2, "batch_size": 27, **changes}
    return Config(run=RunConfig(seed=seed), train=TrainConfig(**chosen))


def test_a_model_comes_out_proven_and_the_same_again(tmp_path, write_shard):
    trains_N = np.arange(90) % 30 < 18
    real = {"ra": np.where(trains_N, 10.0, np.nan), "dec": np.where(trains_N, -30.0, np.nan)}
    config = configure(write_shard(tmp_path / "a.h5", **real))
    summary = runs.execute("train", config, tmp_path / "model", SERIAL)
    assert summary.exit_code == 0
    assert summary.counts["planned"] == summary.counts["ok"] == 84
    path = tmp_path / "model" / "products" / "model.safetensors"
    model = checkpoint.load(path, "cpu")
    assert model.spec.bands == ("g", "r")
    assert (model.spec.size, model.spec.pixel_scale_arcsec) == (25, 0.2)
    assert model.training_prevalence == 0.5
    assert model.temperature > 0
    assert model.provenance["world_size"] == 1
    assert len(model.provenance["devices"]) == 1
    assert model.provenance["seed"] == 1
    assert model.training_radec_deg_N2.tolist() == [[10.0, -30.0]]
    lines = (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert (tmp_path / "model" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "model" / "states").exists(), "nothing to go on from once it is done"

    before = path.read_bytes()
    assert runs.execute("train", config, tmp_path / "model", SERIAL).done == 0
    assert path.read_bytes() == before
    runs.execute("train", config, tmp_path / "again", SERIAL)
    other = checkpoint.load(tmp_path / "again" / "products" / "model.safetensors", "cpu")
    assert other.model_id == model.model_id

    with pytest.raises(MismatchError, match="seed: 1 → 2"):
        runs.execute("train", configure(config.train.shards, seed=2), tmp_path / "model", SERIAL)

    damaged = bytearray(before)
    damaged[-5] ^= 4
    path.write_bytes(damaged)
    again = runs.execute("train", config, tmp_path / "model", SERIAL)
    assert again.done == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network": "lensnett"}, "'lensnett'.*'lensnet'"),
        ({"shards": ()}, "no shards"),
        ({"ranks": 64, "batch_size": 8}, "8 stamps for 64 ranks"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_pixel_is_read(
    tmp_path, write_shard, changes, named
):
    config = configure(write_shard(tmp_path / "a.h5"), **changes)
    with pytest.raises(RequestError, match=named):
        runs.execute("train", config, tmp_path / "model", Execution(dry_run=True))
