"""Kill each stage at random, and at every step of every commit, and see what is left.

    python tests/faults/kills.py --kills 200          # takes about an hour on two cores

One process has all imported; each run is its fork, so that a blow falls into the work and not
into the start of Python. After each blow every file under a final name is compared with the same
file of an uninterrupted run, and the next run must leave it alone. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lensfinder

SIZE, BANDS, TILES = 25, "gri", 4
LOGIT_TOLERANCE = 1e-4
INTERRUPTED, STOP_S = 75, 30.0
# To stop a run in its midst, where the machine's load comes and goes.
MOST_TRIES = 8
STAGES = ("cutout", "simulate", "train", "infer", "report")
# Hold the command and when or where something ran.
OF_THE_RUN = {"run.json", "provenance"}
# What the latest run said.
LOG = Path(tempfile.gettempdir()) / f"kills-{os.getpid()}.log"


def make_sky(folder: Path) -> None:
    """Write small tiles far apart and a catalogue of places on them."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from skies import sky_YX, tan_wcs, write_kids_tile, write_targets

    rng, places = np.random.default_rng(0), []
    for number in range(TILES):
        wcs = tan_wcs(number + 10.0, 0.0, (120, 120))
        images = {band: sky_YX((120, 120), [], 3 * number + k) for k, band in enumerate(BANDS)}
        write_kids_tile(folder / "tiles", f"{number + 10}_0", images, wcs)
        places.append(wcs.all_pix2world(rng.uniform(12, 108, (40, 2)), 0))
    write_targets(folder / "targets.csv", *np.concatenate(places).T)


def arguments_of(stage: str, sky: Path, made: Path, output: Path) -> list[str]:
    """Spell out a stage's command, which reads what the clean runs in `made` wrote."""
    size = ["--size", str(SIZE)]
    own = {
        "cutout": [str(sky / "tiles"), "--catalog", str(sky / "targets.csv"), *size],
        "simulate": ["-n", "128", "--unit-size", "64", *size],
        "train": [
            str(made / "simulate"), "--epochs", "2", "--batch-size", "32", "--ranks", "1",
            "--save-every-s", "0.05",
        ],
        # Eight views, so that a signal strikes before the few stamps are done.
        "infer": [str(made / "cutout"), "--model", str(made / "train"), "--views", "8"],
        "report": [str(made / "infer-mocks"), "--sky", str(made / "infer")],
    }  # fmt: skip
    return [stage, *own[stage], "-o", str(output), "-q", "--engine", "serial"]


# -- one run, in a fork --------------------------------------------------------------------------


def start(arguments: list[str], before: Callable[[], None] | None = None) -> int:
    """Fork a run of the command line; return its process id."""
    child = os.fork()
    if child:
        return child
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1), os.dup2(log, 2)
    code = 70
    try:
        from lensfinder import cli

        if before is not None:
            before()
        sys.argv = ["lensfinder", *arguments]
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a run; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ended_within(child: int, seconds: float) -> int | None:
    """Wait for so long; None if it is still at work."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def do(arguments: list[str]) -> float:
    """Run a command to its end; return the seconds it took."""
    began = time.monotonic()
    code = ended(start(arguments))
    assert code == 0, f"{arguments}: {said(code)}"
    return time.monotonic() - began


def said(code: int) -> str:
    """Tell how the latest run ended."""
    return f"exit code {code}: {LOG.read_text(errors='replace')[-1500:]}"


# -- what is left ---------------------------------------------------------------------------------


def final_names(folder: Path) -> dict[str, Path]:
    """List what a run folder holds under final names, apart from training states."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".state"
    }


def differs(one: Path, other: Path) -> str:
    """Say how two files differ beyond how they came about, or nothing."""
    if one.name in OF_THE_RUN:
        json.loads(one.read_text())
        return ""
    try:
        how = {
            **{".h5": _shards, ".parquet": _tables, ".json": _json, ".safetensors": _models},
            **{".fits": _exports, ".ecsv": _exports, ".html": _pages, ".png": _pictures},
        }
        return how.get(one.suffix, _bytes)(one, other)
    except Exception as error:
        return f"{one} can't be read: {type(error).__name__}: {error}"


def _shards(one: Path, other: Path) -> str:
    import h5py

    def datasets(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with h5py.File(path, "r", locking=False) as file:
            file.visititems(
                lambda name, item: (
                    found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
                )
            )
        return {name: value for name, value in found.items() if name not in OF_THE_RUN}

    return _columns(one, datasets(one), datasets(other))


def _tables(one: Path, other: Path) -> str:
    from lensfinder import tables

    made_of = [(tables.read_metadata(path) or {}).get("ingredients") for path in (one, other)]
    if made_of[0] != made_of[1]:
        return f"{one}: other ingredients"
    return _columns(one, tables.read_columns(one), tables.read_columns(other))


def _exports(one: Path, other: Path) -> str:
    from astropy.table import Table

    tables = (Table.read(path) for path in (one, other))
    return _columns(one, *({n: np.ma.filled(t[n]) for n in t.colnames} for t in tables))


def _pages(one: Path, other: Path) -> str:
    whole = one.read_text().rstrip().endswith("</html>")
    same = _without_the_run(one) == _without_the_run(other)
    return "" if whole and same else f"{one}: other text"


def _without_the_run(page: Path) -> str:
    """Leave out what a page says of its run: the command, where things lie, and the time."""
    text = page.read_text().replace(str(page.parent), "")
    text = re.sub(r"<code>(?:lensfinder [^<]*|[^<]*/products/)", "", text)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.+]+Z?", "", text)


