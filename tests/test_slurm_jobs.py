"""Laws of the jobs that a chain becomes, without a cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensfinder import slurm
from lensfinder.config import load
from lensfinder.pipeline import chain

QUICKSTART = Path("pipelines") / "quickstart.toml"


@pytest.fixture
def jobs(root: Path, tmp_path: Path) -> dict[str, slurm.Job]:
    config = load(root / QUICKSTART, ["slurm.parts=3", "slurm.train_gpus=2", "slurm.setup=a 'b'"])
    steps = chain(config, tmp_path / "out put 5%")
    listed = slurm.jobs_of(steps, tmp_path / "out put 5%", config.slurm, "lensfinder run")
    for number, job in enumerate(listed):
        assert set(job.after) <= {before.name for before in listed[:number]}
    return {job.name: job for job in listed}


def everything_before(jobs: dict[str, slurm.Job], name: str) -> set[str]:
    return set(jobs[name].after).union(*(everything_before(jobs, one) for one in jobs[name].after))


def test_each_stage_waits_for_those_it_reads_and_for_no_others(jobs: dict[str, slurm.Job]) -> None:
    assert everything_before(jobs, "report") == set(jobs) - {"report"}
    assert everything_before(jobs, "train") == {"simulate", "simulate-finish"}
    assert "cutout" not in everything_before(jobs, "infer-mocks")
    assert {"cutout-finish", "train"} <= everything_before(jobs, "infer-sky")
    # A lost task must not keep the merging job from telling so; all else needs what is before it.
    for name, job in jobs.items():
        for before, how in job.after.items():
            assert how == ("afterany" if name == f"{before}-finish" else "afterok")


def test_scripts_are_shells(jobs: dict[str, slurm.Job], tmp_path: Path) -> None:
    for job in jobs.values():
        checked = subprocess.run(["bash", "-n"], input=job.script, text=True, check=False)
        assert checked.returncode == 0, job.script
        number = "%A_%a" if "--array=" in job.script else "%j"
        assert f"#SBATCH '--output={tmp_path}/out put 5%%/logs/%x-{number}.log'" in job.script
        # What sets up a cluster often reads what isn't set.
        assert "set -eu" not in job.script
        assert job.script.index("a 'b'") < job.script.index("set -u")
    assert "--array=1-3" in jobs["cutout"].script
    assert "--gpus-per-node=2" in jobs["train"].script
    assert "--gpus" not in jobs["cutout"].script


def test_recipes_are_shells(root: Path) -> None:
    recipes = [*(root / "pipelines" / "slurm").iterdir()]
    assert len(recipes) > 5
    for recipe in recipes:
        assert subprocess.run(["bash", "-n", recipe], check=False).returncode == 0


def test_without_slurm_it_says_so(
    root: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "out"
    for asked in (("run", root / QUICKSTART), ("simulate", "-n", 128)):
        said = command(*asked, "-o", out, "--engine", "slurm")
        assert said.code == 2
        assert "there is no sbatch here" in said.err


def test_a_refused_job_takes_those_before_it_along(
    root: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").write_text(
        f"#!/bin/bash\necho x >>{tmp_path}/asked\nn=$(wc -l <{tmp_path}/asked)\n"
        '[ "$n" -lt 3 ] || { echo "no such partition" >&2; exit 1; }\necho "$n;here"\n'
    )
    (tmp_path / "scancel").write_text(f'#!/bin/bash\necho "$@" >{tmp_path}/cancelled\n')
    for tool in ("sbatch", "scancel"):
        (tmp_path / tool).chmod(0o755)
    system = Path(shutil.which("bash") or "").parent
    monkeypatch.setenv("PATH", f"{tmp_path}:{system}")
    said = command("run", root / QUICKSTART, "-o", tmp_path / "out", "--engine", "slurm")
    assert said.code == 2
    assert "no such partition" in said.err
    assert (tmp_path / "cancelled").read_text().split() == ["1", "2"]


def test_check_asks_whether_the_jobs_would_run(
    root: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tmp_path / "mine.toml"
    pipeline.write_text('[simulate]\ncount = 128\n[slurm]\ntrain_options = ["--qos=none"]\n')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no sbatch here" in command("check", pipeline).out
    (tmp_path / "sbatch").write_text(
        '#!/bin/bash\n[[ $(</dev/stdin) != *qos* ]] || { echo "no such\n qos" >&2; exit 1; }\n'
    )
    (tmp_path / "sbatch").chmod(0o755)
    said = command("check", pipeline)
    assert said.code == 3
    assert re.search(r"slurm +would fail: train: no such qos\n", said.out)
    pipeline.write_text("[simulate]\ncount = 128\n[slurm]\nparts = 2\n")
    said = command("check", pipeline)
    assert said.code == 0
    assert re.search(r"slurm +ok, it would run these \d+ jobs\n", said.out)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("--only", "infer-sly"), "infer-sky"),
        (("--part", "1/2"), "Add --only with one of cutout, simulate"),
        (("--finish",), "Add --only with one of cutout, simulate"),
    ],
)
def test_one_stage_is_named(
    root: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    asked: tuple[str, ...],
    sentence: str,
) -> None:
    said = command("run", root / QUICKSTART, "-o", tmp_path / "out", *asked)
    assert said.code == 2
    assert sentence in said.err
