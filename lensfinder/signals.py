"""Signals that ask a process to stop, or wake it where it takes too long."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lensfinder.errors import Interrupted

_AGAIN_S = 0.05


class Stop:
    """Whether somebody asked the process to stop, and how."""

    def __init__(self) -> None:
        self.requested = ""

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.requested:
            raise Interrupted(
                f"stopped by {self.requested}", remedy="Run the same command to go on."
            )


@contextmanager
def listen(*, at_once: bool) -> Iterator[Stop]:
    """Listen to SIGINT, SIGTERM and SIGUSR1.

    Parameters
    ----------
    at_once : bool
        Raise `Interrupted` where the signal strikes (every product is committed whole, so that
        is safe), or only note it until somebody calls `Stop.check` at a good moment.
    """
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.requested = signal.Signals(number).name
        if at_once:
            stop.check()

    def wake(number: signal.Signals) -> None:
        if signal.getsignal(number) is handle:
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    def again(lost: sys.UnraisableHookArgs) -> None:
        # Whatever is raised in a destructor or while garbage is collected, Python drops.
        if isinstance(lost.exc_value, Interrupted):
            threading.Timer(_AGAIN_S, wake, (signal.Signals[stop.requested],)).start()
        else:
            hook_before(lost)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, handle) for number in signals}
    hook_before, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield stop
    finally:
        sys.unraisablehook = hook_before
        for number, handler in before.items():
            signal.signal(number, handler)


class TooLong(BaseException):
    """The alarm of a unit; no `Exception`, so that nothing on the way takes it for its own."""


@contextmanager
def alarm(timeout_s: float) -> Iterator[None]:
    """Raise `TooLong` in here after a time; only a process's main thread can be woken so."""
    if not timeout_s or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
