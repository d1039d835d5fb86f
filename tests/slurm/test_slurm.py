"""Laws of a run on a cluster, on a real Slurm of two nodes that this machine plays.

Asked for with ``pytest -m slurm``: it installs Slurm where it is missing, and takes minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from test_pipeline import assert_equal_products, assert_equal_tables

from lensfinder import checkpoint
from lensfinder.ledger import read_index

pytestmark = pytest.mark.slurm
CLUSTER = Path(__file__).with_name("cluster")
UNAVAILABLE = 69
PATIENCE_S = 600

PIPELINE = """
[run]
survey = "kids"
workers = 1
[slurm]
parts = 2
cpus = 1
memory = "2G"
[cutout]
tiles = "{root}/sample_data/tiles"
catalog = "{root}/sample_data/targets.csv"
size = 25
[simulate]
count = 256
unit_size = 64
val_fraction = 0.2
test_fraction = 0.3
[infer]
views = 8
[train]
epochs = {epochs}
batch_size = 16
save_every_s = 1
"""


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., str]]:
    """Bring Slurm up; give a function that asks it something."""
    if "slurm" not in request.config.option.markexpr:
        pytest.skip("brings up Slurm; ask for it with -m slurm")
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("needs root on a Debian")
    folder = tmp_path_factory.mktemp("cluster")
    said = folder / "said"
    # It goes down when its input ends, also by the death of this process.
    with said.open("w") as told, pytest.MonkeyPatch.context() as patch:
        held = subprocess.Popen(
            [CLUSTER, "hold", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            start_new_session=True,
        )
        assert held.stdin is not None
        assert held.stdout is not None
        try:
            if held.stdout.readline() != "up\n":
                if held.wait() == UNAVAILABLE:
                    pytest.skip(f"Slurm can't be installed: {said.read_text()[-300:]}")
                pytest.fail(said.read_text())
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))

            def ask(*command: object) -> str:
                return subprocess.run(
                    [*map(str, command)], check=True, capture_output=True, text=True
                ).stdout.strip()

            yield ask
        finally:
            held.stdin.close()
            held.wait(timeout=60)
            held.stdout.close()


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.3)  # asking Slurm takes a core, too


def state_of(ask: Callable[..., str], job: str) -> dict[str, str]:
    """Return what Slurm says of a job, of its last task where it is an array."""
    words = ask("scontrol", "show", "job", job).split()
    return dict(word.partition("=")[::2] for word in words)


def wait_for(ask: Callable[..., str], job: str) -> str:
    ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}

    def over() -> bool:
        return set(ask("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").split()) <= ended

    wait_until(over, f"job {job}")
    return state_of(ask, job)["JobState"]


@pytest.fixture(scope="module")
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "small.toml"
    path.write_text(PIPELINE.format(root=request.config.rootpath, epochs=2))
    return path


def lensfinder(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "lensfinder", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def serial(pipeline: Path) -> Path:
    folder = pipeline.parent / "serial"
    done = lensfinder("run", pipeline, "-o", folder, "--engine", "serial")
    assert done.returncode == 0, done.stderr
    return folder


def numbers_of(said: str) -> dict[str, str]:
    words = [line.split() for line in said.splitlines()]
    return {word[0]: word[2] for word in words if len(word) == 3 and word[1] == "job"}


def logs(folder: Path) -> str:
    return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(folder.glob("*.log")))


def test_a_chain_with_a_node_drained_half_way_equals_a_serial_run(
    cluster: Callable[..., str], pipeline: Path, serial: Path
) -> None:
    folder = pipeline.parent / "chain"
    said = lensfinder("run", pipeline, "-o", folder, "--engine", "slurm")
    assert said.returncode == 0, said.stderr
    jobs = numbers_of(said.stdout)
    wait_for(cluster, jobs["simulate"])
    cluster("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=test")
    try:
        assert wait_for(cluster, jobs["report"]) == "COMPLETED", logs(folder / "logs")
    finally:
        cluster("scontrol", "update", "NodeName=n2", "State=RESUME")
    assert_equal_products(serial, folder)


def test_the_recipes_by_hand_equal_a_serial_run(
    cluster: Callable[..., str], pipeline: Path, serial: Path, root: Path, tmp_path: Path
) -> None:
    recipes, output = tmp_path / "slurm", tmp_path / "out"
    shutil.copytree(root / "pipelines" / "slurm", recipes)
    asked = {"array": "1-2", "cpus-per-task": "1", "mem": "2G", "nodes": "1"}
    for recipe in recipes.glob("*.sbatch"):
        text = recipe.read_text()
        for option, value in asked.items():
            text = re.sub(
                rf"^#SBATCH --{option}=.*", f"#SBATCH --{option}={value}", text, flags=re.M
            )
        recipe.write_text(text)
    settings = (recipes / "settings.sh").read_text()
    settings = re.sub("^PIPELINE=.*", f"PIPELINE={pipeline}", settings, flags=re.M)
    settings = re.sub("^OUTPUT=.*", f"OUTPUT={output}", settings, flags=re.M)
    start = f'#!/bin/sh\nexec "{sys.executable}" -P -m lensfinder "$@"\n'
    (tmp_path / "lensfinder").write_text(start)
    (tmp_path / "lensfinder").chmod(0o755)
    settings = re.sub(r"^\. .*activate.*", f'PATH="{tmp_path}:$PATH"', settings, flags=re.M)
    (recipes / "settings.sh").write_text(settings)
    last = re.findall(r"last job is (\d+)", cluster(recipes / "chain.sh"))[0]
    assert wait_for(cluster, last) == "COMPLETED", logs(recipes)
    assert_equal_products(serial, output)


def test_what_a_lost_task_left_behind_stops_the_chain_and_is_done_by_the_next(
    cluster: Callable[..., str], pipeline: Path, serial: Path
) -> None:
    folder = pipeline.parent / "lost"
    asked = ["run", pipeline, "-o", folder, "--engine", "slurm", "--only", "simulate"]
    jobs = numbers_of(lensfinder(*asked).stdout)
    cluster("scancel", f"{jobs['simulate']}_2")
    assert wait_for(cluster, jobs["simulate-finish"]) == "FAILED"
    assert state_of(cluster, jobs["simulate-finish"])["ExitCode"] == "75:0"
    assert "2 units were not attempted" in logs(folder / "logs")
    jobs = numbers_of(lensfinder(*asked).stdout)
    assert wait_for(cluster, jobs["simulate-finish"]) == "COMPLETED", logs(folder / "logs")
    counts = [read_index(where)["counts"] for where in (folder / "simulate", serial / "simulate")]
    assert counts[0] == counts[1]


def test_a_broken_tile_fails_its_task_alone(
    cluster: Callable[..., str], pipeline: Path, tmp_path: Path, root: Path
) -> None:
    shutil.copytree(root / "sample_data" / "tiles", tmp_path / "tiles")
    victim = sorted((tmp_path / "tiles").glob("*_r_sci*"))[0]
    os.truncate(victim, 9000)
    folder = tmp_path / "out"
    asked = ["run", pipeline, "-o", folder, "--engine", "slurm", "--only", "cutout"]
    jobs = numbers_of(lensfinder(*asked, f"--set=cutout.tiles={tmp_path / 'tiles'}").stdout)
    assert wait_for(cluster, jobs["cutout-finish"]) == "COMPLETED", logs(folder / "logs")
    assert "truncated" in logs(folder / "logs")
    counts = read_index(folder / "cutout")["counts"]
    assert counts["failed"] > 0
    assert counts["ok"] > 0


def test_dask_makes_what_one_process_makes_though_its_worker_jobs_are_cancelled_half_way(
    cluster: Callable[..., str], pipeline: Path, serial: Path, tmp_path: Path
) -> None:
    def workers(state: str) -> list[str]:
        asked = ("squeue", "-h", "-n", "lensfinder-worker", "-t", state, "-o", "%i")
        return cluster(*asked).split()

    expected = sorted((serial / "infer-mocks" / "products").iterdir())
    done = tmp_path / "dask" / "products"
    command = [sys.executable, "-P", "-m", "lensfinder", "infer", serial / "simulate"]
    command += ["-o", done.parent, "--model", serial / "train", "--config", pipeline]
    process = subprocess.Popen(
        [*map(str, command), "--engine", "slurm", "--workers", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(workers("RUNNING")) == 2 or process.poll() is not None, "two jobs")
    keys = list(tmp_path.glob(".dask-jobqueue*"))
    assert keys
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}

    # Stopped with the first product, and only then cancelled: nothing more is done meanwhile.
    cancelled, members = workers("RUNNING"), list[int]()
    while not list(done.glob("*.parquet")):
        assert process.poll() is None, process.communicate()[1]
        members = [member for job in cancelled for member in processes_of(job)]
        time.sleep(0.02)
    for member in members:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGSTOP)
    assert len(list(done.glob("*.parquet"))) < len(expected)
    cluster("scancel", *cancelled)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said

    wait_until(lambda: not workers("PENDING,RUNNING,COMPLETING"), "worker jobs to be gone")
    assert set(workers("all")) > set(cancelled)
    assert not list(tmp_path.glob(".dask-jobqueue*"))
    for product in expected:
        assert_equal_tables(product, done / product.name)


def processes_of(job: str, *more: bytes) -> list[int]:
    """List a job's processes, of those only whose environment holds `more`, too."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            environ = (one / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if {f"SLURM_JOB_ID={job}".encode(), *more} <= set(environ):
            found.append(int(one.name))
    return found


