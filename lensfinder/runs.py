"""The run folder: units of work, their fingerprints, and what is left to do.

A folder that a stage writes looks like this::

    run.json          command, resolved configuration, versions, seed
    products/         one file per unit; a file under its final name is complete
    targets/          what was detected, one file per tile (cutout and infer)
    failures/         one JSON file per unit that failed, gone when it succeeds
    index.json        every product with rows and sha256, written by finish
    ledger.parquet    the outcome of every target, written by finish

A stage is a module with ``plan``, ``do``, ``prove``, ``finish`` and ``made_from``; `execute`
drives it and is the only code that decides what to do again.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lensfinder import provenance
from lensfinder.commit import in_folder, write_json
from lensfinder.config import Config
from lensfinder.errors import DiskError, MismatchError, RequestError, counted
from lensfinder.fingerprints import differences, fingerprint
from lensfinder.progress import Progress
from lensfinder.units import Failure, Receipt, Unit

if TYPE_CHECKING:
    from lensfinder.parallel import Engine

RUN = "run.json"
# Exit codes after which nothing follows on what a stage left.
BREAKING = (1, 2, 4)


@dataclass(frozen=True)
class Execution:
    """How to run, as opposed to what: nothing here changes a product."""

    engine: str = "local"
    workers: int = 0
    part: tuple[int, int] = (1, 1)
    finish_only: bool = False
    force: bool = False
    dry_run: bool = False
    verbosity: int = 0
    command: str = ""

    @property
    def is_share(self) -> bool:
        """Whether only a share of the units is done, and others do the rest."""
        return self.part[1] > 1 and not self.finish_only


@dataclass
class Summary:
    """What a stage's ``finish`` says: counts, lines for a person, and the exit code."""

    stage: str
    folder: Path
    counts: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    exit_code: int = 0
    reused: int = 0
    done: int = 0


