"""Work as Slurm jobs: those of a chain, and worker jobs of a single stage.

In a chain, a stage of many units is a job array, each task with a share of them, and a job that
merges what the array did. Every script may run again from its beginning, as Slurm does after a
node failed or a job was preempted: what is proven done is not done again. A job that a signal
stops before its time is over ends with exit code 75, and queues itself again.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensfinder.commit import make_folder
from lensfinder.config import Config, SlurmConfig
from lensfinder.errors import Interrupted, RequestError

_ALONE = ("train", "report")  # stages that are one unit

# The rank that saves ends last; one that waits for a dead one is not waited for.
_TOGETHER = "--kill-on-bad-exit=0 --wait=60"

_WORKER = "lensfinder-worker"
_QUEUE_PATIENCE_S = 24 * 3600
_LOOK_EVERY_S = 10.0
_MOST_IN_VAIN = 3
# As a local cluster's workers: with Dask's default, torch faults its buffers in again and again.
_KEEP_BUFFERS = (
    'DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON="'
    "{'MALLOC_TRIM_THRESHOLD_': 268435456, 'MALLOC_MMAP_THRESHOLD_': 268435456}"
    '"'
)


@dataclass(frozen=True)
class Job:
    """A job of the chain.

    Attributes
    ----------
    name : str
        Folder of its stage; the job that merges an array's work has ``-finish`` behind it.
    script : str
        What sbatch is given.
    after : dict of job name to {"afterok", "afterany"}
        What it waits for.
    """

    name: str
    script: str
    after: Mapping[str, str]

    def dependency(self, numbers: Mapping[str, str] | None = None) -> list[str]:
        """Return the option of sbatch that says what this waits for; with names for numbers."""
        after = [f"{how}:{(numbers or {}).get(name, name)}" for name, how in self.after.items()]
        return [f"--dependency={','.join(after)}"] if after else []


def jobs_of(
    steps: Sequence[tuple[str, str, Config]], output: Path, slurm: SlurmConfig, command: str
) -> list[Job]:
    """Lay out the jobs of a chain.

    Parameters
    ----------
    steps : sequence of (folder name, stage, configuration)
        As `pipeline.chain` lays them out.
    output : Path
        Folder of the pipeline, where jobs find it.
    slurm : SlurmConfig
    command : str
        ``lensfinder run PIPELINE.toml -o OUTPUT`` as a shell takes it.

    Returns
    -------
    list of Job
        In an order in which they can be submitted.
    """
    jobs: list[Job] = []
    ends: dict[str, str] = {}  # folder of a stage → the job after which it is finished
    for folder, stage, config in steps:
        read = [name for name in ends if _reads(getattr(config, stage), output / name)]
        after = {ends[name]: "afterok" for name in read}
        this = f"{command} --only {shlex.quote(folder)}"
        if stage in _ALONE:
            nodes = slurm.train_nodes if stage == "train" else 1
            ranks = max(1, slurm.train_gpus) if stage == "train" else 1
            body = _step(f"--nodes={nodes} --ntasks={nodes * ranks} {_TOGETHER}", this)
            own = _train_directives(slurm) if stage == "train" else []
            jobs.append(Job(folder, _script(folder, own, body, output, slurm), after))
            ends[folder] = folder
            continue
        limit = f"%{slurm.at_once}" if slurm.at_once else ""
        body = _step("--ntasks=1", f'{this} --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"')
        array = [f"--array=1-{slurm.parts}{limit}"]
        jobs.append(Job(folder, _script(folder, array, body, output, slurm), after))
        # Some bad units (exit code 3) are told in the report and let the others go on. Work that
        # a task of the array left behind ends the chain here.
        merge = f"code=0\nsrun --ntasks=1 {this} --finish || code=$?\n"
        merge += '[ "$code" = 3 ] || exit "$code"\n'
        finish = f"{folder}-finish"
        after = {**after, folder: "afterany"}
        jobs.append(Job(finish, _script(finish, [], merge, output, slurm), after))
        ends[folder] = finish
    return jobs


def _reads(section: Any, folder: Path) -> bool:
    """Whether a stage's configuration names `folder`, or something in it."""

    def paths(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        if isinstance(value, dict):
            value = list(value.values())
        return [path for item in value for path in paths(item)] if isinstance(value, list) else []

    named = [Path(os.path.abspath(text)) for text in paths(section.model_dump(mode="json"))]
    return any(path.is_relative_to(os.path.abspath(folder)) for path in named)


def _step(tasks: str, command: str) -> str:
    """Run a job's one step; once a signal has stopped it, queue the job again."""
    return f"""code=0
srun {tasks} {command} || code=$?
if [ "$code" = 75 ]; then
  scontrol requeue "$SLURM_JOB_ID" || true
fi
[ "$code" = 3 ] || exit "$code"
"""


def _train_directives(slurm: SlurmConfig) -> list[str]:
    ranks = max(1, slurm.train_gpus)
    gpus = [f"--gpus-per-node={slurm.train_gpus}"] if slurm.train_gpus else []
    own = [f"--nodes={slurm.train_nodes}", f"--ntasks-per-node={ranks}", *gpus]
    return [*own, *slurm.train_options]


def _script(name: str, own: Sequence[str], body: str, output: Path, slurm: SlurmConfig) -> str:
    # As squeue calls them: a task of an array has a number of its own, which nobody is shown.
    number = "%A_%a" if any(option.startswith("--array=") for option in own) else "%j"
    directives = [
        f"--job-name={name}",
        f"--output={str(output / 'logs').replace('%', '%%')}/%x-{number}.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=USR1@{slurm.grace_s}",
        *([f"--time={slurm.time}"] if slurm.time else []),
        f"--cpus-per-task={slurm.cpus}",
        f"--mem={slurm.memory}",
        *([f"--partition={slurm.partition}"] if slurm.partition else []),
        *([f"--account={slurm.account}"] if slurm.account else []),
        *slurm.options,
        *own,
    ]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {shlex.quote(directive)}" for directive in directives),
            "set -e",
            # The signals are for the steps: this shell only waits for what they make of them.
            "trap : TERM USR1",
            # srun takes no notice of the job's own since Slurm 22.05.
            f"export SRUN_CPUS_PER_TASK={slurm.cpus}",
            slurm.setup,
            "set -u",  # not before: what sets up a cluster often reads what isn't set
            body,
        ]
    )


