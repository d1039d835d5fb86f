"""Map units over processes: serial, a local Dask cluster, or a given scheduler.

The only module that knows Dask. Workers are spawned, run one task at a time, and listen on
127.0.0.1 alone; results come back as they are done.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lensfinder.errors import (
    DiskError,
    Interrupted,
    LensfinderError,
    UnitError,
)
from lensfinder.runs import Failure, Receipt, Run, Unit

if TYPE_CHECKING:
    from distributed import Client

_NO_WORKERS_TIMEOUT_S = 300

_threads = 0


def threads() -> int:
    """Return how many threads a unit may use, as given by the engine (all cores in serial)."""
    return _threads or cores()


def cores() -> int:
    """Return the cores this process may use, which a batch system can limit."""
    return len(os.sched_getaffinity(0))


def attempt(unit: Unit, threads_given: int) -> Receipt | Failure:
    """Do one unit, here; a damaged input becomes a `Failure` and does not stop the others.

    Raises
    ------
    DiskError, Interrupted
        They concern every unit.
    """
    global _threads
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


def run(units: Sequence[Unit], context: Run) -> Iterator[tuple[Unit, Receipt | Failure]]:
    """Do `units` with the engine that `context` asks for, yielding results as they come.

    Parameters
    ----------
    units : sequence of Unit
        Independent of each other.
    context : Run
        Gives the engine, the number of workers, and the progress display.
    """
    engine = context.execution.engine
    workers = min(context.execution.workers or cores(), max(len(units), 1))
    serial = engine == "serial" or (engine == "local" and workers == 1)
    with context.progress(context.stage, len(units), "units") as progress:
        results = (
            ((unit, attempt(unit, cores())) for unit in units)
            if serial
            else _with_dask(units, engine, workers)
        )
        for unit, result in results:
            progress.advance(failed=isinstance(result, Failure))
            yield unit, result


def _with_dask(
    units: Sequence[Unit], engine: str, workers: int
) -> Iterator[tuple[Unit, Receipt | Failure]]:
    import dask

    settings = {
        "distributed.scheduler.no-workers-timeout": f"{_NO_WORKERS_TIMEOUT_S}s",
        "distributed.worker.multiprocessing-method": "spawn",
        # Products are files; moving or spilling results never pays.
        "distributed.scheduler.work-stealing": False,
    }
    with dask.config.set(settings):
        if engine != "local":
            from distributed import Client

            with Client(engine, timeout=30) as client:
                yield from _collect(client, units, 0)
            return
        from distributed import Client, LocalCluster

        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                silence_logs=40,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield from _collect(client, units, max(1, cores() // workers))


def _collect(
    client: Client, units: Sequence[Unit], threads_given: int
) -> Iterator[tuple[Unit, Receipt | Failure]]:
    from distributed import KilledWorker, as_completed

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
        yield unit, result
        future.release()
