"""Map units over processes: serial, a local Dask cluster, or a given scheduler.

The only module that knows Dask. Workers are spawned, run one task at a time, and listen on
127.0.0.1 alone; results come back as they are done. Nothing is waited for without end: a unit that
takes too long fails alone, and its worker is started anew; workers of a local cluster that are gone
are replaced; without any worker, or without the scheduler, the run stops and can go on later.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from lensfinder import __version__
from lensfinder.config import SlurmConfig
from lensfinder.crew import CONNECT_TIMEOUT_S, Crew, nobody, stopped
from lensfinder.errors import (
    DiskError,
    Interrupted,
    LensfinderError,
    MismatchError,
    RequestError,
    UnitError,
)
from lensfinder.signals import TooLong, alarm
from lensfinder.slurm import worker_jobs
from lensfinder.units import Failure, Receipt, Unit

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

_LOOK_EVERY_S = 1.0
_MALLOC_KEEP_BYTES = 256 * 2**20
_MALLOC_MOST_BYTES = 2**31 - 1  # mallopt takes an int
# Names of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_threads = 0


def threads() -> int:
    """Return how many threads a unit may use, as given by the engine (all cores in serial)."""
    return _threads or cores()


def cores() -> int:
    """Return the cores this process may use, which a batch system can limit."""
    return len(os.sched_getaffinity(0))


def keep_buffers(*, all_of_them: bool = False) -> None:
    """Have freed memory kept for the next forward pass; what the nanny does for workers.

    Where the system's C library has no such knob, nothing happens but that it is slower.

    Parameters
    ----------
    all_of_them : bool
        However much: a training step frees all its activations, and wants as many again. Else up
        to `_MALLOC_KEEP_BYTES`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        largest = _MALLOC_MOST_BYTES if all_of_them else _MALLOC_KEEP_BYTES
        # An older glibc takes no more than 32 MiB.
        mallopt(_M_MMAP_THRESHOLD, largest) or mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, -1 if all_of_them else largest)  # -1: never


def _timed_out(unit: Unit, timeout_s: float) -> Failure:
    return Failure(
        "timeout",
        f"{unit.name} took more than {timeout_s:g} s. Look after its input, or raise --timeout-s.",
        3,
    )


def attempt(unit: Unit, threads_given: int, timeout_s: float = 0.0) -> Receipt | Failure:
    """Do one unit, here; a damaged input becomes a `Failure` and does not stop the others.

    Parameters
    ----------
    unit : Unit
    threads_given : int
        What `threads` returns meanwhile.
    timeout_s : float
        Seconds after which it fails; 0: never.

    Raises
    ------
    DiskError, Interrupted
        They concern every unit.
    """
    global _threads  # noqa: PLW0603 (a fact about this process, which runs one unit at a time)
    _threads = threads_given
    module = importlib.import_module(f"lensfinder.{unit.stage}.stage")
    try:
        with alarm(timeout_s):
            receipt: Receipt = module.do(unit)
    except TooLong:
        return _timed_out(unit, timeout_s)
    except (DiskError, Interrupted):
        raise
    except UnitError as error:
        return Failure(error.reason, str(error), error.exit_code)
    except LensfinderError as error:
        return Failure(type(error).__name__, str(error), error.exit_code)
    except MemoryError:
        return Failure("memory", f"{unit.name}: out of memory", 3)
    except Exception as error:
        # The boundary of a unit: a bug on one tile must not lose a night's other tiles. It is
        # kept with its traceback, and the command exits with 1.
        return Failure("bug", f"{type(error).__name__}: {error}", 1, traceback.format_exc())
    assert receipt.closed, f"{unit.name}: {receipt} does not add up"
    return receipt


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C for threads and processes born in here, for as long as they live.

    A terminal sends it to all of them at once, and each would end with a traceback of its own;
    the parent, which hears it when this is over, ends them in good order.
    """
    # Starting the tracker lifts the hold, so it comes first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _address_in(file: Path) -> str:
    """Read where a scheduler is from its file, which it may be about to write.

    Raises
    ------
    RequestError
        If no address stands there for too long.
    """
    give_up_at = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError, TypeError, KeyError):
            if time.monotonic() >= give_up_at:
                raise RequestError(
                    f"{file} names no scheduler after {CONNECT_TIMEOUT_S} s",
                    "the file that `dask scheduler --scheduler-file` writes",
                ) from None
            time.sleep(_LOOK_EVERY_S)


def _version_here() -> str:
    return __version__


def _attempt_there(unit: Unit, threads_given: int, at_once: int, version: str) -> Receipt | Failure:
    """Do one unit on a worker.

    Parameters
    ----------
    unit : Unit
    threads_given : int
        0: this machine's cores over `at_once`.
    at_once : int
        Tasks that run on one machine at a time.
    version : str
        Of the package that planned the unit.
    """
    from distributed import get_worker

    worker = get_worker()
    if version != __version__:
        raise MismatchError(_other_version({worker.address: __version__}), version)
    return attempt(unit, threads_given or max(1, cores() // at_once))


def _other_version(found: Mapping[str, object]) -> str:
    listed = ", ".join(f"{worker}: {what}" for worker, what in list(found.items())[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"workers run another lensfinder ({listed}{more})"


def gpus() -> int:
    """Count this machine's NVIDIA GPUs, without loading torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return len([name for name in hidden.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


