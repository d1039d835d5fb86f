"""The same stamps and settings give the same weights, however the work was split or stopped."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lensfinder.errors import Interrupted, RequestError
from lensfinder.signals import Stop
from lensfinder.train import data, loop, optimise, stage
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


def train(stamps, folder, stop=None, save_every_s=1e9, **changes):
    stop = stop or StopAfter(10**9)
    return loop.train(
        stamps,
        Settings(**{**SETTINGS, **changes}),
        ALONE,
        States(folder),
        stop,
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


def test_ranks_share_a_global_batch_and_give_the_same_losses(make_unit):
    """Also: validation counts each object once, since its mean loss is the same."""
    curves = []
    for ranks in (1, 2, 3):
        unit = make_unit(f"ranks-{ranks}", precision="float64", ranks=ranks)
        stage.do(unit)
        lines = (Path(unit.task["folder"]) / "metrics.jsonl").read_text().splitlines()
        curves.append([json.loads(line) for line in lines])
        provenance = stage.checkpoint.read_header(unit.product)["provenance"]
        assert provenance["world_size"] == ranks
        assert len(provenance["devices"]) == ranks
    assert [line["step"] for line in curves[0]] == [4, 8]
    for curve in curves[1:]:
        for line, alone in zip(curve, curves[0], strict=True):
            assert line == pytest.approx(alone, rel=0, abs=1e-9)


def test_a_loss_that_is_not_finite_is_an_error_and_keeps_the_last_state(stamps, tmp_path):
    folder = tmp_path / "states"
    with pytest.raises(Interrupted):
        train(stamps, folder, StopAfter(1), learning_rate=1e37, warmup=0.0)
    with pytest.raises(RequestError, match=r"no longer finite.*learning_rate"):
        train(stamps, folder, learning_rate=1e37, warmup=0.0)
    assert States(folder).newest_step() is not None


def test_more_ranks_than_stamps_in_a_batch_are_refused(stamps, tmp_path):
    with pytest.raises(RequestError, match="2 stamps for 3 ranks"):
        loop.train(
            stamps,
            Settings(**{**SETTINGS, "batch_size": 2}),
            Ranks(0, 3, torch.device("cpu")),
            States(tmp_path / "states"),
            Stop(),
        )


def test_schedule_rises_to_its_peak_and_falls_to_nothing():
    rates = [optimise.schedule(step, 100, 0.1) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert all(late <= early for early, late in pairwise(rates[9:]))
    assert 0 <= rates[-1] < 1e-3
    assert math.isfinite(optimise.schedule(0, 1, 0.0))