def _pictures(one: Path, _: Path) -> str:
    from PIL import Image

    with Image.open(one) as picture:
        picture.load()
    return ""


def _columns(path: Path, a: dict[str, Any], b: dict[str, Any]) -> str:
    if a.keys() != b.keys():
        return f"{path}: {sorted(a.keys() ^ b.keys())}"
    for name, values in a.items():
        if name in ("logit", "score", "probability") or name.startswith("catalog/logit"):
            same = np.allclose(values, b[name], atol=LOGIT_TOLERANCE, equal_nan=True)
        else:
            floats = np.asarray(values).dtype.kind == "f"
            same = np.array_equal(values, b[name], equal_nan=floats)
        if not same:
            return f"{path}: {name}"
    return ""


def _json(one: Path, other: Path) -> str:
    a, b = json.loads(one.read_text()), json.loads(other.read_text())
    for content in (a, b):
        content.pop("provenance", None)
        # Files hold the command that made them, and so have other sums.
        if isinstance(content.get("products"), dict):
            content["products"] = sorted(content["products"])
        for product in content.get("products", []) if "stage" in content else []:
            product.pop("sha256", None), product.pop("bytes", None)
    return "" if a == b else f"{one}: other content"


def _models(one: Path, other: Path) -> str:
    from lensfinder import checkpoint

    ids = {checkpoint.read_header(path)["model_id"] for path in (one, other)}
    checkpoint.load(one, "cpu")  # checks every tensor against its hash
    return "" if len(ids) == 1 else f"{one}: another model_id"


def _bytes(one: Path, other: Path) -> str:
    if one.suffix == ".jsonl":
        # A curve is written anew with each epoch: as far as it goes, it is the same.
        return "" if other.read_text().startswith(one.read_text()) else f"{one}: another curve"
    return "" if one.read_bytes() == other.read_bytes() else f"{one}: other bytes"


class Judge:
    """Compares a folder with that of an uninterrupted run, and knows what must stay as it is."""

    def __init__(self, clean: Path, folder: Path) -> None:
        self.clean, self.folder = final_names(clean), folder
        self.kept: dict[str, tuple[int, int]] = {}
        self.looked_at = 0

    def look(self, *, whole: bool) -> list[str]:
        found, wrong = final_names(self.folder), []
        self.looked_at += len(found)
        for name, path in found.items():
            if name in self.clean:
                difference = differs(path, self.clean[name])
                wrong += [difference] if difference else []
            else:
                wrong.append(f"{name} is not in a clean run")
        if whole:
            wrong += [f"{name} is missing" for name in sorted(self.clean.keys() - found.keys())]
        products = {
            name: (stat.st_ino, stat.st_mtime_ns)
            for name, path in found.items()
            if name.startswith("products/")
            for stat in [path.stat()]
        }
        wrong += [
            f"{name} was made again" for name, was in self.kept.items() if products.get(name) != was
        ]
        self.kept = products
        return wrong

    def begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.kept = {}


# -- kills and crash points -----------------------------------------------------------------------


def kill_at_random(
    arguments: list[str],
    judge: Judge,
    seconds: float,
    kills: int,
    minutes: float,
    rng: random.Random,
) -> dict[str, Any]:
    """Kill runs into one folder until enough have struck; begin anew when one comes through."""
    struck = whole = 0
    until = time.monotonic() + 60 * minutes
    wrong: list[str] = []
    judge.begin()
    while struck < kills and time.monotonic() < until:
        fresh, began = not judge.kept, time.monotonic()
        child = start(arguments)
        code = ended_within(child, rng.uniform(0, seconds))
        if code is None:
            os.kill(child, signal.SIGKILL)
            code = ended(child)
        if code == -signal.SIGKILL:
            struck += 1
            wrong += judge.look(whole=False)
        else:
            wrong += [] if code == 0 else [said(code)]
            wrong += judge.look(whole=True)
            whole += 1
            # The machine is as busy as it is now.
            seconds = time.monotonic() - began if fresh else seconds
            judge.begin()
    do(arguments)
    do(["status", str(judge.folder), "--verify", "--deep", "--clean"])
    wrong += judge.look(whole=True)
    wrong += [f"{path} is left" for path in judge.folder.rglob(".*") if path.is_file()]
    return {
        "kills": struck,
        "whole_runs": whole + 1,
        "files_looked_at": judge.looked_at,
        "wrong": wrong,
    }