def process(pid: int) -> dict[str, Any] | None:
    """Describe a process of this machine beyond the reuse of its number; None if it is gone."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    if started[0] in ("Z", "X"):
        return None  # it has ended, and nobody has asked how
    return {"host": os.uname().nodename, "pid": pid, "started": int(started[19])}


class Run:
    """A stage at work in its folder."""

    def __init__(self, folder: Path, stage: str, config: Config, execution: Execution) -> None:
        self.folder = folder
        self.stage = stage
        self.config = config
        self.execution = execution
        self.units: list[Unit] = []
        self.failures: dict[str, Failure] = {}
        self.notices: list[str] = []
        self.digests: dict[str, str] = {}  # sha256 of products by unit, as far as made here
        self.notes: dict[str, Any] = {}  # from plan to finish

    @property
    def provenance(self) -> dict[str, Any]:
        return provenance.describe(self.config, self.stage, self.execution.command)

    def product(self, name: str) -> Path:
        """Where the product `name` (with its suffix) goes."""
        return self.folder / "products" / name

    def share(self, items: Sequence[Any]) -> list[Any]:
        """Take the share of `items` that ``--part K/N`` asks for; all of them without it."""
        if self.execution.finish_only:
            return list(items)
        part, parts = self.execution.part
        return list(items[part - 1 :: parts])

    def progress(self, title: str, total: int, unit: str) -> Progress:
        return Progress(title, total, unit, quiet=self.execution.verbosity < 0)

    def check_owner(self) -> None:
        """See that the folder is this stage's and nobody's at work on another request, or nobody's.

        Raises
        ------
        RequestError
            If it is not.
        """
        try:
            told = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
            owner, there = told["stage"], told.get("process") or {}
            wanted = told["config"].get(self.stage, {})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return  # nobody's, or unreadable and written again
        if owner != self.stage:
            raise RequestError(
                f"{self.folder} was written by {owner}",
                f"a folder of {self.stage}, or a new one",
                "Choose another with -o.",
            )
        own = getattr(self.config, self.stage).fingerprint()
        other = {key for key, value in own.items() if key in wanted and wanted[key] != value}
        if told.get("seed") != self.config.run.seed:
            other.add("seed")
        pid = there.get("pid", os.getpid())
        if other and pid != os.getpid() and there == process(pid):
            raise RequestError(
                f"{self.folder} is at work on another request (process {pid}), with other "
                f"{', '.join(sorted(other))}",
                "a folder of its own for each request",
                "Choose another with -o, or wait.",
            )

    def announce(self) -> None:
        """Say in the folder what is at work there; not before its products are known to fit."""
        self.check_owner()  # planning takes a while
        made_by = {"stage": self.stage, **self.provenance, "process": process(os.getpid())}
        write_json(self.folder / RUN, made_by)

    def leave(self) -> None:
        """Say that this process, which may live on, is no longer at work there."""
        with suppress(OSError, ValueError, DiskError):
            told = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
            if told.get("process") == process(os.getpid()):
                write_json(self.folder / RUN, {**told, "process": None})

    # -- what is left to do -------------------------------------------------------------

    def pending(self, units: Sequence[Unit], module: ModuleType) -> tuple[list[Unit], list[Unit]]:
        """Return the units without a proven product, and those of them whose product is no good.

        Raises
        ------
        MismatchError
            Where a product was made from something else and ``--force`` was not given (or only
            merging was asked for, so that it can't be made again).
        """
        missing, bad, differing = [], [], []
        for unit in units:
            if not unit.product.exists():
                missing.append(unit)
                continue
            if unit.product.is_dir():
                raise RequestError(f"{unit.product} is a folder", "room for a file of this name")
            stored = module.made_from(unit.product)
            if stored is None:
                self.notices.append(f"{unit.product.name} is damaged and is made again")
                bad.append(unit)
            elif fingerprint(stored) != unit.fingerprint:
                differing.append((unit, stored))
            elif module.prove(unit) is None:
                self.notices.append(f"{unit.product.name} is incomplete and is made again")
                bad.append(unit)
        if differing and (self.execution.finish_only or not self.execution.force):
            unit, stored = differing[0]
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise MismatchError(
                f"{unit.product}{more} was made from something else: "
                + "; ".join(differences(stored, unit.ingredients)),
                remedy="Choose another output folder with -o, or --force to make it again.",
            )
        bad += [unit for unit, _ in differing]
        return missing + bad, bad

    # -- failures -----------------------------------------------------------------------

    def record(self, unit: Unit, failure: Failure | None) -> None:
        """Keep a unit's failure on disk, or forget it once the unit is done."""
        path = self._failure_file(unit)
        if failure is None:
            self.failures.pop(unit.name, None)
            path.unlink(missing_ok=True)
            return
        self.failures[unit.name] = failure
        if not self.execution.dry_run:
            write_json(path, {"unit": unit.name, "fingerprint": unit.fingerprint, **vars(failure)})

    def has_failed(self, unit: Unit) -> bool:
        """Whether `unit` was tried, here or by another process, and has no product."""
        tried = unit.name in self.failures or self._failure_file(unit).exists()
        return tried and not unit.product.exists()

    def _failure_file(self, unit: Unit) -> Path:
        return self.folder / "failures" / f"{unit.name}.json"

    def recorded_failure(self, unit: Unit) -> Failure:
        """Return why `unit` has no product, as far as anybody knows."""
        if unit.name in self.failures:
            return self.failures[unit.name]
        try:
            stored = json.loads(self._failure_file(unit).read_text())
        except (OSError, json.JSONDecodeError):
            return Failure("not_done", f"{unit.name} was not attempted", 3)
        return Failure(**{key: stored[key] for key in Failure.__dataclass_fields__})


def execute(
    stage: str,
    config: Config,
    folder: Path,
    execution: Execution,
    engine: Engine | None = None,
) -> Summary:
    """Run one stage: plan, do what is not proven, finish.

    Parameters
    ----------
    stage : str
        One of `config.STAGES`.
    config : Config
    folder : Path
        Where its products go.
    execution : Execution
    engine : Engine, optional
        Already running, to be shared between stages; default: its own.

    Raises
    ------
    LensfinderError
        Whatever makes the whole request impossible. A unit that fails does not raise; it stands
        in the summary.
    """
    if engine is None:
        from lensfinder.parallel import Engine

        with Engine(
            execution.engine, execution.workers, config.slurm, config.run.workers_timeout_s
        ) as own:
            return execute(stage, config, folder, execution, own)
    if stage == "train" and engine.name not in ("serial", "local"):
        if engine.name == "slurm":
            raise RequestError(
                "train --engine slurm",
                "serial or local, which train here",
                "`lensfinder run PIPELINE.toml --engine slurm` submits trainings as jobs.",
            )
        if execution.verbosity >= 0:
            print("train: on this machine, whatever the engine", file=sys.stderr, flush=True)
    module = importlib.import_module(f"lensfinder.{stage}.stage")
    run = Run(folder, stage, config, execution)
    if execution.dry_run:
        return _foresee(run, module)
    with in_folder(folder), ExitStack() as stack:
        run.check_owner()
        stack.callback(run.leave)
        done, reused = _carry_out(run, module, engine)
        _refuse_replaced(run, module)
        summary = _share_done(run) if execution.is_share else module.finish(run)
        if not execution.is_share:
            _tell_of_strangers(run)
    summary.done, summary.reused = done, reused
    summary.lines = [*run.notices, *summary.lines]
    if run.failures and not execution.is_share:
        summary.lines.append(
            f"{stage}: {len(run.failures)} of {counted(len(run.units), 'unit')} failed, and what "
            "they hold with them"
        )
    summary.failures = dict(run.failures)
    # A unit that is done may hold objects that were damaged, which `finish` knows of.
    summary.exit_code = _exit_code(run) or summary.exit_code
    return summary


def _carry_out(run: Run, module: ModuleType, engine: Engine) -> tuple[int, int]:
    """Do what is not proven; return how many units were done, and how many there were already."""
    done = reused = 0
    for number, wave in enumerate(module.plan(run.config, run)):
        left, bad = run.pending(wave, module)
        reused += len(wave) - len(left)
        if number == 0:
            run.announce()
        to_do = {unit.name for unit in left}
        for unit in wave:
            if unit.name not in to_do:
                run.record(unit, None)
        if run.execution.finish_only:
            continue
        for unit in bad:
            # It must not pass for this unit's if that fails. What was missing stays: another run
            # may have made it since.
            unit.product.unlink(missing_ok=True)
        # A unit alone, such as a training, tells of its own progress or is soon done.
        what = left[0].ingredients.get("stage", run.stage) if left else run.stage  # or detection
        with run.progress(what, len(left) if len(left) > 1 else 0, "units") as progress:
            for unit, result in engine.do(left, run.config.run.timeout_s):
                failure = result if isinstance(result, Failure) else None
                if isinstance(result, Receipt) and result.sha256:
                    run.digests[unit.name] = result.sha256
                run.record(unit, failure)
                done += failure is None
                progress.advance(failed=failure is not None)
    return done, reused


def _refuse_replaced(run: Run, module: ModuleType) -> None:
    """Refuse to speak for products that another run, of another request, has put there since."""
    for unit in run.units:
        stored = module.made_from(unit.product) if unit.product.exists() else None
        if stored is not None and fingerprint(stored) != unit.fingerprint:
            raise MismatchError(
                f"{unit.product} was made by another run meanwhile, from something else: "
                + "; ".join(differences(stored, unit.ingredients)),
                remedy="Give each request an output folder of its own with -o.",
            )


def _tell_of_strangers(run: Run) -> None:
    """Say which products lie there that this run does not count, as of tiles no longer given."""
    own = {unit.product.name for unit in run.units}
    there = sorted(path.name for path in (run.folder / "products").glob("[!.]*"))
    strangers = [name for name in there if name not in own]
    if strangers:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        run.notices.append(
            f"note: of an earlier run, and in neither index nor ledger of this one: "
            f"{', '.join(strangers[:3])}{more} (`lensfinder status {run.folder} --clean` removes "
            "such)"
        )


def _foresee(run: Run, module: ModuleType) -> Summary:
    """Plan up to the first wave with work left: what comes next is planned from what that makes."""
    done = to_do = 0
    for wave in module.plan(run.config, run):
        left, _ = run.pending(wave, module)
        done, to_do = done + len(wave) - len(left), len(left)
        if left:
            break
    line = f"{run.stage}: {to_do} of {counted(done + to_do, 'unit')} to do"
    return Summary(run.stage, run.folder, {"units": done + to_do, "to_do": to_do}, [line])


def _share_done(run: Run) -> Summary:
    """Leave index and ledger, which speak of the whole run, to ``--finish``."""
    part, parts = run.execution.part
    return Summary(
        run.stage,
        run.folder,
        {"units": len(run.units)},
        [
            f"{run.stage}: share {part} of {parts} is done. When all are, the same command with "
            "--finish instead of --part merges them."
        ],
    )


def _exit_code(run: Run) -> int:
    codes = [failure.exit_code for failure in run.failures.values()]
    if not codes:
        return 0
    if 1 in codes:
        return 1
    if len(run.units) > 1 or run.execution.is_share:
        return 3
    return 2 if codes[0] == 3 else codes[0]
