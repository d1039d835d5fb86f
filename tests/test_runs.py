"""Laws of the run folder: a file under its final name is complete, and of these ingredients."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skies import sky_YX, tan_wcs, write_kids_tile, write_targets

from lensfinder import fingerprints, parallel, runs, shards, tables
from lensfinder.commit import commit, orphans, write_json
from lensfinder.errors import DiskError, Interrupted
from lensfinder.ledger import products_of, read_index
from lensfinder.signals import listen
from lensfinder.units import Unit

Command = Callable[..., Any]
SHAPE_YX = (60, 60)

# -- fingerprints -------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(), JSON, max_size=5), st.text(), JSON)
def test_a_fingerprint_is_of_the_content_and_not_of_its_order(
    content: dict[str, Any], key: str, value: Any
) -> None:
    mark = fingerprints.fingerprint(content)
    assert fingerprints.fingerprint(shuffled(content)) == mark
    assert fingerprints.fingerprint(json.loads(json.dumps(content))) == mark
    assert fingerprints.differences(content, shuffled(content)) == []
    changed = {**content, key: value}
    same = json.dumps(content, sort_keys=True) == json.dumps(changed, sort_keys=True)
    assert (fingerprints.fingerprint(changed) == mark) == same


def test_differences_are_named_by_their_place() -> None:
    old = {"cutout": {"size": 101, "bands": ["g"]}, "tile": {"r": {"bytes": 10}}}
    new = {"cutout": {"size": 65, "bands": ["g"]}, "tile": {"r": {"bytes": 12}}}
    assert fingerprints.differences(old, new) == ["cutout.size: 101 → 65", "tile.r.bytes: 10 → 12"]


# -- the commit protocol ------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["write", "check", "fsync", "replace"])
@pytest.mark.fault
def test_whatever_fails_nothing_is_left_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if fails in ("fsync", "replace"):
        monkeypatch.setattr(os, fails, fail)

    def write() -> None:
        with commit(path, check=fail if fails == "check" else None) as temporary:
            temporary.write_text("new")
            if fails == "write":
                fail()

    with pytest.raises(DiskError, match="No space left"):
        write()
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_bug_is_no_disk_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), commit(tmp_path / "a"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, command: Command) -> None:
    (tmp_path / "file").write_text("")
    sky, catalog = make_sky(tmp_path)
    for output in (tmp_path / "file", tmp_path / "file" / "inside"):
        said = command("cutout", sky, "--catalog", catalog, "-o", output, "--engine", "serial")
        assert said.code == 2
        assert "is a file" in said.err


# Run the command line with the n-th call of an os function made the last thing that happens.
CRASH = """
import os, signal, sys
name, nth, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
original, calls = getattr(os, name), 0
def last(*arguments):
    global calls
    calls += 1
    if calls == nth and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    original(*arguments)
    if calls == nth:
        os.kill(os.getpid(), signal.SIGKILL)
setattr(os, name, last)
sys.argv = ["lensfinder", *sys.argv[4:]]
from lensfinder.cli import main
main()
"""


def make_sky(folder: Path, names: tuple[str, ...] = ("10_0", "20_0")) -> tuple[Path, Path]:
    """Write tiles far apart, of two galaxies each, and a catalogue of them."""
    sky, positions = folder / "tiles", []
    for name in names:
        wcs = tan_wcs(float(name[:2]), 0.0, SHAPE_YX)
        xy = [(20.0, 20.0), (40.0, 35.0)]
        images = {band: sky_YX(SHAPE_YX, xy, seed) for seed, band in enumerate("gri")}
        write_kids_tile(sky, name, images, wcs)
        positions += [wcs.all_pix2world(x, y, 0) for x, y in xy]
    write_targets(folder / "targets.csv", *np.array(positions, float).T)
    return sky, folder / "targets.csv"


def content(folder: Path) -> dict[str, Any]:
    """Everything that a run's products hold, apart from how they came about."""
    made: dict[str, Any] = {}
    for path in sorted((folder / "products").glob("[!.]*")):
        with shards.read(path) as shard:
            made[path.name] = (
                shard.header.ingredients,
                shard.image[:].tobytes(),
                shard.mask[:].tobytes(),
                {name: values.tolist() for name, values in shard.catalog.items() if len(values)},
            )
    return made


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[[str], list[object]]:
    sky, catalog = make_sky(tmp_path)

    def of(output: str) -> list[object]:
        return [
            "cutout", sky, "--catalog", catalog, "--size", "21", "--engine", "serial",
            "-o", tmp_path / output,
        ]  # fmt: skip

    return of


