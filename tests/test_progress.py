"""Laws of progress in a log file: rare plain lines, and none for work without a count."""

from __future__ import annotations

import itertools

import pytest

from lensfinder.progress import Progress


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a minute pass between any two looks at the clock."""
    clock = itertools.count(0.0, 60.0)
    monkeypatch.setattr("lensfinder.progress.time.monotonic", lambda: next(clock))


@pytest.mark.usefixtures("slow")
def test_a_line_says_how_far_it_is_and_how_many_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("cutout", 2, "units") as shown:
        shown.advance()
        shown.advance(failed=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" units")[0] for line in lines] == ["cutout: 1 of 2", "cutout: 2 of 2"]
    assert "1 failed" in lines[-1]
    assert all(line.isprintable() for line in lines)


@pytest.mark.usefixtures("slow")
def test_the_rate_is_that_of_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 1010, "steps") as shown:
        shown.begin_at(1000)
        shown.advance(6)
    line = capsys.readouterr().err.splitlines()[1]
    seconds = 6 / float(line.split("steps  ")[1].split("/s")[0])
    assert seconds > 60
    assert line.startswith("train: 1006 of 1010")


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(("total", "quiet"), [(0, False), (2, True)])
def test_nothing_is_said_of_uncounted_work_or_to_who_wants_quiet(
    capsys: pytest.CaptureFixture[str], total: int, quiet: bool
) -> None:
    with Progress("train", total, "units", quiet=quiet) as shown:
        shown.advance()
    assert capsys.readouterr().err == ""