class Engine:
    """Does units one after the other here, or on Dask workers; a context manager.

    A local cluster starts with the first units that need it and serves every later stage.

    Parameters
    ----------
    name : str
        ``serial``, ``local``, ``slurm``, or the address or the file of a scheduler.
    workers : int
        Processes of a local cluster; 0 for one per core, or one per GPU to score with.
    slurm : SlurmConfig
        What worker jobs ask Slurm for.
    workers_timeout_s : float
        Seconds without any worker after which `do` gives up.
    """

    def __init__(
        self,
        name: str,
        workers: int,
        slurm: SlurmConfig | None = None,
        workers_timeout_s: float = 300.0,
    ) -> None:
        self.name = name
        self.slurm = slurm or SlurmConfig()
        self.workers = workers or cores()
        self._asked = workers
        self._timeout_s = workers_timeout_s
        self._cluster: LocalCluster | None = None
        self._client: Client | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client = self._cluster = None
        self._stack.close()

    def do(
        self, units: Sequence[Unit], timeout_s: float = 0.0
    ) -> Iterator[tuple[Unit, Receipt | Failure]]:
        """Do independent `units`, yielding each with its result as it comes.

        Parameters
        ----------
        units : sequence of Unit
        timeout_s : float
            Seconds after which a unit fails; 0: never. Training is never stopped so.

        Raises
        ------
        Interrupted
            If no worker, or no scheduler, is there for too long.
        MismatchError
            If workers have another version of the package.
        """
        if not units:
            return
        if units[0].stage == "infer" and not self._asked and self._client is None:
            self.workers = gpus() or self.workers
        # A cluster does not pay for one unit, and training brings its own processes.
        alone = self.name == "local" and min(self.workers, len(units)) == 1
        training = units[0].stage == "train"
        if self.name == "serial" or alone or training:
            for unit in units:
                yield unit, attempt(unit, cores(), 0.0 if training else timeout_s)
            return
        yield from self._collect(units, timeout_s)

    def _collect(
        self, units: Sequence[Unit], timeout_s: float
    ) -> Iterator[tuple[Unit, Receipt | Failure]]:
        client = self._start()
        threads_given = max(1, cores() // self.workers) if self.name == "local" else 0
        crew = Crew(client, self._timeout_s, self._cluster, self.workers)
        done = SimpleQueue[Any]()
        waiting, suspects = deque(units), list[Unit]()

        def begin(unit: Unit, again: str = "") -> None:
            key = f"{unit.name}-{unit.fingerprint}{again}"
            crew.units[key] = unit
            crew.futures[key] = future = client.submit(
                _attempt_there, unit, threads_given, crew.at_once, __version__, key=key
            )
            future.add_done_callback(done.put)

        looked = time.monotonic()
        crew.require_workers()
        while waiting or crew.units or suspects:
            # No more than are worked on: whoever kills a worker takes no queue along.
            while waiting and len(crew.units) < max(1, crew.threads):
                begin(waiting.popleft())
            if suspects and not crew.units:
                begin(suspects.pop(), "-alone")
            try:
                future = done.get(timeout=_LOOK_EVERY_S)
            except Empty:
                future = None
            if future is not None and future.key in crew.units:
                try:
                    result = self._result(future)
                except TimeoutError:
                    # The worker that holds it hangs at its next unit: it comes, or is made again,
                    # once that is late.
                    future.add_done_callback(done.put)
                else:
                    unit = crew.units.pop(future.key)
                    crew.futures.pop(future.key).release()
                    if result is not None:
                        yield unit, result
                    elif future.key.endswith("-alone"):
                        died = f"{unit.name}: its worker died, again"
                        yield unit, Failure("worker_died", died, 3)
                    else:
                        suspects.append(unit)  # it, or what ran beside it: alone it will show
            if time.monotonic() - looked >= _LOOK_EVERY_S:
                looked = time.monotonic()
                crew.require_workers()
                dropped = [crew.drop(keys) for keys in crew.late(timeout_s)]
                suspects += [unit for several in dropped if len(several) > 1 for unit in several]
                yield from ((one, _timed_out(one, timeout_s)) for one, *more in dropped if not more)

    def _result(self, future: Future) -> Receipt | Failure | None:
        """Return what became of a unit; None if workers died of it, or beside it.

        Raises
        ------
        TimeoutError
            If the worker that holds the result does not give it.
        """
        from distributed import KilledWorker
        from distributed.scheduler import NoValidWorkerError, NoWorkerError

        try:
            result: Receipt | Failure = future.result(timeout=_LOOK_EVERY_S)
        except KilledWorker:
            return None
        except (NoWorkerError, NoValidWorkerError) as error:
            raise nobody(self._timeout_s) from error
        except CancelledError as error:
            raise stopped(f"the scheduler is gone ({error})") from error
        return result

    def _check_versions(self, client: Client) -> None:
        """Refuse workers with another version of the package, or without it."""
        try:
            client.wait_for_workers(1, timeout=self._timeout_s)
        except TimeoutError:
            raise nobody(self._timeout_s) from None
        found = client.run(_version_here, on_error="return")
        other = {worker: said for worker, said in found.items() if said != __version__}
        if other:
            raise MismatchError(
                _other_version(other), __version__, "Install the same version everywhere."
            )

    def _start(self) -> Client:
        if self._client is None:
            import dask
            from distributed import Client, LocalCluster

            self._stack.enter_context(
                dask.config.set(
                    {
                        "distributed.scheduler.no-workers-timeout": f"{self._timeout_s}s",
                        # A unit whose worker dies gets a second chance, and a last one alone.
                        "distributed.scheduler.allowed-failures": 1,
                        "distributed.worker.multiprocessing-method": "spawn",
                        # The nanny's default of 64 kB makes torch return its buffers to the
                        # system and fault them in again: mocks took three times as long.
                        "distributed.nanny.pre-spawn-environ": {
                            "MALLOC_TRIM_THRESHOLD_": _MALLOC_KEEP_BYTES,
                            "MALLOC_MMAP_THRESHOLD_": _MALLOC_KEEP_BYTES,
                        },
                    }
                )
            )
            address: Any = self.name
            if self.name == "local":
                with _interrupts_held():
                    self._cluster = address = self._stack.enter_context(
                        LocalCluster(
                            n_workers=self.workers,
                            threads_per_worker=1,
                            processes=True,
                            host="127.0.0.1",
                            # Any free port rather than 8787, which a second run finds taken.
                            dashboard_address="127.0.0.1:0",
                            scheduler_kwargs={"dashboard": False},
                            silence_logs=logging.CRITICAL,
                        )
                    )
            elif self.name == "slurm":
                # The queue tells lost jobs; Dask would end one by the name of a worker before it.
                never = dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"})
                self._stack.enter_context(never)
                address = self._stack.enter_context(worker_jobs(self.slurm, self.workers))
            elif self.name.endswith(".json"):
                address = _address_in(Path(self.name))
            try:
                client = Client(address, timeout=CONNECT_TIMEOUT_S)
            except (OSError, ValueError) as error:
                raise RequestError(
                    f"no scheduler answers at {address}: {error}",
                    "the address or the file of a running Dask scheduler",
                ) from error
            self._client = self._stack.enter_context(client)
            if self.name != "local":
                self._check_versions(client)
        return self._client