def submit(jobs: Sequence[Job], output: Path) -> dict[str, str]:
    """Submit jobs; return their numbers.

    Raises
    ------
    RequestError
        If there is no Slurm here, or it refuses a job; those submitted before are cancelled.
    """
    _require_sbatch()
    make_folder(output / "logs")
    numbers: dict[str, str] = {}
    for job in jobs:
        asked = ["sbatch", "--parsable", "--kill-on-invalid-dep=yes", *job.dependency(numbers)]
        said = subprocess.run(  # noqa: S603 (sbatch takes what it is given, no shell reads it)
            asked, input=job.script, capture_output=True, text=True, check=False, env=_environment()
        )
        if said.returncode != 0:
            if numbers:
                subprocess.run(["scancel", *numbers.values()], check=False)  # noqa: S603, S607
            raise RequestError(
                f"sbatch refused the job {job.name}: {said.stderr.strip()}",
                "settings that this cluster knows",
                "See [slurm] in the pipeline file; nothing is left in the queue.",
            )
        numbers[job.name] = said.stdout.strip().partition(";")[0]
    return numbers


def refusals(jobs: Sequence[Job]) -> dict[str, str] | None:
    """Ask Slurm which jobs it would never run; None where there is no sbatch.

    Returns
    -------
    dict of job name to str
        What sbatch says against it.
    """
    if shutil.which("sbatch") is None:
        return None
    found = {}
    for job in jobs:
        said = subprocess.run(
            ["sbatch", "--test-only"],  # noqa: S607
            input=job.script,
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
        )
        if said.returncode != 0:
            found[job.name] = " ".join(said.stderr.split())
    return found


def _require_sbatch() -> None:
    if shutil.which("sbatch") is None:
        raise RequestError(
            "there is no sbatch here",
            "a login node of a cluster with Slurm",
            "Go there, or use --engine local.",
        )


def _environment() -> dict[str, str]:
    """Return what a job inherits: nothing of a job that this runs in."""
    kept = ("SLURM_CONF",)
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SRUN_")) or name in kept
    }


