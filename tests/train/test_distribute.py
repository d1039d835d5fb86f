"""Ranks are real processes that end together, and nothing listens beyond this machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lensfinder.errors import Interrupted, MismatchError, RequestError, UnitError
from lensfinder.train import distribute
from lensfinder.train.distribute import Ranks


@pytest.fixture(autouse=True)
def _importable_by_spawned_ranks(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.config.rootpath))


def listening_addresses():
    """Addresses, as hex, on which this process listens, from Linux's own tables."""
    sockets = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            sockets.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.add(fields[1].split(":")[0])
    return found


def describe(ranks, _stop, folder):
    total = ranks.add_up(torch.tensor(float(ranks.rank + 1)))
    told = {
        "pid": os.getpid(),
        "world": ranks.world,
        "total": total.item(),
        "share": ranks.share(np.arange(7)).tolist(),
        "threads": torch.get_num_threads(),
        "devices": ranks.devices(),
        "listens": sorted(listening_addresses()),
    }
    (Path(folder) / f"{ranks.rank}.json").write_text(json.dumps(told))
    ranks.wait_for_all()


def test_ranks_are_processes_with_a_share_each_and_listen_on_the_loopback_only(tmp_path):
    distribute.launch(2, 2, tmp_path, describe, str(tmp_path))
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert len({os.getpid(), *(one["pid"] for one in told)}) == 3
    assert sorted(told[0]["share"] + told[1]["share"]) == list(range(7))
    for one in told:
        assert one["world"] == 2
        assert one["total"] == 3.0
        assert one["threads"] == 1
        assert len(one["devices"]) == 2
        assert set(one["listens"]) <= {"0100007F"}, "127.0.0.1 alone, in the kernel's byte order"
    assert not list(tmp_path.glob(".ranks.*")), "the file where ranks met is gone"


def test_ranks_meet_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / "5% a?b#c"
    distribute.launch(2, 2, folder, describe, str(tmp_path))
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert not list(folder.glob(".ranks.*"))


TWICE = """
import sys
from pathlib import Path
from lensfinder.train import distribute

def work(ranks, stop, name):
    ranks.wait_for_all()
    (Path(sys.argv[1]) / f"{name}-{ranks.rank}").touch()

for name in ("one", "two"):
    distribute.launch(1, 1, Path(sys.argv[1]), work, name, name=name)
"""


def test_ranks_that_torchrun_started_do_several_things_one_after_the_other(tmp_path):
    (tmp_path / "twice.py").write_text(TWICE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    said = subprocess.run(
        [*command, tmp_path / "twice.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert {path.name for path in tmp_path.glob("*-?")} == {"one-0", "one-1", "two-0", "two-1"}


def test_ranks_that_know_no_place_to_meet_are_told_so(tmp_path, monkeypatch):
    for name in ("MASTER_ADDR", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(RequestError, match="nothing says where ranks meet"):
        distribute.launch(1, 1, tmp_path, describe, str(tmp_path))


def stop_when_told(ranks, stop, _folder):
    if ranks.rank == 1:
        os.kill(os.getppid(), signal.SIGTERM)
    while not ranks.add_up(torch.tensor(float(bool(stop.requested)))):
        pass
    raise Interrupted("stopped at a good moment")


@pytest.mark.fault
def test_a_signal_to_the_parent_stops_all_ranks_at_a_good_moment(tmp_path):
    with pytest.raises(Interrupted, match="good moment"):
        distribute.launch(2, 2, tmp_path, stop_when_told, str(tmp_path))


def die(ranks, _stop, _folder):
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.wait_for_all()


@pytest.mark.fault
def test_a_killed_rank_ends_the_others_and_is_named(tmp_path):
    with pytest.raises(UnitError, match=r"rank 1 was killed by SIGKILL.*same command"):
        distribute.launch(2, 2, tmp_path, die, str(tmp_path))


def refuse(ranks, _stop, _folder):
    if ranks.rank == 1:
        raise MismatchError("this", "that")
    ranks.wait_for_all()


def test_what_a_rank_raises_arrives_as_it_was(tmp_path):
    with pytest.raises(MismatchError, match="this; expected that"):
        distribute.launch(2, 2, tmp_path, refuse, str(tmp_path))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_hold_every_object_exactly_once(world):
    cpu = torch.device("cpu")
    shares = [Ranks(rank, world, cpu).share(np.arange(20)) for rank in range(world)]
    assert sorted(np.concatenate(shares)) == list(range(20))


def test_torchrun_and_srun_say_how_many_ranks_there_are(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert distribute.world_size(3) == 3
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert distribute.world_size(3) == 3, "a batch script is not a step"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert distribute.world_size(1) == 8
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert distribute.world_size(4) == 4
    with pytest.raises(RequestError, match="ranks is 2, but 4 processes"):
        distribute.world_size(2)