def stop_by_signals(
    arguments: list[str], judge: Judge, seconds: float, rng: random.Random
) -> dict[str, Any]:
    """Ask runs to stop, by each of the signals; what is left must do for the next run."""
    wrong: list[str] = []
    stopped = 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        code: int | None = 0
        for tried in range(MOST_TRIES):
            judge.begin()
            child = start(arguments)
            # Not in the very first moments, when nobody listens yet; sooner each time it was late.
            code = ended_within(child, seconds * rng.uniform(0.2, 0.7) * 0.8**tried)
            if code is None:
                os.kill(child, number)
                code = ended_within(child, STOP_S)
                if code is None:
                    os.kill(child, signal.SIGKILL)
                    code = ended(child)
            if code:
                break
            wrong += judge.look(whole=True)
        if code:
            stopped += 1
            wrong += [] if code == INTERRUPTED else [f"{number.name}: {said(code)}"]
            wrong += judge.look(whole=False)
            do(arguments)
            wrong += judge.look(whole=True)
    return {"stopped": stopped, "wrong": wrong}


def die_at(name: str, nth: int, when: str) -> Callable[[], None]:
    """Make the n-th call of a function of os the last thing that a run does."""

    def arm() -> None:
        original, calls = getattr(os, name), 0

        def last(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == nth and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            original(*arguments)
            if calls == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, last)

    return arm


# Of each commit: after write, after fsync, before and after replace, after fsync of the folder.
POINTS = (
    ("fsync", lambda n: 2 * n - 1, "before"),
    ("fsync", lambda n: 2 * n - 1, "after"),
    ("replace", lambda n: n, "after"),
    ("fsync", lambda n: 2 * n, "after"),
)


def crash_everywhere(arguments: list[str], judge: Judge, commits: Sequence[int]) -> dict[str, Any]:
    """Crash at each point of each of these commits, then run again."""
    wrong: list[str] = []
    crashes = 0
    for number in commits:
        for name, nth, when in POINTS:
            judge.begin()
            code = ended(start(arguments, die_at(name, nth(number), when)))
            if code == 0:
                continue  # that commit is not there
            wrong += [] if code == -signal.SIGKILL else [said(code)]
            crashes += 1
            wrong += judge.look(whole=False)
            do(arguments)
            wrong += judge.look(whole=True)
    return {"crashes": crashes, "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="of each stage")
    parser.add_argument("--minutes", type=float, default=60.0, help="of killing a stage, at most")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--commits",
        default="1,2,3,4,5,6,7,8",
        help="whose crash points are tried; the first is run.json's",
    )
    parser.add_argument("--figures", action="store_true", help="let the report draw its figures")
    given = parser.parse_args()
    chosen = given.stages.split(",")
    # All of it now: a fork must not load what somebody has edited meanwhile.
    for module in pkgutil.walk_packages(lensfinder.__path__, "lensfinder."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    import torch

    from lensfinder.report import illustrate

    if not given.figures:
        illustrate.illustrations = lambda *_: []  # most of a small report's time
    torch.set_num_threads(1)  # threads of this process would be missing in its forks

    with tempfile.TemporaryDirectory() as work:
        sky, made, out = Path(work) / "sky", Path(work) / "made", Path(work) / "out"
        make_sky(sky)
        results: dict[str, Any] = {}
        needed = STAGES[: max(STAGES.index(stage) for stage in chosen) + 1]
        for stage in needed:
            seconds = do(arguments_of(stage, sky, made, made / stage))
            if stage == "infer" and "report" in chosen:
                mocks = [str(made / "simulate"), "--model", str(made / "train")]
                _ = do(
                    [
                        "infer",
                        *mocks,
                        "-o",
                        str(made / "infer-mocks"),
                        "-q",
                        "--engine",
                        "serial",
                        "--views",
                        "8",
                    ]
                )
            if stage not in chosen:
                continue
            arguments = arguments_of(stage, sky, made, out)
            judge = Judge(made / stage, out)
            judge.begin()
            seconds = do(arguments)  # the first has loaded what the others find
            wrong = judge.look(whole=True)
            crashed = crash_everywhere(
                arguments, judge, [int(text) for text in given.commits.split(",")]
            )
            rng = random.Random(f"{given.seed} {stage}")
            killed = kill_at_random(arguments, judge, seconds, given.kills, given.minutes, rng)
            stopped = stop_by_signals(arguments, judge, seconds, rng)
            for one in (crashed, killed, stopped):
                wrong += one.pop("wrong")
            results[stage] = {"seconds": round(seconds, 2), **crashed, **killed, **stopped}
            results[stage]["wrong"] = wrong
            print(stage, results[stage], file=sys.stderr, flush=True)
    print(json.dumps(results))
    return int(any(result["wrong"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
