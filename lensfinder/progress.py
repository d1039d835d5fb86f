"""Progress: a bar on a terminal, a plain line every half minute in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

_LINE_EVERY_S = 30.0


class Progress:
    """Count done work with its rate, the time left and the failures.

    Parameters
    ----------
    title : str
        Name of the stage.
    total : int
        Amount of work.
    unit : str
        What is counted, in the plural.
    quiet : bool
        Say nothing.
    """

    def __init__(self, title: str, total: int, unit: str, *, quiet: bool = False) -> None:
        # A daemon may have closed its stderr.
        self.title, self.total, self.unit = title, total, unit
        self.quiet = quiet or sys.stderr is None
        self.done = self.failed = 0
        self.note = ""
        self._earlier = 0  # of what is done, by a run that this one goes on from
        self._said: int | None = None  # how far it was at the last line
        self._started = self._spoken = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if not self.quiet and self.total and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description:9}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, note="")
        return self

    def resume(self, amount: int) -> None:
        """Count `amount` as done by an earlier run: it says nothing of the rate of this one."""
        self.done += amount
        self._earlier += amount
        self._started = time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, completed=self.done)

    def advance(self, amount: int = 1, *, failed: int = 0, note: str = "") -> None:
        """Count `amount` more, `failed` of which failed; `note` stands beside the count."""
        self.done += amount
        self.failed += failed
        self.note = note or self.note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._remarks())
        elif not self.quiet and self.total and time.monotonic() - self._spoken >= _LINE_EVERY_S:
            self._say()

    def _remarks(self) -> str:
        rate = (self.done - self._earlier) / max(time.monotonic() - self._started, 1e-9)
        parts = [self.unit, f"{rate:.3g}/s"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        return "  ".join([*parts, self.note]).rstrip()

    def _say(self, *, ended: bool = False) -> None:
        self._spoken, self._said = time.monotonic(), self.done
        elapsed = self._spoken - self._started
        left = elapsed * (self.total - self.done) / max(self.done - self._earlier, 1)
        ended = ended or self.done >= self.total
        when = f" in {elapsed:.0f} s" if ended else f", {left:.0f} s left"
        print(
            f"{self.title}: {self.done} of {self.total} {self._remarks()}{when}",
            file=sys.stderr,
            flush=True,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        # The last line may have been said a moment ago; work may also end early.
        elif (
            not self.quiet
            and self.total
            and error is None
            and (self._said != self.done or self.done < self.total)
        ):
            self._say(ended=True)
