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
    assert [line.split(" units")[0] for line in lines] == [
        "cutout: 1 of 2",
        "cutout: 2 of 2",
    ]
    assert "1 failed" in lines[-1]
    assert all(line.isprintable() for line in lines)


@pytest.mark.usefixtures("slow")
def test_what_an_earlier_run_did_counts_as_done_and_not_for_the_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("train", 1200, "steps") as shown:
        shown.resume(1000)
        shown.advance(60)
    first, last = capsys.readouterr().err.splitlines()
    # The clock jumps a minute at each look: before the line, for the rate, and for the time left.
    assert first.startswith("train: 1060 of 1200 steps  0.333/s, ")
    assert float(first.split(", ")[1].removesuffix(" s left")) == pytest.approx(120 / 60 * 140)
    assert last.startswith("train: 1060 of 1200 steps")
    assert " left" not in last  # it ended early


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(("total", "quiet"), [(0, False), (2, True)])
def test_nothing_is_said_of_uncounted_work_or_to_who_wants_quiet(
    capsys: pytest.CaptureFixture[str], total: int, quiet: bool
) -> None:
    with Progress("train", total, "units", quiet=quiet) as shown:
        shown.advance()
    assert capsys.readouterr().err == ""