# run.json takes two fsyncs and a replace, then each product does.
@pytest.mark.parametrize(
    ("name", "nth", "when"),
    [
        ("fsync", 3, "before"),  # after write
        ("fsync", 3, "after"),  # after fsync
        ("replace", 2, "before"),
        ("replace", 2, "after"),  # after replace
        ("replace", 4, "before"),  # of the index, when all products are there
    ],
)
@pytest.mark.fault
def test_killed_at_any_point_and_run_again_equals_a_clean_run(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command, name: str,
    nth: int, when: str,
) -> None:  # fmt: skip
    assert command(*request_of("clean")).code == 0
    crash = [sys.executable, "-c", CRASH, name, str(nth), when, *map(str, request_of("out"))]
    assert subprocess.run(crash, check=False, capture_output=True).returncode == -signal.SIGKILL
    out = tmp_path / "out"
    left = content(out) if (out / "products").exists() else {}  # reads, and so proves, each of them
    clean = content(tmp_path / "clean")
    assert left.items() <= clean.items()
    assert not (out / "index.json").exists()
    said = command("status", out)
    assert "not finished" in said.out

    again = command(*request_of("out"), "--json")
    assert again.code == 0
    assert json.loads(again.out)[0]["reused"] == len(left)
    assert content(out) == clean
    left_over = orphans(out)
    assert len(left_over) == (when == "before" or name == "fsync")
    assert command("status", out, "--clean", "--deep").code == 0
    assert orphans(out) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.fault
