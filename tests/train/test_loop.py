"""The same stamps and settings give the same weights, however the work was split or stopped."""

import json
from pathlib import Path

import pytest
import torch

from lensfinder.errors import Interrupted, RequestError
from lensfinder.signals import Stop
from lensfinder.train import data, loop, network, stage
from lensfinder.train.distribute import Ranks
from lensfinder.train.settings import Settings
from lensfinder.train.states import States

ALONE = Ranks(0, 1, torch.device("cpu"))
SETTINGS = {
    "network": "lensnet",
    "epochs": 2,
    "batch_size": 27,
    "learning_rate": 2e-3,
    "weight_decay": 1e-3,
    "warmup": 0.1,
    "clip_norm": 1.0,
    "shift_pixels": 1,
    "seed": 3,
}
STEPS_AN_EPOCH = 4  # of 108 training stamps


@pytest.fixture
def stamps(tmp_path, write_shard):
    return data.open_set([write_shard(tmp_path / f"{i}.h5", seed=i) for i in range(2)])


class StopAfter(Stop):
    """Somebody who asks to stop after some steps, or kills the process there."""

    def __init__(self, steps, kill=False):
        super().__init__()
        self.steps, self.kill = steps, kill
        self.count(0, "")

    def count(self, steps, _note):
        self.steps -= steps
        if self.steps == 1 and not self.kill:
            self.requested = "SIGTERM"  # while the last step is being done
        if self.steps == 0 and self.kill:
            raise KeyboardInterrupt


def train(stamps, folder, stop=None, save_every_s=1e9, start=None, **changes):
    stop = stop or StopAfter(10**9)
    return loop.train(
        stamps,
        Settings(**{**SETTINGS, **changes}),
        ALONE,
        States(folder),
        stop,
        start=start,
        save_every_s=save_every_s,
        on_step=stop.count,
    )


def assert_same(outcome, other):
    assert outcome.history == other.history
    assert outcome.temperature == other.temperature
    for name, tensor in outcome.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name]), name


def test_stopped_anywhere_and_resumed_is_as_uninterrupted(stamps, tmp_path):
    whole = train(stamps, tmp_path / "whole")
    for steps in (1, STEPS_AN_EPOCH, STEPS_AN_EPOCH + 2):
        folder = tmp_path / f"{steps}"
        with pytest.raises(Interrupted, match=f"after {steps} of 8 steps") as caught:
            train(stamps, folder, StopAfter(steps))
        assert caught.value.exit_code == 75
        assert_same(train(stamps, folder), whole)


@pytest.mark.parametrize(("steps", "save_every_s"), [(3, 0.0), (3, 1e9), (6, 1e9)])
@pytest.mark.fault
def test_killed_and_run_again_is_as_uninterrupted(stamps, tmp_path, steps, save_every_s):
    """The last state is that of the step before, or none, or that of the epoch before."""
    with pytest.raises(KeyboardInterrupt):
        train(stamps, tmp_path / "killed", StopAfter(steps, kill=True), save_every_s)
    again = train(stamps, tmp_path / "killed")
    assert_same(again, train(stamps, tmp_path / "whole"))


def test_batch_statistics_resume_too(tmp_path, write_shard):
    stamps = data.open_set([write_shard(tmp_path / "a.h5", n=30)])
    few = {"network": "deeplens", "batch_size": 6, "epochs": 1}
    with pytest.raises(Interrupted):
        train(stamps, tmp_path / "stopped", StopAfter(2), **few)
    again = train(stamps, tmp_path / "stopped", **few)
    assert_same(again, train(stamps, tmp_path / "whole", **few))


@pytest.mark.parametrize("damage", ["truncate", "flip"])
@pytest.mark.fault
def test_a_damaged_newest_state_falls_back_and_says_so(stamps, tmp_path, capsys, damage):
    whole = train(stamps, tmp_path / "whole")
    folder = tmp_path / "damaged"
    with pytest.raises(Interrupted):
        train(stamps, folder, StopAfter(6))
    older, newest = sorted(folder.iterdir())
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content if damage == "flip" else content[:-100])
    again = train(stamps, folder)
    assert f"{newest.name} is damaged" in capsys.readouterr().err
    assert older.exists() or len(list(folder.iterdir())) == 2
    assert_same(again, whole)


def test_dropout_auxiliaries_averages_and_augmentation_resume_too(tmp_path, write_shard):
    stamps = data.open_set([write_shard(tmp_path / "a.h5", n=30, size=33)])
    many = {"network": "googlenet", "batch_size": 9, "epochs": 1, "ema": 0.9, "balance": True}
    many |= {"rotation_deg": 45.0, "zoom": 0.9, "noise": 0.1, "blur_pixels": 1.0}
    with pytest.raises(Interrupted):
        train(stamps, tmp_path / "stopped", StopAfter(1), **many)
    again = train(stamps, tmp_path / "stopped", **many)
    assert_same(again, train(stamps, tmp_path / "whole", **many))
    assert not any("auxiliar" in name for name in again.network.state_dict())


