"""What all tests share: where things are, and how to run the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from lensfinder import cli

# As the command line does: spinning threads of two test runs at once starve each other.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# How fast a busy machine draws examples says nothing of the code.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quickstart", metavar="DIR", help="folder of a finished quickstart")
    parser.addoption("--kills", type=int, default=3, help="how often a run is killed")
    parser.addoption("--kill-seed", type=int, default=1, help="decides when")
    parser.addoption("--fuzz", type=int, default=150, help="mutated files of each kind")
    parser.addoption("--fuzz-seed", type=int, default=1, help="decides which mutations")
    parser.addoption("--fuzz-cases", metavar="N,N…", help="these numbers alone")


@pytest.fixture
def root() -> Path:
    """Return the project's folder."""
    return ROOT


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real survey pixels, which only some machines have."""
    if not SHARED.is_dir():
        pytest.skip(f"real survey data are not at {SHARED}")
    return SHARED


@pytest.fixture
def lensfinder() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own."""

    def call(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "lensfinder", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)

    return call


class Said(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """Run the command line in this process, which saves starting another."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["lensfinder", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        return Said(int(code or 0), *capsys.readouterr())  # type: ignore[call-overload]

    return call
