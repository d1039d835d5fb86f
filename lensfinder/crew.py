"""Units at work on a cluster: which are late, and whether anybody is there to do them."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lensfinder.errors import Interrupted
from lensfinder.runs import Unit

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

CONNECT_TIMEOUT_S = 30


@dataclass
class Crew:
    """Units at work on a cluster, and when each began.

    Attributes
    ----------
    client : Client
    workers_timeout_s : float
        How long there may be no worker at all.
    cluster : LocalCluster or None
        What starts workers anew that are gone, as far as their nannies do not.
    wanted : int
        Workers it is to have.
    units : mapping of key to Unit
        Those whose result is still to come.
    futures : mapping of key to Future
    began : mapping of key to (worker's address, time)
        Since when a worker has been at work on a unit.
    threads, at_once : int
        Tasks that run at a time on all machines, and on one at most.
    alone_since : float
        Since when there has been no worker or no scheduler; infinity while there is one.
    """

    client: Client
    workers_timeout_s: float
    cluster: LocalCluster | None = None
    wanted: int = 0
    units: dict[str, Unit] = field(default_factory=dict)
    futures: dict[str, Future] = field(default_factory=dict)
    began: dict[str, tuple[str, float]] = field(default_factory=dict)
    threads: int = 0
    at_once: int = 1
    alone_since: float = float("inf")

    def late(self, timeout_s: float) -> list[str]:
        """Return the keys of units that have been with one worker for too long."""
        if not timeout_s:
            return []
        now = time.monotonic()
        holders = {k: worker for worker, keys in self.client.processing().items() for k in keys}
        # Of those that a worker holds, it does the first; the others wait, and are not late.
        first = {holders[key]: key for key in reversed(self.units) if key in holders}
        at_work = {key: worker for worker, key in first.items()}
        for key, worker in at_work.items():
            if self.began.get(key, ("", now))[0] != worker:
                self.began[key] = (worker, now)
        return [key for key in at_work if now - self.began[key][1] > timeout_s]

    def drop(self, key: str) -> Unit:
        """Give a unit up, and start anew the worker that is stuck with it."""
        stuck = self.began[key][0]
        self.client.cancel([self.futures.pop(key)], force=True)
        # It may be gone already, or have no nanny to start it anew.
        with suppress(ValueError, KeyError, OSError):
            self.client.restart_workers([stuck], timeout=CONNECT_TIMEOUT_S, raise_for_error=False)
        return self.units.pop(key)

    def require_workers(self) -> None:
        """Count the workers; raise `Interrupted` if there has been none for too long."""
        now = time.monotonic()
        hosts: Counter[str] = Counter()
        reached = self.client.status == "running"
        if reached:
            for address, n in self.client.nthreads().items():
                hosts[address.rpartition(":")[0]] += n
        self.threads, self.at_once = hosts.total(), max(hosts.values(), default=1)
        there = self.threads > 0
        self.alone_since = float("inf") if there else min(self.alone_since, now)
        if self.cluster is not None and self.threads < self.wanted:
            # A nanny lets a worker go that ended as if by its own will.
            self.cluster.scale(self.wanted)
        if now - self.alone_since > self.workers_timeout_s:
            if not reached:
                raise stopped(f"the scheduler was not there for {self.workers_timeout_s:g} s")
            raise nobody(self.workers_timeout_s)


def nobody(timeout_s: float) -> Interrupted:
    return stopped(f"no worker was there for {timeout_s:g} s (--workers-timeout-s)")


def stopped(why: str) -> Interrupted:
    return Interrupted(
        why,
        remedy="Look after scheduler and workers, then run the same command to go on: what is done "
        "stays done.",
    )
