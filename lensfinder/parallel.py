"""Map units over processes: serial, a local Dask cluster, or a given scheduler.

The only module that knows Dask. Workers are spawned, run one task at a time, and listen on
127.0.0.1 alone; results come back as they are done.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Self

from lensfinder.errors import (
    DiskError,
    Interrupted,
    LensfinderError,
    UnitError,
)
from lensfinder.runs import Failure, Receipt, Unit

if TYPE_CHECKING:
    from distributed import Client

_NO_WORKERS_TIMEOUT_S = 300
_MALLOC_KEEP_BYTES = 256 * 2**20
# Names of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_threads = 0


def threads() -> int:
    """Return how many threads a unit may use, as given by the engine (all cores in serial)."""
    return _threads or cores()


def cores() -> int:
    """Return the cores this process may use, which a batch system can limit."""
    return len(os.sched_getaffinity(0))


def keep_buffers() -> None:
    """Have freed memory kept for the next forward pass; what the nanny does for workers.

    Where the system's C library has no such knob, nothing happens but that it is slower.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for knob in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(knob, _MALLOC_KEEP_BYTES)


def attempt(unit: Unit, threads_given: int) -> Receipt | Failure:
    """Do one unit, here; a damaged input becomes a `Failure` and does not stop the others.

    Raises
    ------
    DiskError, Interrupted
        They concern every unit.
    """
    global _threads  # noqa: PLW0603 (a fact about this process, which runs one unit at a time)
    _threads = threads_given
    module = importlib.import_module(f"lensfinder.{unit.stage}.stage")
    try:
        receipt: Receipt = module.do(unit)
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


class Engine:
    """Does units one after the other here, or on Dask workers; a context manager.

    A local cluster starts with the first units that need it and serves every later stage.

    Parameters
    ----------
    name : str
        ``serial``, ``local``, or the address of a scheduler.
    workers : int
        Processes of a local cluster; 0 for one per core.
    """

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.workers = workers or cores()
        self._client: Client | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client = None
        self._stack.close()

    def do(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Receipt | Failure]]:
        """Do independent `units`, yielding each with its result as it comes."""
        if not units:
            return
        # A cluster does not pay for one unit, and training brings its own processes.
        alone = self.name == "local" and min(self.workers, len(units)) == 1
        if self.name == "serial" or alone or units[0].stage == "train":
            for unit in units:
                yield unit, attempt(unit, cores())
            return
        yield from self._collect(units)

    def _collect(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Receipt | Failure]]:
        from distributed import KilledWorker, as_completed
        from distributed.scheduler import NoValidWorkerError, NoWorkerError

        client = self._start()
        threads_given = max(1, cores() // self.workers) if self.name == "local" else 0
        futures = {
            client.submit(attempt, unit, threads_given, key=f"{unit.name}-{unit.fingerprint}"): unit
            for unit in units
        }
        for future in as_completed(futures):
            unit = futures[future]
            try:
                result = future.result()
            except KilledWorker as error:
                result = Failure("worker_died", f"{unit.name}: its worker died ({error})", 3)
            except (NoWorkerError, NoValidWorkerError) as error:
                raise Interrupted(
                    f"no worker came within {_NO_WORKERS_TIMEOUT_S} s ({error})",
                    remedy="Look after the workers, then run the same command to go on.",
                ) from error
            yield unit, result
            future.release()

    def _start(self) -> Client:
        if self._client is None:
            import dask
            from distributed import Client, LocalCluster

            self._stack.enter_context(
                dask.config.set(
                    {
                        "distributed.scheduler.no-workers-timeout": f"{_NO_WORKERS_TIMEOUT_S}s",
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
                    address = self._stack.enter_context(
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
            self._client = self._stack.enter_context(Client(address, timeout=30))
        return self._client
