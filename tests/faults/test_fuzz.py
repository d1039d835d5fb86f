"""Whatever stands in a header or a catalogue, `check` and `cutout` end in words.

``pytest tests/faults/test_fuzz.py --fuzz 10000`` throws as many of each; a failure names its case,
which ``--fuzz-seed S --fuzz-cases N -k 'tile or catalogue'`` throws again.
"""

from __future__ import annotations

import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from faults import mutations
from skies import PROJECTIONS, sky_YX, write_kids_tile

from lensfinder import cli
from lensfinder.cutout import detect  # noqa: F401 (loading it takes no part in a case's time)

Command = Callable[..., Any]

HANG_S = 10.0
# Nothing that is read for so small a tile needs more.
MEMORY_BYTES = 512 * 2**20
CODES = {0, 2, 3, 4}
STEM = "KiDS_DR4.0_10_0_r"

# What a library leaves open when it gives up on a file is closed by the collector.
pytestmark = [
    pytest.mark.fault,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class TooLong(BaseException):
    """No `Exception`, so that nothing on the way takes it for its own."""


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise `TooLong` after so much time of the processor; a loaded machine only waits."""

    def ring(_number: int, _frame: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.fixture
def _bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep a reader that asks for everything from taking it, and build the options once."""
    monkeypatch.setattr(cli, "app", typer.main.get_command(cli.app))
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 6 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def memory(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(which))
    return int(line.split()[1]) * 1024


def judge(command: Command, *arguments: object) -> str:
    """Run a command; return what is wrong with how it ended, or nothing."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    try:
        with no_hang():
            said = command(*arguments)
    except TooLong:
        return f"hangs: {''.join(traceback.format_exc()[-1500:])}"
    grown = memory("VmHWM") - before
    if said.code not in CODES:
        return f"exit code {said.code}: {said.err[-1500:]}"
    if "Traceback" in said.err + said.out:
        return f"a traceback: {said.err[-1500:]}"
    if "[memory]" in said.err or "[timeout]" in said.err or grown > MEMORY_BYTES:
        return f"{grown / 2**20:.0f} MiB: {said.err[-500:]}"
    if "\x1b" in said.err + said.out:
        return "an escape code reaches the terminal"
    if said.code and not (said.err + said.out).strip():
        return "nothing is said"
    return ""


def throw(
    request: pytest.FixtureRequest,
    folder: Path,
    make: Callable[[random.Random, Path], list[tuple[object, ...]]],
    command: Command,
) -> None:
    """Make as many cases as asked for, and let the commands loose on each."""
    option = request.config.getoption
    seed, chosen = option("--fuzz-seed"), option("--fuzz-cases")
    wrong = []
    for number in map(int, chosen.split(",")) if chosen else range(option("--fuzz")):
        case = folder / "case"
        case.mkdir()
        for arguments in make(random.Random(f"{seed} {number}"), case):
            found = judge(command, *arguments)
            if found:
                kept = shutil.copytree(case, folder / f"kept-{number}", dirs_exist_ok=True)
                wrong.append(f"case {number} of seed {seed} ({kept}), {arguments[0]}: {found}")
        shutil.rmtree(case)
        (folder / "done").write_text(f"{number + 1} cases, {len(wrong)} wrong")
        if len(wrong) >= 40:
            break
    assert not wrong, f"{len(wrong)} wrong\n" + "\n".join(wrong)


@pytest.mark.usefixtures("_bounded")
def test_mutated_tiles_end_in_words(
    request: pytest.FixtureRequest, tmp_path: Path, command: Command
) -> None:
    catalog = tmp_path / "targets.csv"
    wcs = PROJECTIONS["TAN"](mutations.SHAPE_YX)
    catalog.write_bytes(
        mutations.catalogue(*wcs.all_pix2world([15.0, 28.0], [15.0, 20.0], 0), ".csv")
    )

    def make(rng: random.Random, case: Path) -> list[tuple[object, ...]]:
        raw, suffix = mutations.tile(rng)
        for kind in ("sci", "wei", "msk")[: rng.choice((1, 1, 1, 3))]:
            mutated = mutations.mutate_tile(raw, suffix, rng) if rng.random() < 0.8 else raw
            (case / f"{STEM}_{kind}{suffix}").write_bytes(mutated)
        cut = ["cutout", case, "-o", case / "out", "--bands", "r", "--size", 9, "-q"]
        cut += ["--engine", "serial", "--timeout-s", 0]
        cut += [] if rng.random() < 0.2 else ["--catalog", catalog]
        cut += ["--measure-psf"] if rng.random() < 0.1 else []
        return [("check", case, "--bands", "r"), tuple(cut)]

    throw(request, tmp_path, make, command)


@pytest.mark.usefixtures("_bounded")
def test_mutated_catalogues_end_in_words(
    request: pytest.FixtureRequest, tmp_path: Path, command: Command
) -> None:
    sky, wcs = tmp_path / "tiles", PROJECTIONS["TAN"](mutations.SHAPE_YX)
    xy = [(15.0, 15.0), (28.0, 20.0)]
    write_kids_tile(sky, "10_0", {"r": sky_YX(mutations.SHAPE_YX, xy, 1)}, wcs)
    position = wcs.all_pix2world(*np.transpose(xy), 0)
    sound = {suffix: mutations.catalogue(*position, suffix) for suffix in mutations.SUFFIXES}

    def make(rng: random.Random, case: Path) -> list[tuple[object, ...]]:
        suffix = rng.choice(mutations.SUFFIXES)
        catalog, pipeline = case / f"targets{suffix}", case / "p.toml"
        catalog.write_bytes(mutations.mutate_catalogue(sound[suffix], suffix, rng))
        pipeline.write_text(
            f"[cutout]\ntiles = '{sky}'\ncatalog = '{catalog}'\nbands = 'r'\nsize = 9\n"
        )
        cut = ["cutout", "--config", pipeline, "-o", case / "out", "-q", "--engine", "serial"]
        return [("check", pipeline), (*cut, "--timeout-s", 0)]

    throw(request, tmp_path, make, command)
