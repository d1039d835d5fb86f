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
from pathlib import Path

import numpy as np
import pytest
from test_pipeline import assert_equal_products, assert_equal_tables

from lensfinder import checkpoint
from lensfinder.ledger import read_index

pytestmark = pytest.mark.slurm
CLUSTER = Path(__file__).with_name("cluster")
UNAVAILABLE = 69
PATIENCE_S = 300

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
    came = subprocess.run([CLUSTER, "up", folder], capture_output=True, text=True, check=False)
    try:
        if came.returncode == UNAVAILABLE:
            pytest.skip(f"Slurm can't be installed: {came.stderr[-300:]}")
        assert came.returncode == 0, came.stderr
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))

            def ask(*command: object) -> str:
                return subprocess.run(
                    [*map(str, command)], check=True, capture_output=True, text=True
                ).stdout.strip()

            yield ask
    finally:
        subprocess.run([CLUSTER, "down", folder], check=True)


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.3)


def state_of(ask: Callable[..., str], job: str) -> dict[str, str]:
    """Return what Slurm says of a job, of its last task where it is an array."""
    words = ask("scontrol", "show", "job", job).split()
    return dict(word.partition("=")[::2] for word in words)


def wait_for(ask: Callable[..., str], job: str) -> str:
    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    wait_until(
        lambda: (
            not ask("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").strip()
            or all(
                state in ended
                for state in ask("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").split()
            )
        ),
        f"job {job}",
    )
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


def test_dask_makes_what_one_process_makes_though_a_worker_job_is_cancelled(
    cluster: Callable[..., str], pipeline: Path, serial: Path, tmp_path: Path
) -> None:
    def workers(state: str) -> list[str]:
        asked = ("squeue", "-h", "-n", "lensfinder-worker", "-t", state, "-o", "%i")
        return cluster(*asked).split()

    command = [sys.executable, "-P", "-m", "lensfinder", "infer", serial / "simulate"]
    command += ["-o", tmp_path / "dask", "--model", serial / "train", "--config", pipeline]
    process = subprocess.Popen(
        [*map(str, command), "--engine", "slurm", "--workers", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(workers("RUNNING")) == 2 or process.poll() is not None, "two workers")
    keys = list(tmp_path.glob(".dask-jobqueue*"))
    assert keys
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    cluster("scancel", workers("RUNNING")[0])
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    wait_until(lambda: not workers("PENDING,RUNNING"), "worker jobs to be gone")
    assert not list(tmp_path.glob(".dask-jobqueue*"))
    products = sorted((serial / "infer-mocks" / "products").iterdir())
    assert len(products) > 1
    for product in products:
        assert_equal_tables(product, tmp_path / "dask" / "products" / product.name)


@pytest.fixture(scope="module")
def training(pipeline: Path, request: pytest.FixtureRequest, serial: Path) -> Path:
    """Write a pipeline whose training takes a while, on two ranks; its mocks are there."""
    path = pipeline.parent / "training.toml"
    text = PIPELINE.format(root=request.config.rootpath, epochs=30)
    path.write_text(text.replace("[slurm]", "[slurm]\ntrain_nodes = 2"))
    return path


def curve_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ranks_of(job: str) -> list[int]:
    """List the processes of a job's ranks."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            environ = (one / "environ").read_bytes().split(b"\0")
            command = (one / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        in_step = b"SLURM_STEP_NUM_TASKS=2" in environ
        if f"SLURM_JOB_ID={job}".encode() in environ and in_step and b"lensfinder" in command:
            found.append(int(one.name))
    return found


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

    def has_epochs(folder: Path, more_than: int) -> bool:
        metrics = folder / "train" / "metrics.jsonl"
        return metrics.exists() and len(metrics.read_text().splitlines()) > more_than

    whole = mocks_in("uninterrupted")
    assert wait_for(cluster, submit(whole)) == "COMPLETED", logs(whole / "logs")

    folder = mocks_in("preempted")
    job = submit(folder)
    for preemption, stuck in enumerate((False, True), 1):
        before = len(curve_of(folder / "train")) if preemption > 1 else 0
        wait_until(lambda b=before: has_epochs(folder, b + 3), "some epochs")  # type: ignore[misc]
        if stuck:  # deaf to the warning, it is killed when its time of grace is over
            held = ranks_of(job)
            assert len(held) == 2
            for process in held:
                os.kill(process, signal.SIGSTOP)
        urgent = cluster(
            "sbatch",
            "--parsable",
            "--partition=urgent",
            "--nodes=2",
            "--exclusive",
            "--output=/dev/null",
            "--wrap=true",
        )
        wait_until(
            lambda n=preemption: state_of(cluster, job)["Restarts"] == str(n), "the job to restart"
        )  # type: ignore[misc]
        assert wait_for(cluster, urgent) == "COMPLETED"
    assert wait_for(cluster, job) == "COMPLETED", logs(folder / "logs")
    assert "training stopped by SIGTERM" in logs(folder / "logs")

    curves = [curve_of(where / "train") for where in (folder, whole)]
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