@pytest.fixture(scope="module")
def training(pipeline: Path, request: pytest.FixtureRequest, serial: Path) -> Path:
    """Write a pipeline whose training takes a while, on two ranks; its mocks are there."""
    path = pipeline.parent / "training.toml"
    text = PIPELINE.format(root=request.config.rootpath, epochs=30)
    path.write_text(text.replace("[slurm]", "[slurm]\ntrain_nodes = 2"))
    return path


def curve_of(folder: Path) -> list[dict[str, float]]:
    metrics = folder / "train" / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return [json.loads(line) for line in lines]


def test_a_training_preempted_twice_ends_with_the_curve_of_an_uninterrupted_one(
    cluster: Callable[..., str], training: Path, serial: Path
) -> None:
    def mocks_in(name: str) -> Path:
        folder = training.parent / name
        folder.mkdir()
        (folder / "simulate").symlink_to(serial / "simulate")
        return folder

    def submit(folder: Path) -> str:
        asked = ("run", training, "-o", folder, "--engine", "slurm", "--only", "train")
        said = lensfinder(*asked)
        assert said.returncode == 0, said.stderr
        return numbers_of(said.stdout)["train"]

    def restarts() -> int:
        return int(state_of(cluster, job)["Restarts"])

    def interrupt(by: Callable[[], object]) -> None:
        before, times = len(curve_of(folder)), restarts()
        wait_until(lambda: len(curve_of(folder)) > before + 3, "some epochs")
        by()
        wait_until(lambda: restarts() > times, "the job to restart")

    def preempt() -> None:
        asked = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
        urgent.append(cluster("sbatch", "--parsable", *asked, "--wrap=true"))

    def preempt_when_deaf() -> None:  # to the warning: killed when its time of grace is over
        held = processes_of(job, b"SLURM_STEP_NUM_TASKS=2")
        assert len(held) >= 2
        for process in held:
            os.kill(process, signal.SIGSTOP)
        preempt()

    whole, folder, urgent = mocks_in("uninterrupted"), mocks_in("interrupted"), list[str]()
    assert wait_for(cluster, submit(whole)) == "COMPLETED", logs(whole / "logs")
    job = submit(folder)
    interrupt(lambda: cluster("scancel", "--signal=USR1", job))  # as before the time limit
    interrupt(preempt)
    interrupt(preempt_when_deaf)
    assert wait_for(cluster, job) == "COMPLETED", logs(folder / "logs")
    assert {wait_for(cluster, one) for one in urgent} == {"COMPLETED"}
    assert len(urgent) == 2
    for stop in ("SIGUSR1", "SIGTERM"):
        assert f"training stopped by {stop}" in logs(folder / "logs")

    curves = [curve_of(where) for where in (folder, whole)]
    assert len(curves[0]) == len(curves[1]) == 30
    for one, other in zip(*curves, strict=True):
        assert one["step"] == other["step"]
        np.testing.assert_allclose(one["train_loss"], other["train_loss"], rtol=1e-6)
        np.testing.assert_allclose(one["val_loss"], other["val_loss"], rtol=1e-6)

    models = [
        checkpoint.load(where / "train" / "products" / "model.safetensors")
        for where in (folder, whole)
    ]
    assert models[0].provenance["world_size"] == 2
    assert models[0].provenance["devices"] == ["cpu", "cpu"]