def run_command(pipeline: Path, output: Path, more: Sequence[str]) -> str:
    """Write the command that does a chain, or with ``--only`` a stage of it, for a shell."""
    words = [sys.executable, "-P", "-m", "lensfinder", "run", os.path.abspath(pipeline)]
    words += ["-o", os.path.abspath(output), "--engine", "local", *more]
    return shlex.join(words)


@contextmanager
def worker_jobs(slurm: SlurmConfig, workers: int) -> Iterator[Any]:
    """Have jobs of Dask workers, a process for each core, as long as this lasts.

    Their traffic is encrypted, by keys made for this occasion: files for the owner's eyes in the
    working folder, which nodes must share, removed at the end. A job that is lost (cancelled, out
    of time or memory) is replaced.

    Parameters
    ----------
    slurm : SlurmConfig
        What a job asks for.
    workers : int
        Processes in all jobs together.

    Yields
    ------
    dask_jobqueue.SLURMCluster
        With a worker, at least.

    Raises
    ------
    RequestError
        If there is no Slurm here, or dask-jobqueue is missing.
    Interrupted
        If no job began within a day.
    """
    _require_sbatch()
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise RequestError(
            f"--engine slurm: {error}", "dask-jobqueue", "pip install 'lensfinder[slurm]'."
        ) from error
    processes = min(slurm.cpus, workers)
    with SLURMCluster(
        queue=slurm.partition or None,
        account=slurm.account or None,
        walltime=slurm.time or None,
        cores=processes,
        processes=processes,
        job_cpu=slurm.cpus,
        memory=slurm.memory,
        job_mem=slurm.memory,
        job_name=_WORKER,
        job_extra_directives=["--requeue", *slurm.options],
        job_directives_skip=["-t "] if not slurm.time else [],
        job_script_prologue=[f"export {_KEEP_BUFFERS}", slurm.setup],
        log_directory="logs",
        interface=slurm.interface or None,
        security=True,
        shared_temp_directory=str(Path.cwd()),
        scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    ) as cluster:
        jobs = -(-workers // processes)
        cluster.scale(jobs=jobs)
        try:
            cluster.wait_for_workers(1, timeout=_QUEUE_PATIENCE_S)
        except TimeoutError:
            raise Interrupted(
                f"no worker job began within {_QUEUE_PATIENCE_S / 3600:g} hours",
                remedy="See `squeue --me`, then run the same command to go on.",
            ) from None
        with _replacing(cluster, jobs):
            yield cluster


@contextmanager
def _replacing(cluster: Any, jobs: int) -> Iterator[None]:
    """Submit a new worker job for each that has left the queue, as long as this lasts.

    Dask itself notices only workers that it knew, and submits nothing. After three looks in a row
    that found jobs lost and no worker at all, no more are submitted: whatever ends them ends their
    successors, too.
    """
    over = threading.Event()

    def replace(gone: Mapping[str, Any]) -> None:
        for name, job in gone.items():
            if cluster.workers.get(name) is job:
                del cluster.workers[name]
        cluster.scale(jobs=jobs)  # submits those that it misses

    def watch() -> None:
        in_vain = 0
        while in_vain < _MOST_IN_VAIN and not over.wait(_LOOK_EVERY_S):
            known = dict(cluster.workers)  # before the queue is asked: what is newer is not in it
            queued = _queued()
            if queued is None:
                continue
            gone = {name: job for name, job in known.items() if job.job_id not in queued}
            lost = bool(gone or cluster.worker_spec.keys() - known.keys())
            anybody = bool(cluster.scheduler_info["workers"])
            in_vain = 0 if anybody else in_vain + lost
            if lost:
                cluster.loop.add_callback(replace, gone)

    watcher = threading.Thread(target=watch, name="worker-jobs", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _queued() -> set[str] | None:
    """Return the numbers of our worker jobs in the queue; None if Slurm does not answer."""
    asked = ["squeue", "--noheader", "--me", f"--name={_WORKER}", "--format=%i"]
    try:
        said = subprocess.run(  # noqa: S603
            asked, capture_output=True, text=True, check=False, timeout=_LOOK_EVERY_S
        )
    except subprocess.TimeoutExpired:
        return None
    return set(said.stdout.split()) if said.returncode == 0 else None
