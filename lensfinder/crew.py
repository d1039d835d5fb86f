"""Units at work on a cluster: which are late, and whether anybody is there to do them."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lensfinder.errors import Interrupted
from lensfinder.units import Unit

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
        Since when a worker has been at work on a unit, as far as can be told.
    held : mapping of worker's address to keys
        What each had to do when last looked at.
    nthreads : mapping of worker's address to tasks that it does at a time
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
    held: dict[str, set[str]] = field(default_factory=dict)
    nthreads: dict[str, int] = field(default_factory=dict)
    threads: int = 0
    at_once: int = 1
    alone_since: float = float("inf")

    def late(self, timeout_s: float) -> list[list[str]]:
        """Return the keys of units that have been with one worker for too long.

        Each group holds one, or all those of which a worker does some while the others wait for
        their turn: which of them is stuck, nobody can tell.
        """
        if not timeout_s:
            return []
        now = time.monotonic()
        groups: list[list[str]] = []
        for worker, keys in self.client.processing().items():
            held = [key for key in keys if key in self.units]
            hands, before = self.nthreads.get(worker, 1), self.held.get(worker, set())
            # Where one went that others waited for, some of them has only begun.
            turn = len(before) > hands and not before <= {*held}
            for key in held:
                if turn or key not in before:
                    self.began[key] = (worker, now)
            self.held[worker] = {*held}
            overdue = [key for key in held if now - self.began[key][1] > timeout_s]
            if overdue:
                groups += [held] if len(held) > hands else [[key] for key in overdue]
        return groups

    def drop(self, keys: list[str]) -> list[Unit]:
        """Give units up, and start anew the worker that is stuck with them."""
        stuck = self.began[keys[0]][0]
        self.client.cancel([self.futures.pop(key) for key in keys], force=True)
        # It may be gone already, or have no nanny to start it anew.
        with suppress(ValueError, KeyError, OSError):
            self.client.restart_workers([stuck], timeout=CONNECT_TIMEOUT_S, raise_for_error=False)
        return [self.units.pop(key) for key in keys]

    def require_workers(self) -> None:
        """Count the workers; raise `Interrupted` if there has been none for too long."""
        now = time.monotonic()
        hosts: Counter[str] = Counter()
        reached = self.client.status == "running"
        if reached:
            self.nthreads = dict(self.client.nthreads())
            for address, n in self.nthreads.items():
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
