"""Doors that stay shut: what a stranger's file, name or text must not do.

Others are kept by the tests that `docs/faults.md` names.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import pickle
import re
import struct
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scored import mock_scores, write_scores
from skies import sky_YX, tan_wcs, write_kids_tile

from lensfinder import shards, tables
from lensfinder.errors import RequestError
from lensfinder.train.states import States

Command = Callable[..., Any]

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted((ROOT / "lensfinder").rglob("*.py"))


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.trace, "was here")


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    wcs = tan_wcs(10.0, 0.0, (60, 60))
    write_kids_tile(tmp_path / "tiles", "10_0", {"r": sky_YX((60, 60), [(30.0, 30.0)], 1)}, wcs)
    return tmp_path / "tiles"


# -- code in data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pkl"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_no_model_and_is_not_run(
    tmp_path: Path, command: Command, name: str, how: str
) -> None:
    trace, model = tmp_path / "trace", tmp_path / name
    if how == "torch":
        torch.save({"weights": Evil(trace)}, model)
    else:
        model.write_bytes(pickle.dumps(Evil(trace)))
    (tmp_path / "tiles").mkdir()
    done = command("infer", tmp_path / "tiles", "-o", tmp_path / "out", "--model", model)
    assert done.code == 2
    assert not trace.exists()


def test_a_training_state_runs_nothing(tmp_path: Path) -> None:
    trace, states = tmp_path / "trace", States(tmp_path / "states")
    states.save(1, {"step": 1})
    buffer = io.BytesIO()
    torch.save({"step": 2, "evil": Evil(trace)}, buffer)
    content = buffer.getvalue()
    # With the right checksum, which anybody can compute.
    evil = tmp_path / "states" / "step-000000002.state"
    evil.write_bytes(hashlib.sha256(content).digest() + content)
    assert states.newest_step() == 1
    assert not trace.exists()


def test_objects_in_a_shard_are_not_unpickled(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.h5", tmp_path / "trace"
    with h5py.File(path, "w") as file:
        file.attrs["schema_version"] = 1
        file.create_dataset("provenance", data=np.void(pickle.dumps(Evil(trace))))
        file.create_dataset("ingredients", data=np.void(pickle.dumps(Evil(trace))))
    assert shards.made_from(path) is None
    assert not trace.exists()


def test_the_code_has_no_way_to_run_data() -> None:
    forbidden = {
        *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load"),
        *("pickle.loads", "marshal.loads", "shelve.open", "yaml.load", "np.load", "numpy.load"),
        *("pandas.read_pickle", "joblib.load", "dill.load", "dill.loads", "jsonpickle.decode"),
    }
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in forbidden, f"{path}:{node.lineno} {called}"
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            assert given.get("shell", "False") == "False", f"{path}:{node.lineno}"
            assert given.get("allow_pickle", "False") == "False", f"{path}:{node.lineno}"
            if called == "torch.load":
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"


# -- other files, and places elsewhere ------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["cutout", "https://example.org/tile.fits"],
        ["cutout", "TILES", "--catalog", "http://127.0.0.1:1/targets.csv"],
        ["infer", "TILES", "--model", "s3://bucket/model.safetensors"],
        ["report", "ftp://example.org/scores"],
        ["simulate", "--population", "https://example.org/p.toml"],
        ["cutout", "TILES", "--survey", "https://example.org/s.toml"],
    ],
)
def test_nothing_is_fetched(
    tmp_path: Path, tile: Path, command: Command, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:  # fmt: skip
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    said = [str(tile) if word == "TILES" else word for word in arguments]
    done = command(*said, "-o", tmp_path / "out", "--engine", "serial")
    assert done.code == 2, done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("kind", ["external", "virtual", "soft", "link"])
def test_a_shard_shows_no_other_file(tmp_path: Path, command: Command, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"hunter2!" * 512)
    made = command("simulate", "-n", 64, "--unit-size", 64, "--size", 25, "--engine", "serial",
                   "-q", "-o", tmp_path / "mocks")  # fmt: skip
    assert made.code == 0, made.err
    (path,) = (tmp_path / "mocks" / "products").iterdir()
    with h5py.File(path, "r+") as file:
        shape = file["image"].shape
        del file["image"]
        if kind == "external":
            file.create_dataset("image", shape, "f4", external=[(str(secret), 0, 2**40)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, "f4")
            layout[0] = h5py.VirtualSource(str(secret), "x", shape[1:])
            file.create_virtual_dataset("image", layout)
        else:
            other = h5py.ExternalLink(str(secret), "/x") if kind == "link" else h5py.SoftLink("/x")
            file["image"] = other
    for asked in (["train", tmp_path / "mocks"], ["run", path]):
        done = command(*asked, "-o", tmp_path / "out", "--engine", "serial")
        assert done.code == 2, done.err
        assert "hunter2" not in done.err + done.out


def test_ids_that_are_paths_write_nothing_elsewhere(
    tmp_path: Path, tile: Path, command: Command
) -> None:
    ra, dec = tan_wcs(10.0, 0.0, (60, 60)).all_pix2world([30.0, 25, 35], [30.0, 25, 35], 0)
    ids = ["../../escaped", "/abs/olute", "a/b/../../c"]
    rows = [f"{name},{a!r},{d!r}" for name, a, d in zip(ids, map(float, ra), map(float, dec),
                                                       strict=True)]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(["id,ra,dec", *rows]) + "\n")
    before = set(tmp_path.rglob("*"))
    done = command("cutout", tile, "--bands", "r", "--size", 9, "--catalog", tmp_path / "t.csv",
                   "-o", tmp_path / "out", "--engine", "serial")  # fmt: skip
    assert done.code == 0, done.err
    ledger = tables.read_columns(tmp_path / "out" / "ledger.parquet")
    assert sorted(ledger["id"]) == sorted(ids)
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in new)
    assert not [path for path in new if "escaped" in path.name or "olute" in path.name]


# -- text that becomes something else -------------------------------------------------------------

EVIL_TEXT = (
    *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><script>x"),
    *("=1+1", "@SUM(A1)", "-2+3", "+cmd|' /C calc'!A0", "{{7*7}}", "${x}", "%00", "'quoted"),
)


class Page(HTMLParser):
    """Counts what a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.loads, self.handlers = 0, [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in ("src", "href", "action", "srcdoc") and not re.match("data:|#", value or ""):
                self.loads.append(value)


def test_the_page_runs_and_loads_nothing_of_its_texts(tmp_path: Path, command: Command) -> None:
    sky = mock_scores()
    n = len(sky["id"])
    sky |= {"label": np.full(n, -1), "kind": [""] * n, "split": [""] * n, "host_id": [""] * n}
    sky["id"] = [f"{EVIL_TEXT[k % len(EVIL_TEXT)]} {k}"[:64] for k in range(n)]
    plain = {**sky, "id": [f"object {k}" for k in range(n)]}
    pages = []
    for name, columns in (("plain", plain), ("evil", sky)):
        mocks = write_scores(tmp_path / name / "mocks", mock_scores())
        on_sky = write_scores(tmp_path / name / "sky", columns)
        done = command("report", mocks, "--sky", on_sky, "--fpr", "0.05", "-q", "--engine",
                       "serial", "-o", tmp_path / name / "report")  # fmt: skip
        assert done.code == 0, done.err
        page = Page()
        page.feed((tmp_path / name / "report" / "index.html").read_text(encoding="utf-8"))
        pages.append(page)
    assert pages[0].scripts == pages[1].scripts
    assert pages[1].loads == []
    assert pages[1].handlers == []
    regions = (tmp_path / "evil" / "report" / "candidates.reg").read_text()
    assert "\x1b" not in regions


def test_a_file_of_grades_with_evil_cells_stays_text(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "anna.csv"
    cells = "".join(f'"{text.replace(chr(34), chr(34) * 2)}",A,anna\n' for text in EVIL_TEXT)
    path.write_text("id,grade,grader\n" + cells)
    done = command("grades", path, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    for line in (tmp_path / "out" / "grades.csv").read_text().splitlines()[1:]:
        first = line.lstrip('"')
        assert not first.startswith(("=", "@", "+", "-")), line


@pytest.mark.parametrize("where", ["file", "band", "set", "id"])
def test_no_escape_code_reaches_the_terminal(
    tmp_path: Path, tile: Path, command: Command, where: str
) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m"
    asked: dict[str, list[object]] = {
        "file": ["check", tmp_path / f"{evil}.fits"],
        "band": ["check", tile, "--bands", evil],
        "set": ["cutout", tile, "-o", tmp_path / "o", "--set", f"cutout.{evil}=1"],
        "id": ["status", tmp_path, "--id", evil],
    }
    done = command(*asked[where])
    assert done.code == 2
    assert "\x1b" not in done.err + done.out
    assert "\x07" not in done.err + done.out


# -- files that claim to be enormous --------------------------------------------------------------


def test_a_model_that_claims_to_be_enormous_is_refused(tmp_path: Path, command: Command) -> None:
    model = tmp_path / "model.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    model.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    (tmp_path / "tiles").mkdir()
    done = command("infer", tmp_path / "tiles", "-o", tmp_path / "out", "--model", model)
    assert done.code == 2, done.err
    model.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert command("infer", tmp_path / "tiles", "-o", tmp_path / "out", "--model", model).code == 2


def test_a_shard_that_claims_to_be_enormous_is_refused(tmp_path: Path) -> None:
    """Chunks that were never written take no room in the file, and all of it when they are read."""
    path, n = tmp_path / "a.h5", 2**31
    with h5py.File(path, "w") as file:
        file.attrs.update({"schema_version": 1, "stage": "cutout", "survey": "kids"})
        file.attrs.update({"bands": ["r"], "pixel_scale_arcsec": 0.2, "stretched": False})
        for name in ("ingredients", "provenance"):
            file[name] = "{}"
        file.create_dataset("image", (n, 1, 9, 9), "f4", chunks=(64, 1, 9, 9))
        file.create_dataset("mask", (n, 1, 9, 9), "u1", chunks=(64, 1, 9, 9))
        catalog = file.create_group("catalog")
        for name in ("ra", "dec"):
            catalog.create_dataset(name, (n,), "f8", chunks=(2**16,))
        file.create_group("ledger")
    assert path.stat().st_size < 2**20
    with pytest.raises(RequestError, match="declares"), shards.read(path):
        pass


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_a_catalogue_that_claims_to_be_enormous_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "targets.fits"
    tables.write_astropy(path, {"ra": np.zeros(3), "dec": np.zeros(3)}, "fits")
    raw = bytearray(path.read_bytes())
    place = raw.index(b"NAXIS2  ")
    raw[place : place + 80] = f"{'NAXIS2':8}= {2 * 10**9:>20}".ljust(80).encode()
    claimed = tmp_path / f"claimed{suffix}"
    claimed.write_bytes(gzip.compress(raw) if suffix.endswith(".gz") else raw)
    with pytest.raises(RequestError, match="declares"):
        tables.read_table(claimed)


# -- the container, and the nodes -----------------------------------------------------------------


def test_the_container_runs_as_nobody() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert "root" not in users[-1]
    assert not users[-1].startswith("0")
    last = max(n for n, line in enumerate(lines) if line.startswith("USER "))
    # Nothing runs after it as anybody else.
    assert not [line for line in lines[last:] if line.startswith("RUN ")]
    assert not [line for line in lines if "--privileged" in line or "ADD http" in line]


def test_worker_jobs_speak_tls_alone() -> None:
    source = ast.parse((ROOT / "lensfinder" / "slurm.py").read_text())
    made = [node for node in ast.walk(source) if isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("SLURMCluster")]  # fmt: skip
    assert made
    for node in made:
        given = {one.arg: ast.unparse(one.value) for one in node.keywords}
        assert given.get("security") == "True"
