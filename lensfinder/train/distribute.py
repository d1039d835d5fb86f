"""Ranks: the processes that train one network together.

Three ways to start them, and the same work in each::

    lensfinder train ... --ranks 4            # this machine; nothing listens beyond 127.0.0.1
    torchrun --nproc-per-node 4 -m lensfinder train ...
    srun --ntasks 8 lensfinder train ...      # ranks from SLURM_PROCID

Ranks are spawned, never forked. Only a rank's errors come back; products are files.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from lensfinder.errors import Interrupted, LensfinderError, RequestError, UnitError
from lensfinder.signals import Stop, listen

# A rank that hangs is noticed after this long; one that dies, at once.
_TIMEOUT = timedelta(minutes=5)
_STOP_GRACE_S = 30.0
_BLAME_GRACE_S = 5.0


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Attributes
    ----------
    rank, world : int
        Number of this process, from 0, and how many there are.
    device : torch.device
        Where it computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and shows progress."""
        return self.rank == 0

    def share(self, index_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Take this rank's share; every object belongs to exactly one rank."""
        return index_N[self.rank :: self.world]

    def wait_for_all(self) -> None:
        """Return when every rank has come this far."""
        if self.world > 1:
            dist.barrier()

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the ranks; every rank gets the same sum."""
        if self.world > 1:
            on_device = tensor.to(self.device)
            dist.all_reduce(on_device)
            return on_device.to(tensor.device)
        return tensor

    def same_buffers(self, network: torch.nn.Module) -> None:
        """Give every rank the lead's batch statistics."""
        if self.world > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def devices(self) -> list[str]:
        """Name each rank's device, in order of rank."""
        name = str(self.device)
        if self.device.type == "cuda":
            name += f" {torch.cuda.get_device_name(self.device)}"
        names: list[Any] = [name] * self.world
        if self.world > 1:
            dist.all_gather_object(names, name)
        return names


Work = Callable[..., None]  # work(ranks, stop, *arguments); importable, so that it can be spawned


def world_size(ranks: int) -> int:
    """Return how many ranks will train: as torchrun or srun started us, else `ranks`.

    Raises
    ------
    RequestError
        If both say something, and not the same.
    """
    started = _started_by()
    if started is None:
        return ranks
    if ranks not in (1, started[1]):
        raise RequestError(
            f"train.ranks is {ranks}, but {started[1]} processes were started",
            "one of the two",
            "Leave --ranks out under torchrun and srun.",
        )
    return started[1]


def leads() -> bool:
    """Whether this process speaks for the others that torchrun or srun started."""
    started = _started_by()
    return started is None or started[0] == 0


def launch(
    ranks: int, threads: int, folder: Path, work: Work, *arguments: Any, name: str = ""
) -> None:
    """Do `work` on every rank, and return when all are through.

    Parameters
    ----------
    ranks : int
        How many to spawn; 1 works in this process. Ignored where torchrun or srun started us.
    threads : int
        CPU threads for all ranks of this machine together.
    folder : Path
        Where ranks meet, in a file that is removed afterwards.
    work : callable
        ``work(ranks, stop, *arguments)``.
    name : str
        Of this work, where ranks that torchrun or srun started do several one after the other.

    Raises
    ------
    Interrupted
        If a signal asked for it, and `work` stopped at a good moment.
    UnitError
        If a rank was killed.
    LensfinderError
        What a rank raised.
    """
    started = _started_by()
    if started is not None:
        rank, world = started
        torch.set_num_threads(threads)
        store = PrefixStore(name, _meeting_point(folder, name, rank, world))
        with _listening() as stop, _group(rank, world, store) as this:
            work(this, stop, *arguments)
    elif ranks == 1:
        torch.set_num_threads(threads)
        with _listening() as stop:
            work(Ranks(0, 1, _device(0)), stop, *arguments)
    else:
        _spawn(ranks, max(1, threads // ranks), folder, work, arguments)


def _started_by() -> tuple[int, int] | None:
    """Return (rank, world) as torchrun or srun say, None where neither started us."""
    environ = os.environ
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return int(environ["RANK"]), int(environ["WORLD_SIZE"])
    # SLURM_STEP_NUM_TASKS is srun's; a batch script sees SLURM_PROCID, too, but is no step.
    if "SLURM_PROCID" in environ and int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return int(environ["SLURM_PROCID"]), int(environ["SLURM_STEP_NUM_TASKS"])
    return None


def _meeting_point(folder: Path, name: str, rank: int, world: int) -> Store:
    """Return where ranks of torchrun or srun find each other."""
    if "MASTER_ADDR" in os.environ:
        return _store_of_environment(rank, world)
    if "SLURM_JOB_ID" not in os.environ:
        raise RequestError(
            f"RANK is {rank} and WORLD_SIZE {world}, but nothing says where ranks meet",
            "torchrun or srun, or MASTER_ADDR and MASTER_PORT",
        )
    # A job that is queued again has the same numbers; its killed ranks left their file behind.
    start = os.environ.get("SLURM_RESTART_COUNT", "0")
    step = f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}.{start}.{name}"
    folder.mkdir(parents=True, exist_ok=True)
    return FileStore(str(folder.resolve() / f".ranks.{step}.tmp"), world)


@functools.cache
def _store_of_environment(rank: int, world: int) -> Store:
    """Open the store that MASTER_ADDR names, once a process: its port can't be taken twice."""
    store: Store
    store, _, _ = next(iter(rendezvous("env://", rank, world, timeout=_TIMEOUT)))
    return store


@contextmanager
def _listening() -> Iterator[Stop]:
    # A thread, such as a Dask worker's, gets no signals; its process is stopped from outside.
    if threading.current_thread() is not threading.main_thread():
        yield Stop()
        return
    with listen(at_once=False) as stop:
        yield stop


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # The same command must give the same weights; cuDNN's fastest sums come in any order.
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", local_rank % torch.cuda.device_count())


@contextmanager
def _group(rank: int, world: int, store: Store) -> Iterator[Ranks]:
    environ = os.environ
    local_rank = int(environ.get("LOCAL_RANK", environ.get("SLURM_LOCALID", str(rank))))
    local_world = int(environ.get("LOCAL_WORLD_SIZE", str(world)))
    device = _device(local_rank)
    # NCCL wants a GPU for each rank.
    own_gpu = device.type == "cuda" and local_world <= torch.cuda.device_count()
    dist.init_process_group(
        "nccl" if own_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=_TIMEOUT,
        device_id=device if own_gpu else None,
    )
    try:
        yield Ranks(rank, world, device)
    finally:
        dist.destroy_process_group()


# -- spawned ranks ----------------------------------------------------------------------------


def _spawn(world: int, threads: int, folder: Path, work: Work, arguments: tuple[Any, ...]) -> None:
    if multiprocessing.current_process().daemon:
        raise RequestError(
            f"a Dask worker can't start {world} ranks",
            "--engine serial or local for train with --ranks",
        )
    context = multiprocessing.get_context("spawn")
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder.resolve() / f".ranks.{token_hex(6)}.tmp"
    processes: list[BaseProcess] = []
    errors: list[Connection] = []
    lifelines: list[Connection] = []
    try:
        for rank in range(world):
            error_in, error_out = context.Pipe(duplex=False)
            lifeline_in, lifeline_out = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(
                target=_rank_main,
                args=(rank, world, threads, meeting, error_out, lifeline_in, work),
                kwargs={"arguments": arguments},
                name=f"rank {rank}",
                daemon=True,
            )
            process.start()
            # Only the child's ends may stay open, or nobody would notice that it is gone.
            error_out.close()
            lifeline_in.close()
            processes.append(process)
            errors.append(error_in)
            lifelines.append(lifeline_out)
        with _listening() as stop:
            _watch(processes, errors, stop)
    finally:
        for process in processes:
            process.kill()
            process.join()
        for connection in (*errors, *lifelines):
            connection.close()
        meeting.unlink(missing_ok=True)


def _watch(processes: list[BaseProcess], errors: list[Connection], stop: Stop) -> None:
    """Wait for all ranks; pass signals on; raise what made the first one fail."""
    told = False
    pending: Exception | None = None  # raised once all ranks ended, or after a while
    give_up_at = float("inf")
    running = list(range(len(processes)))
    while running and time.monotonic() < give_up_at:
        wait([processes[rank].sentinel for rank in running], timeout=0.2)
        if stop.requested and not told:
            told = True
            for rank in running:
                os.kill(processes[rank].pid or 0, signal.SIGTERM)
        for rank in [r for r in running if not processes[r].is_alive()]:
            running.remove(rank)
            error = _error_of(rank, processes[rank], errors[rank])
            if isinstance(error, LensfinderError) and not isinstance(error, Interrupted):
                raise error
            if error is not None and pending is None:
                # Others stop at the same step; or they are the cause, and this one only lost
                # its connection to them.
                pending = error
                patience_s = _STOP_GRACE_S if isinstance(error, Interrupted) else _BLAME_GRACE_S
                give_up_at = time.monotonic() + patience_s
    if pending is not None:
        raise pending


def _error_of(rank: int, process: BaseProcess, errors: Connection) -> Exception | None:
    if errors.poll():
        try:
            sent: LensfinderError = errors.recv()
            return sent
        except EOFError:
            pass  # it ended without a word
    code = process.exitcode or 0
    if code == 0:
        return None
    if code < 0:
        return UnitError(
            "rank_died",
            f"rank {rank} was killed by {signal.Signals(-code).name}",
            remedy="Run the same command to go on from the last saved state.",
        )
    return RuntimeError(f"rank {rank} failed; its traceback stands above")


def _rank_main(
    rank: int,
    world: int,
    threads: int,
    meeting: Path,
    errors: Connection,
    lifeline: Connection,
    work: Work,
    arguments: tuple[Any, ...],
) -> None:
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback
    torch.set_num_threads(threads)
    try:
        store = FileStore(str(meeting), world)
        with listen(at_once=False) as stop, _group(rank, world, store) as this:
            work(this, stop, *arguments)
    except LensfinderError as error:
        errors.send(error)


def _die_with_parent(lifeline: Connection) -> None:
    """End this process when the one that spawned it is gone, even by SIGKILL."""
    try:
        lifeline.recv()
    except EOFError:
        os._exit(1)
