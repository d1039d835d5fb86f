"""Laws of engines: how work is spread changes no product, and nothing listens to the outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skies import sky_YX, tan_wcs, write_kids_tile

from lensfinder import parallel, shards, tables
from lensfinder.crew import Crew
from lensfinder.errors import DiskError, MismatchError, RequestError, UnitError
from lensfinder.ledger import read_index
from lensfinder.units import Failure, Receipt, Unit

Command = Callable[..., Any]
LOCALHOST = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
LISTENING = "0A"


def listening_of(process: int) -> set[str]:
    """List the addresses, as the kernel writes them, on which a process and its children listen."""
    tree, inodes = {process}, set()
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has just ended
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    for member in tree:
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{member}/fd").iterdir()]
        except OSError:
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == LISTENING and fields[9] in inodes:
                found.add(fields[1])
    return found


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tiles, one of them broken."""
    folder = tmp_path_factory.mktemp("sky")
    for number in range(5):
        images = {
            band: sky_YX((70, 70), [(20.0, 25.0), (45.0, 40.0)], 3 * number + seed)
            for seed, band in enumerate("gri")
        }
        write_kids_tile(folder, f"{number + 10}_0", images, tan_wcs(number + 10.0, 0.0, (70, 70)))
    os.truncate(folder / "KiDS_DR4.0_13_0_i_sci.fits", 9000)
    return folder


def products(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for entry in read_index(folder)["products"]:
        with shards.read(folder / entry["product"]) as shard:
            made[entry["product"]] = (
                entry["fingerprint"],
                shard.image[:].tobytes(),
                shard.mask[:].tobytes(),
                {name: values.tolist() for name, values in shard.ledger.items()},
                shard.catalog["id"].tolist(),
            )
    return made


def test_two_workers_make_what_one_process_makes_and_listen_to_nobody_else(
    tmp_path: Path, sky: Path, command: Command
) -> None:
    arguments = ["cutout", str(sky), "--size", "21"]
    assert command(*arguments, "-o", tmp_path / "serial", "--engine", "serial").code == 3

    local = [*arguments, "-o", str(tmp_path / "local"), "--engine", "local", "--workers", "2"]
    run = [sys.executable, "-m", "lensfinder", *local]
    heard: set[str] = set()
    with subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while True:
            try:
                out, err = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                heard |= listening_of(process.pid)
    assert process.returncode == 3, err
    assert "4 ok" in out or "ok" in out
    assert len(heard) >= 3, "a scheduler and two workers"
    assert {address.partition(":")[0] for address in heard} <= LOCALHOST
    assert products(tmp_path / "local") == products(tmp_path / "serial")
    ledgers = [
        tables.read_columns(tmp_path / name / "ledger.parquet") for name in ("local", "serial")
    ]
    assert ledgers[0].keys() == ledgers[1].keys()
    assert all(np.array_equal(ledgers[0][name], ledgers[1][name]) for name in ledgers[0])


def test_the_order_of_files_decides_nothing(tmp_path: Path, sky: Path, command: Command) -> None:
    files = sorted(sky.iterdir(), reverse=True)
    assert (
        command("cutout", sky, "--size", 21, "-o", tmp_path / "a", "--engine", "serial").code == 3
    )
    assert (
        command("cutout", *files, "--size", 21, "-o", tmp_path / "b", "--engine", "serial").code
        == 3
    )
    assert products(tmp_path / "a") == products(tmp_path / "b")


def unit(name: str) -> Unit:
    return Unit("cutout", name, Path(name), {})


def attempted(monkeypatch: pytest.MonkeyPatch, do: Callable[[Unit], Receipt]) -> Receipt | Failure:
    monkeypatch.setattr("lensfinder.cutout.stage.do", do)
    return parallel.attempt(unit("u"), 1)


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (UnitError("truncated", "a sentence"), "truncated", 3),
        (MemoryError(), "memory", 3),
        (ZeroDivisionError("oops"), "bug", 1),
    ],
)
def test_what_one_unit_raises_becomes_its_failure(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str, code: int
) -> None:
    def do(_: Unit) -> Receipt:
        raise error

    failure = attempted(monkeypatch, do)
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.exit_code) == (reason, code)
    assert bool(failure.traceback) == (reason == "bug")


@pytest.mark.fault
def test_a_full_disk_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def do(_: Unit) -> Receipt:
        raise DiskError("full")

    with pytest.raises(DiskError):
        attempted(monkeypatch, do)


def test_a_receipt_that_does_not_add_up_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="does not add up"):
        attempted(monkeypatch, lambda _: Receipt(planned=3, ok=1, rejected=1))


def test_serial_units_come_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[str] = []

    def do(one: Unit) -> Receipt:
        began.append(one.name)
        return Receipt(0, 0)

    monkeypatch.setattr("lensfinder.cutout.stage.do", do)
    units: Sequence[Unit] = [unit("a"), unit("b")]
    with parallel.Engine("serial", 0) as engine:
        results = engine.do(units)
        assert next(results) == (units[0], Receipt(0, 0))
        assert began == ["a"]
        assert len(list(results)) == 1


PRELOADED = """
import ctypes, os, signal
from lensfinder.cutout import stage
from lensfinder.units import Receipt

def do(unit):
    if unit.name == "crashes":
        ctypes.string_at(0)
    if unit.name == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    return Receipt(1, 1)

stage.do = do
"""