def test_a_full_disk_leaves_nothing_under_a_final_name(
    full_disk: Path, tmp_path: Path, announced: bool
) -> None:
    sky, catalog = make_sky(tmp_path)
    # Without the look at the free space beforehand, the write itself fails.
    blind = "import lensfinder.shards as s; s.need_space = lambda *_: None; "
    code = ("" if announced else blind) + "from lensfinder.cli import main; main()"
    (full_disk / "ballast").write_bytes(bytes(2 * 2**20 - 6 * 4096))
    command = ["cutout", sky, "--catalog", catalog, "--size", "41", "--engine", "serial"]
    said = subprocess.run(
        [sys.executable, "-c", code, *map(str, command), "-o", str(full_disk / "out")],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 74, said.stderr
    assert "Traceback" not in said.stderr
    assert list((full_disk / "out" / "products").glob("[!.]*")) == []


# -- what is reused, and what is refused ---------------------------------------------------------


@pytest.mark.fault
def test_another_request_is_refused_and_the_difference_named(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    assert command(*request_of("out")).code == 0
    before, said_before = content(tmp_path / "out"), (tmp_path / "out" / "run.json").read_bytes()
    said = command(*request_of("out"), "--set", "cutout.max_bad_fraction=0.4")
    assert said.code == 4
    assert (tmp_path / "out" / "run.json").read_bytes() == said_before
    assert "cutout.max_bad_fraction: 0.5 → 0.4" in said.err
    assert "--force" in said.err
    assert content(tmp_path / "out") == before

    forced = command(
        *request_of("out"), "--set", "cutout.max_bad_fraction=0.4", "--force", "--json"
    )
    assert forced.code == 0
    assert json.loads(forced.out)[0]["done"] == 2
    assert content(tmp_path / "out") != before


@pytest.mark.parametrize("change", ["size", "header"])
@pytest.mark.fault
def test_another_input_is_refused_and_only_its_unit_redone(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command, change: str
) -> None:
    from astropy.io import fits

    assert command(*request_of("out")).code == 0
    tile = tmp_path / "tiles" / "KiDS_DR4.0_10_0_g_sci.fits"
    if change == "size":
        tile.write_bytes(tile.read_bytes() + bytes(2880))
    else:
        with fits.open(tile, mode="update") as hdus:
            hdus[0].header["OBSERVER"] = "somebody"
    said = command(*request_of("out"))
    assert said.code == 4
    assert "tile.g/image." + {"size": "bytes", "header": "header"}[change] in said.err
    forced = command(*request_of("out"), "--force", "--json")
    assert (forced.code, json.loads(forced.out)[0]["done"]) == (0, 1)


def test_what_fails_under_force_does_not_leave_the_old_product(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    assert command(*request_of("out")).code == 0
    os.truncate(tmp_path / "tiles" / "KiDS_DR4.0_10_0_g_sci.fits", 5000)
    said = command(*request_of("out"), "--force")
    assert said.code == 3
    assert list(content(tmp_path / "out")) == ["KiDS_DR4.0_20_0.h5"]
    assert read_index(tmp_path / "out")["counts"]["failed"] == 2


def test_how_to_run_changes_no_fingerprint(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    assert command(*request_of("out")).code == 0
    for more in (["--workers", 1, "--engine", "local"], ["-q"], ["-v", "-v"], ["--seed", 7]):
        said = command(*request_of("out"), *more, "--json")
        assert (said.code, json.loads(said.out)[0]["reused"]) == (0, 2)


def test_another_tile_adds_a_unit_and_touches_no_other(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    assert command(*request_of("out")).code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "products").iterdir()}
    extra_sky, extra = make_sky(tmp_path / "extra", ("30_0",))
    for path in extra_sky.iterdir():
        path.rename(tmp_path / "tiles" / path.name)
    rows = extra.read_text().splitlines()[1:]
    with (tmp_path / "targets.csv").open("a") as catalog:
        catalog.write("\n".join(row.replace("t0", "u0") for row in rows) + "\n")
    said = command(*request_of("out"), "--json")
    assert said.code == 0
    assert (json.loads(said.out)[0]["done"], json.loads(said.out)[0]["reused"]) == (1, 2)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_damaged_product_is_made_again(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    assert command(*request_of("out")).code == 0
    before = content(tmp_path / "out")
    os.truncate(tmp_path / "out" / "products" / "KiDS_DR4.0_10_0.h5", 3000)
    said = command(*request_of("out"))
    assert said.code == 0
    assert "KiDS_DR4.0_10_0.h5 is damaged and is made again" in said.out
    assert content(tmp_path / "out") == before


@pytest.mark.fault
def test_what_another_run_has_made_meanwhile_stays(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two runs find nothing done; one does it all before the other begins to work."""
    looked, worked = runs.Run.pending, parallel.Engine.do
    steps: list[object] = []

    def pending(run: runs.Run, *given: Any) -> Any:
        found = looked(run, *given)
        if not steps:
            steps.append("the other run")
            steps.append(command(*request_of("out")).code)
        return found

    def do(engine: parallel.Engine, units: list[Unit], timeout_s: float) -> Iterator[Any]:
        if steps[-1] == 0:
            steps.append([unit.product.exists() for unit in units])
        return worked(engine, units, timeout_s)

    monkeypatch.setattr(runs.Run, "pending", pending)
    monkeypatch.setattr(parallel.Engine, "do", do)
    assert command(*request_of("out")).code == 0
    assert steps == ["the other run", 0, [True, True]]


@pytest.mark.fault
def test_a_folder_is_at_work_on_one_request(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    assert command(*request_of("out"), "--part", "1/2").code == 0
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["process"] is None, "it is over, whether or not the process lives on"
    told["process"] = runs.process(os.getppid())  # lives as long as this test
    (tmp_path / "out" / "run.json").write_text(json.dumps(told))
    other = [*request_of("out"), "--set", "cutout.max_bad_fraction=0.4"]
    said = command(*other)
    assert said.code == 2
    assert "is at work on another request" in said.err
    assert "with other max_bad_fraction" in said.err
    # The same request may be shared.
    assert command(*request_of("out"), "--part", "2/2").code == 0


@pytest.mark.fault
def test_nobody_speaks_for_what_another_request_has_put_there(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = [*request_of("other"), "--set", "cutout.max_bad_fraction=0.4"]
    assert command(*other).code == 0
    worked = parallel.Engine.do

    def do(engine: parallel.Engine, units: list[Unit], timeout_s: float) -> Iterator[Any]:
        for done in worked(engine, units, timeout_s):
            name = done[0].product.name
            shutil.copy(tmp_path / "other" / "products" / name, done[0].product)
            yield done

    monkeypatch.setattr(parallel.Engine, "do", do)
    said = command(*request_of("out"))
    assert said.code == 4
    assert "was made by another run meanwhile" in said.err
    assert "cutout.max_bad_fraction: 0.4 → 0.5" in said.err
    assert not (tmp_path / "out" / "index.json").exists()


def test_a_folder_in_the_place_of_a_product_is_told(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    assert command(*request_of("out")).code == 0
    (product, *_) = products_of(tmp_path / "out")
    product.unlink()
    product.mkdir()
    said = command(*request_of("out"))
    assert said.code == 2
    assert f"{product} is a folder" in said.err


def test_what_a_link_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == {"a": 1}


def test_a_dry_run_changes_nothing(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    said = command(*request_of("out"), "--dry-run")
    assert "2 of 2 units to do" in said.out
    assert not (tmp_path / "out").exists()
    command(*request_of("out"))
    assert "0 of 2 units to do" in command(*request_of("out"), "--dry-run").out


def test_a_folder_of_another_stage_is_not_taken_over(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    assert command(*request_of("out")).code == 0
    said = command("simulate", "-o", tmp_path / "out", "-n", 64, "--engine", "serial")
    assert said.code == 2
    assert "was written by cutout" in said.err
    assert read_index(tmp_path / "out")["stage"] == "cutout"


def test_finish_merges_what_is_done_and_counts_the_rest_as_failed(
    tmp_path: Path, request_of: Callable[[str], list[object]], command: Command
) -> None:
    assert command(*request_of("out"), "--part", "1/2").code == 0
    said = command(*request_of("out"), "--finish")
    assert said.code == 3
    counts = read_index(tmp_path / "out")["counts"]
    assert (counts["planned"], counts["failed"]) == (4, 2)
    assert set(tables.read_columns(tmp_path / "out" / "ledger.parquet")["reason"]) == {
        "",
        "not_done",
    }
    assert command(*request_of("out"), "--part", "2/2").code == 0
    assert command(*request_of("out"), "--finish").code == 0
    assert command(*request_of("whole")).code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


# -- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_interrupts_at_once_or_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name), listen(at_once=True):
        signal.raise_signal(number)
    with listen(at_once=False) as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(Interrupted):
            stop.check()
    assert signal.getsignal(number) == before


class Deaf:
    """Is hit by a signal where Python drops what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_python_drops_is_heard_all_the_same() -> None:
    def strike() -> None:
        Deaf()
        threading.Event().wait(60)

    with pytest.raises(Interrupted, match="SIGTERM"), listen(at_once=True):
        strike()