def test_training_ends_when_patience_does(stamps, tmp_path):
    keys = {"epochs": 9, "patience": 2, "learning_rate": 1e-12}
    outcome = train(stamps, tmp_path / "states", **keys)
    assert len(outcome.history) == outcome.best_epoch + 2 < 9
    # Finished states tell the same again.
    assert train(stamps, tmp_path / "states", **keys).history == outcome.history


def test_head_first_then_all_from_a_trained_model(stamps, tmp_path, make_unit):
    unit = make_unit()
    stage.do(unit)
    model = stage.checkpoint.load(unit.product, "cpu")
    keys = {"epochs": 2, "head_epochs": 1, "new_head": False}
    kept = {}

    def look(folder, stop):
        with pytest.raises(Interrupted):
            train(stamps, folder, stop, start=model, **keys)
        kept[folder.name] = States(folder).load(States(folder).newest_step())["network"]

    look(tmp_path / "head", StopAfter(STEPS_AN_EPOCH))
    look(tmp_path / "all", StopAfter(STEPS_AN_EPOCH + 1))
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, kept["head"][name]) != name.startswith("head."), name
        assert not torch.equal(tensor, kept["all"][name]), name


def test_half_precision_on_a_cpu_is_refused(stamps, tmp_path):
    with pytest.raises(RequestError, match=r"float16.*CPU"):
        train(stamps, tmp_path / "states", precision="float16")


def test_bfloat16_on_a_cpu_wants_matrix_units_for_it(stamps, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "cpu_multiplies_bfloat16", lambda: False)
    with pytest.raises(RequestError, match=r"bfloat16.*CPU"):
        train(stamps, tmp_path / "states", precision="bfloat16")
    exact = train(stamps, tmp_path / "exact")
    # Slow where it is emulated, but not on stamps this small.
    monkeypatch.setattr(network, "cpu_multiplies_bfloat16", lambda: True)
    mixed = train(stamps, tmp_path / "mixed", precision="bfloat16")
    losses = [[row["train_loss"] for row in each.history] for each in (exact, mixed)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]
    kinds = {tensor.dtype for tensor in mixed.network.state_dict().values()}
    assert torch.bfloat16 not in kinds


AUGMENTATIONS = {
    "rotation_deg": 45.0,
    "zoom": 0.9,
    "noise": 0.3,
    "band_dropout": 0.1,
}


def test_ranks_share_a_global_batch_and_give_the_same_losses(make_unit):
    """Also: validation counts each object once, since its mean loss is the same."""
    curves = []
    for ranks in (1, 2, 3):
        keys = {"ranks": ranks, "epochs": 5, "batch_size": 10, "ema": 0.99, **AUGMENTATIONS}
        unit = make_unit(f"ranks-{ranks}", precision="float64", **keys)
        stage.do(unit)
        lines = (Path(unit.task["folder"]) / "metrics.jsonl").read_text().splitlines()
        curves.append([json.loads(line) for line in lines])
        provenance = stage.checkpoint.read_header(unit.product)["provenance"]
        assert provenance["world_size"] == ranks
        assert len(provenance["devices"]) == ranks
    assert [line["step"] for line in curves[0]] == [10, 20, 30, 40, 50]
    for curve in curves[1:]:
        for line, alone in zip(curve, curves[0], strict=True):
            assert line == pytest.approx(alone, rel=0, abs=1e-9)


@pytest.mark.fault
def test_a_loss_that_is_not_finite_is_an_error_and_keeps_the_last_state(stamps, tmp_path):
    with pytest.raises(RequestError, match=r"no longer finite.*Nothing was trained before"):
        train(stamps, tmp_path / "none", learning_rate=1e37, warmup=0.0)
    folder = tmp_path / "states"
    with pytest.raises(Interrupted):
        train(stamps, folder, StopAfter(1), learning_rate=1e37, warmup=0.0)
    with pytest.raises(RequestError, match=rf"no longer finite.*stays in {folder}"):
        train(stamps, folder, learning_rate=1e37, warmup=0.0)
    assert States(folder).newest_step() is not None


@pytest.mark.fault
def test_more_ranks_than_stamps_in_a_batch_are_refused(stamps, tmp_path):
    with pytest.raises(RequestError, match="2 stamps for 3 ranks"):
        loop.train(
            stamps,
            Settings(**{**SETTINGS, "batch_size": 2}),
            Ranks(0, 3, torch.device("cpu")),
            States(tmp_path / "states"),
            Stop(),
        )