@pytest.mark.fault
def test_units_that_crash_or_hang_fail_alone(tmp_path: Path) -> None:
    import dask
    import distributed  # noqa: F401 (or the settings below would be all there are)

    (tmp_path / "preloaded.py").write_text(PRELOADED)
    names = ["a", "crashes", "b", "c", "stops", "d", "e"]
    with (
        dask.config.set({"distributed.worker.preload": [str(tmp_path / "preloaded.py")]}),
        parallel.Engine("local", 2) as engine,
    ):
        results = {one.name: result for one, result in engine.do([unit(n) for n in names], 6.0)}
    failed = {n: r.reason for n, r in results.items() if isinstance(r, Failure)}
    assert failed == {"crashes": "worker_died", "stops": "timeout"}
    assert set(results) == set(names)


class OneWorker:
    """A scheduler's word on a worker that does one task at a time."""

    def __init__(self) -> None:
        self.keys: tuple[str, ...] = ()
        self.restarted: list[str] = []

    def processing(self) -> dict[str, tuple[str, ...]]:
        return {"w": self.keys}

    def cancel(self, futures: list[object], *, force: bool) -> None:
        assert force

    def restart_workers(self, workers: list[str], **_: object) -> None:
        self.restarted += workers


def test_a_unit_that_waits_behind_another_is_not_late_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever order the scheduler names them in."""
    now = 0.0
    monkeypatch.setattr("lensfinder.crew.time.monotonic", lambda: now)
    client: Any = OneWorker()
    units = {name: unit(name) for name in ("a", "b", "c")}
    futures: Any = dict.fromkeys(units)
    crew = Crew(client, 300.0, units=dict(units), futures=dict(futures), nthreads={"w": 1})
    client.keys = ("a", "b")
    assert crew.late(10) == []
    now = 9.0
    assert crew.late(10) == []
    # One of them is done; whichever is left has only begun.
    crew.units.pop("a")
    client.keys = ("b",)
    assert crew.late(10) == []
    now = 18.0
    assert crew.late(10) == []
    now = 20.0
    assert crew.late(10) == [["b"]]
    assert crew.drop(["b"]) == [units["b"]]
    # Neither of two that a worker sits on is known to be the one that is stuck.
    crew.units, crew.futures = dict(units), dict(futures)
    client.keys = ("c", "a")
    assert crew.late(10) == []
    now = 31.0
    assert crew.late(10) == [["c", "a"]]
    assert crew.drop(["c", "a"]) == [units["c"], units["a"]]
    assert client.restarted == ["w", "w"]
    assert list(crew.units) == ["b"]


LEAVING = """
import signal, sys
from pathlib import Path
from distributed import get_worker
from lensfinder.cutout import stage
from lensfinder.units import Receipt

def do(unit):
    gone = Path("FOLDER", unit.name)
    if not gone.exists():
        gone.touch()
        get_worker().loop.add_callback(sys.exit)  # as distributed.chaos.KillWorker does
        signal.pause()
    return Receipt(1, 1)

stage.do = do
"""


def test_workers_that_leave_a_local_cluster_are_replaced(tmp_path: Path) -> None:
    import dask
    import distributed  # noqa: F401

    (tmp_path / "leaving.py").write_text(LEAVING.replace("FOLDER", str(tmp_path)))
    settings = {
        "distributed.worker.preload": [str(tmp_path / "leaving.py")],
        "distributed.deploy.lost-worker-timeout": "0.1 s",
    }
    # Each of the two workers leaves; no nanny starts it anew.
    units = [unit("a"), unit("b")]
    with dask.config.set(settings), parallel.Engine("local", 2, None, 60.0) as engine:
        assert {one.name for one, result in engine.do(units) if result == Receipt(1, 1)} == {
            "a",
            "b",
        }


def test_a_unit_that_takes_too_long_here_fails_and_the_next_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def do(one: Unit) -> Receipt:
        if one.name == "hangs":
            threading.Event().wait()
        return Receipt(1, 1)

    monkeypatch.setattr("lensfinder.cutout.stage.do", do)
    with parallel.Engine("serial", 0) as engine:
        (_, late), (_, next_one) = engine.do([unit("hangs"), unit("a")], 0.2)
    assert isinstance(late, Failure)
    assert late.reason == "timeout"
    assert next_one == Receipt(1, 1)


def test_workers_of_another_version_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(parallel, "__version__", "9.9")
    with LocalCluster(
        n_workers=1, host="127.0.0.1", dashboard_address=None, processes=True
    ) as cluster:
        # A scheduler's file names its address.
        file = tmp_path / "scheduler.json"
        file.write_text(json.dumps({"address": cluster.scheduler_address}))
        with (
            parallel.Engine(str(file), 0) as engine,
            pytest.raises(MismatchError, match=r"another lensfinder.*expected 9\.9"),
        ):
            list(engine.do([unit("a"), unit("b")]))


@pytest.mark.parametrize("content", [None, "{}", "<html>"])
def test_a_file_that_names_no_scheduler_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(parallel, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(parallel, "_LOOK_EVERY_S", 0.05)
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_text(content)
    with (
        parallel.Engine(str(file), 0) as engine,
        pytest.raises(RequestError, match=r"scheduler\.json names no scheduler"),
    ):
        list(engine.do([unit("a"), unit("b")]))


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "CONNECT_TIMEOUT_S", 0.2)
    with (
        parallel.Engine("tcp://127.0.0.1:1", 0) as engine,
        pytest.raises(RequestError, match=r"no scheduler answers at tcp://127\.0\.0\.1:1"),
    ):
        list(engine.do([unit("a"), unit("b")]))
