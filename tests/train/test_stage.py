"""`train` as a stage: one unit, proven by its model, refused where the request can't be met."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lensfinder import checkpoint, runs, shards, tables
from lensfinder.config import Config, RunConfig, TrainConfig
from lensfinder.errors import LensfinderError, MismatchError, RequestError
from lensfinder.ledger import products_of
from lensfinder.pixels import RECIPES
from lensfinder.runs import Execution
from lensfinder.train import data, optimise

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


def metrics_of(folder, suffix=""):
    lines = (folder / f"metrics{suffix}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_members_are_added_to_what_is_there_and_listed(tmp_path, write_shard):
    path = write_shard(tmp_path / "a.h5")
    folder = tmp_path / "models"
    one = configure(path, epochs=1)
    assert runs.execute("train", one, folder, SERIAL).done == 1
    first = metrics_of(folder)
    summary = runs.execute("train", configure(path, epochs=1, members=2), folder, SERIAL)
    assert (summary.done, summary.reused) == (1, 1)
    listed = products_of(folder, "train")
    assert [product.name for product in listed] == [
        "model.safetensors",
        "model-member-2.safetensors",
    ]
    members = [checkpoint.load(product, "cpu") for product in listed]
    assert members[0].model_id != members[1].model_id
    assert [member.provenance["seed"] for member in members] == [1, 2]
    assert metrics_of(folder) == first != metrics_of(folder, "-member-2")


@pytest.mark.fault
def test_sets_train_a_model_each_and_may_not_leak_into_each_other(tmp_path, write_shard):
    paths = [write_shard(tmp_path / f"{name}.h5", seed=i) for i, name in enumerate("ab")]
    summary = runs.execute(
        "train", configure(paths, epochs=1, separately=True), tmp_path / "models", SERIAL
    )
    listed = products_of(tmp_path / "models", "train")
    assert [product.stem for product in listed] == ["model-set-1", "model-set-2"]
    assert summary.counts["planned"] == 2 * 84
    leaking = write_shard(tmp_path / "c.h5", seed=2, host_id=[f"b-h{i}" for i in range(18, 108)])
    with pytest.raises(MismatchError, match="host_id stand in both"):
        runs.execute(
            "train",
            configure([*paths, leaking], separately=True),
            tmp_path / "more",
            Execution(dry_run=True),
        )


def test_folds_score_every_object_once_by_a_model_that_never_saw_it(tmp_path, write_shard):
    hosts = [f"h{i // 2}" for i in range(90)]  # a lens and a non-lens of each
    path = write_shard(tmp_path / "a.h5", host_id=hosts)
    folder = tmp_path / "models"
    summary = runs.execute("train", configure(path, epochs=1, folds=3), folder, SERIAL)
    assert summary.exit_code == 0
    assert "out of fold AUROC" in summary.lines[-1]
    columns = tables.read_columns(folder / "out-of-fold.parquet")
    pool = [f"a-{i}" for i in range(90) if i % 30 < 28]
    assert sorted(columns["id"]) == sorted(pool), "the test split stays unseen by all"
    assert set(columns["fold"]) == {1, 2, 3}
    fold_of_host = {}
    for name, fold in zip(columns["id"], columns["fold"], strict=True):
        host = hosts[int(name.removeprefix("a-"))]
        assert fold_of_host.setdefault(host, fold) == fold
    for product in products_of(folder, "train"):
        stamps = checkpoint.read_header(product)["provenance"]["stamps"]
        assert sum(stamps.values()) == 84


@pytest.mark.parametrize("other", ["val", "test"])
@pytest.mark.fault
def test_a_turned_twin_in_two_splits_is_found_and_named(tmp_path, write_shard, other):
    path = write_shard(tmp_path / "a.h5")
    with shards.read(path) as shard:
        image, mask, catalog = shard.image[:], shard.mask[:], dict(shard.catalog)
        header = shard.header
    splits = np.asarray(catalog["split"]).astype(str)
    of, to = np.flatnonzero(splits == "train")[4], np.flatnonzero(splits == other)[1]
    image[to] = np.rot90(image[of], 1, axes=(1, 2))[:, :, ::-1]
    shards.write(path, header, image, mask, catalog)
    summary = runs.execute("train", configure(path), tmp_path / "model", SERIAL)
    assert summary.exit_code == 4
    (failure,) = summary.failures.values()
    assert f"train and {other}, among them 'a-{min(of, to)}'" in failure.message
    assert "same pixels" in failure.message


def recipe(seed=3):
    """Ingredients of `simulate` for small modelled mocks."""
    from lensfinder.simulate.planning import load_population

    return {
        "seed": seed,
        "simulate": {
            "bands": ["g", "r"],
            "size": 25,
            "val_fraction": 0.1,
            "test_fraction": 0.2,
        },
        "sky": {
            "survey": "kids",
            "pixel_scale_arcsec": 0.2,
            "reference_band": "r",
            "psf_fwhm_arcsec": {"g": 0.8, "r": 0.7},
            "sky_rms_njy": {"g": 4.0, "r": 6.3},
        },
        "population": load_population("general").model_dump(mode="json"),
    }


def test_a_stream_trains_on_other_mocks_in_each_epoch_and_any_rank_count_on_the_same(
    tmp_path, write_shard
):
    path = write_shard(tmp_path / "a.h5", ingredients=recipe())
    curves = []
    for ranks in (1, 2):
        folder = tmp_path / f"{ranks}"
        chosen = configure(path, stream=True, ranks=ranks, epochs=1, learning_rate=1e-9)
        assert runs.execute("train", chosen, folder, SERIAL).exit_code == 0
        curves += metrics_of(folder)
    assert curves[0]["train_loss"] == pytest.approx(curves[1]["train_loss"], rel=1e-5)
    still = configure(path, epochs=1, learning_rate=1e-9)
    runs.execute("train", still, tmp_path / "shards", SERIAL)
    (line,) = metrics_of(tmp_path / "shards")
    # A fresh network's logits hardly depend on the stamp.
    assert line["train_loss"] != pytest.approx(curves[0]["train_loss"], rel=1e-4)
    assert line["val_loss"] == pytest.approx(curves[0]["val_loss"], rel=1e-3)


def test_only_mocks_on_modelled_galaxies_are_streamed(tmp_path, write_shard):
    painted = write_shard(tmp_path / "p.h5", ingredients={**recipe(), "hosts": []})
    others = write_shard(tmp_path / "o.h5", seed=1, ingredients=recipe(seed=4))
    plain = write_shard(tmp_path / "a.h5", seed=2, ingredients=recipe())
    for paths, named in (([painted], "made from hosts"), ([plain, others], "different recipes")):
        with pytest.raises(LensfinderError, match=named):
            runs.execute(
                "train", configure(paths, stream=True), tmp_path / "m", Execution(dry_run=True)
            )


def test_what_the_first_model_saw_its_successor_has_seen(tmp_path, write_shard):
    """Its own galaxies are flagged whoever trained on them last."""
    for name, ra in (("a", 10.0), ("b", 20.0)):
        trains_N = np.arange(90) % 30 < 18
        place = {"ra": np.where(trains_N, ra, np.nan), "dec": np.where(trains_N, -30.0, np.nan)}
        path = write_shard(tmp_path / f"{name}.h5", seed=ord(name), **place)
        begun = {} if name == "a" else {"init": tmp_path / "a"}
        runs.execute("train", configure(path, epochs=1, **begun), tmp_path / name, SERIAL)
    model = checkpoint.load(tmp_path / "b" / "products" / "model.safetensors", "cpu")
    assert model.training_radec_deg_N2.tolist() == [[10.0, -30.0], [20.0, -30.0]]


def test_weights_to_begin_with_are_part_of_what_a_model_is_made_of(tmp_path, write_shard):
    path = write_shard(tmp_path / "a.h5")
    runs.execute("train", configure(path, epochs=1), tmp_path / "old", SERIAL)
    begun = configure(path, epochs=1, init=tmp_path / "old", freeze=3, layer_decay=0.8)
    summary = runs.execute("train", begun, tmp_path / "new", SERIAL)
    assert summary.exit_code == 0
    old = checkpoint.load(tmp_path / "old" / "products" / "model.safetensors", "cpu")
    new = checkpoint.load(tmp_path / "new" / "products" / "model.safetensors", "cpu")
    assert new.provenance["ingredients"]["init"] == old.model_id
    assert torch.equal(new.network.stem.weight, old.network.stem.weight)
    assert not torch.equal(new.network.head.weight, old.network.head.weight)
    with pytest.raises(MismatchError, match="is a lensnet, and a deeplens"):
        runs.execute(
            "train",
            configure(path, init=tmp_path / "old", network="deeplens"),
            tmp_path / "x",
            Execution(dry_run=True),
        )


def test_a_network_that_sees_what_half_a_turn_changes(tmp_path, write_shard):
    path = write_shard(tmp_path / "a.h5")
    both = [
        configure(path, epochs=1, pixels="sky-turned", noise=noise, ranks=ranks)
        for noise, ranks in ((0.0, 1), (0.1, 2))  # kept in memory; made anew in each epoch
    ]
    for number, config in enumerate(both):
        summary = runs.execute("train", config, tmp_path / f"{number}", SERIAL)
        assert summary.exit_code == 0
        model = checkpoint.load(tmp_path / f"{number}" / "products" / "model.safetensors", "cpu")
        assert model.transform.channel_count == 2 * len(model.spec.bands)
        assert model.network.stem.weight.shape[1] == 4
    # Who goes on from it sees the same, unless told otherwise, which can't be.
    runs.execute("train", configure(path, epochs=1, init=tmp_path / "0"), tmp_path / "on", SERIAL)
    model = checkpoint.load(tmp_path / "on" / "products" / "model.safetensors", "cpu")
    assert model.transform.recipe == RECIPES["sky-turned"]
    plain = configure(path, init=tmp_path / "0", pixels="sky")
    with pytest.raises(MismatchError, match="half a turn"):
        runs.execute("train", plain, tmp_path / "x", Execution(dry_run=True))


def test_what_was_learnt_before_the_loss_became_infinite_is_kept(
    tmp_path, write_shard, monkeypatch
):
    path = write_shard(tmp_path / "a.h5")
    monkeypatch.setattr(optimise, "schedule", lambda step, *_: 1.0 if step < 3 else 1e40)
    summary = runs.execute("train", configure(path), tmp_path / "model", SERIAL)
    assert summary.exit_code == 2
    (failure,) = summary.failures.values()
    assert "no longer finite in epoch 2" in failure.message
    assert "best-so-far" in failure.message
    assert len(list((tmp_path / "model" / "states").rglob("*.state"))) > 0
    assert len(metrics_of(tmp_path / "model")) == 1
    monkeypatch.undo()
    begun = configure(path, init=tmp_path / "model" / "best-so-far.safetensors", new_head=False)
    assert runs.execute("train", begun, tmp_path / "again", SERIAL).exit_code == 0


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"folds": 1}, "nothing to train on"),
        ({"freeze": 2}, "expected init"),
        ({"balance": True, "lens_weight": 2.0}, "one of them"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, named):
    with pytest.raises(ValueError, match=named):
        TrainConfig(**keys)


def test_folds_do_not_begin_with_a_model_of_the_same_stamps(tmp_path, write_shard):
    path = write_shard(tmp_path / "a.h5")
    runs.execute("train", configure(path, epochs=1), tmp_path / "old", SERIAL)
    begun = configure(path, epochs=1, folds=2, init=tmp_path / "old")
    with pytest.raises(MismatchError, match="trained on 1 of these 1 shards"):
        runs.execute("train", begun, tmp_path / "folds", SERIAL)
    other = write_shard(tmp_path / "b.h5", seed=2)
    begun = configure(other, epochs=1, folds=2, init=tmp_path / "old")
    assert runs.execute("train", begun, tmp_path / "others", SERIAL).exit_code == 0


def test_states_of_other_options_stay_and_lost_metrics_are_no_riddle(tmp_path, write_shard, capsys):
    config = configure(write_shard(tmp_path / "a.h5"), epochs=1)
    left = tmp_path / "model" / "states" / ("0" * 16)
    left.mkdir(parents=True)
    runs.execute("train", config, tmp_path / "model", Execution(engine="serial"))
    # Told before the training, which may take days.
    said = capsys.readouterr().err
    assert said.startswith(f"note: {left.parent} holds states of a training with other options")
    assert left.exists()
    assert [path.name for path in left.parent.iterdir()] == [left.name]
    (tmp_path / "model" / "metrics.jsonl").unlink()
    again = runs.execute("train", config, tmp_path / "model", SERIAL)
    assert (again.exit_code, again.done) == (0, 0)


def test_shards_count_once_however_they_are_spelt(tmp_path, write_shard, monkeypatch):
    shard = write_shard(tmp_path / "a.h5")
    monkeypatch.chdir(tmp_path)
    once, twice = (data.open_set(paths) for paths in ([shard], [shard, Path("a.h5"), shard]))
    assert len(once.label_N) == len(twice.label_N) == 90
    shutil.copy(shard, tmp_path / "copy.h5")
    with pytest.raises(RequestError, match=r"a\.h5 and .*copy\.h5 hold the same stamps"):
        data.open_set([shard, tmp_path / "copy.h5"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shift_pixels": 13}, "shift_pixels is 13; expected less than half of a stamp"),
        (
            {"network": "petrillo2017", "batch_size": 2, "ranks": 2},
            "at least 2 stamps for each rank",
        ),
    ],
)
def test_what_no_step_can_do_is_refused_before_the_first(tmp_path, write_shard, changes, said):
    config = configure(write_shard(tmp_path / "a.h5", size=41), **changes)
    if "network" not in changes:
        config = configure(write_shard(tmp_path / "b.h5"), **changes)
    with pytest.raises(RequestError, match=said):
        runs.execute("train", config, tmp_path / "model", SERIAL)
