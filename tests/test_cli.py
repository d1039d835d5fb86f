"""Laws of the command line: bad input gets one clear line, and exit code 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_origin

import numpy as np
import pytest
from astropy.io import fits
from skies import sky_YX, tan_wcs, write_kids_tile, write_targets

import lensfinder as package
from lensfinder.config import STAGES, section_model

Command = Callable[..., Any]


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    """Write one sound tile and its targets."""
    wcs = tan_wcs(10.0, 0.0, (70, 70))
    images = {band: sky_YX((70, 70), [(30.0, 30.0)], seed) for seed, band in enumerate("gri")}
    write_kids_tile(tmp_path / "tiles", "10_0", images, wcs)
    write_targets(tmp_path / "targets.csv", *wcs.all_pix2world([30.0], [30.0], 0))
    return tmp_path


def science(folder: Path, band: str) -> Path:
    return folder / "tiles" / f"KiDS_DR4.0_10_0_{band}_sci.fits"


def no_image(folder: Path) -> None:
    fits.HDUList([fits.PrimaryHDU()]).writeto(science(folder, "r"), overwrite=True)


def no_wcs(folder: Path) -> None:
    for band in "gri":
        path = science(folder, band)
        fits.writeto(path, fits.getdata(path), overwrite=True)


def unequal_bands(folder: Path) -> None:
    path = science(folder, "i")
    fits.writeto(path, np.zeros((70, 71), np.float32), fits.getheader(path), overwrite=True)


def no_positions(folder: Path) -> None:
    (folder / "targets.csv").write_text("id,flux\na,1\n")


def nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize("command_name", ["cutout", "check"])
@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (nothing, ["missing.fits"], "no such file: missing.fits"),
        (nothing, ["--survey", "kdis"], "unknown survey 'kdis'; expected 'kids'"),
        (nothing, ["--bands", "g,q"], "no band 'q'"),
        (no_image, [], "holds no two-dimensional image"),
        (no_wcs, [], "has no celestial WCS"),
        (unequal_bands, [], "has 71 x 70 pixels; expected 70 x 70 as in g"),
    ],
)
def test_a_bad_tile_gets_one_clear_line(
    tile: Path, command: Command, command_name: str, spoil: Callable[[Path], None],
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    spoil(tile)
    output = ["-o", tile / "out", "-q"] if command_name == "cutout" else []
    given = command(command_name, tile / "tiles", *arguments, *output)
    assert given.code == 2
    lines = (given.err + given.out).strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (nothing, ["--set", "cutout.sise=61"], "cutout.sise: unknown key; expected 'size'"),
        (nothing, ["--set", "cutout.size=sixty"], "cutout.size"),
        (nothing, ["--size", "60"], "60 is even"),
        (nothing, ["--config", "none.toml"], "no such file: none.toml"),
        (nothing, ["--part", "3/2"], "--part 3/2"),
        (nothing, ["-o", ""], "an empty name; expected a folder"),
        (nothing, ["-o", "x" * 300], "File name too long"),
        (nothing, ["--engine", "fast"], "engine 'fast' is unknown"),
        (nothing, ["--catalog", "none.csv"], "no such catalogue: none.csv"),
        (nothing, ["--mag-max", "20"], "mag_min and mag_max need the magnitude mag_r"),
        (no_positions, [], "no column for ra"),
    ],
)
def test_a_bad_request_is_refused_in_words(
    tile: Path, command: Command, spoil: Callable[[Path], None], arguments: list[str], said: str
) -> None:
    spoil(tile)
    catalog = [] if "--catalog" in arguments else ["--catalog", tile / "targets.csv"]
    given = command("cutout", tile / "tiles", *catalog, "-o", tile / "out", "-q", *arguments)
    assert given.code == (74 if "x" * 300 in arguments else 2)
    assert said in given.err
    assert "Traceback" not in given.err
    assert not (tile / "out").exists()


@pytest.mark.parametrize("arguments", [["--part", "1/2", "--only", "simulate"], ["--finish"]])
def test_a_chain_of_jobs_has_no_parts_of_its_own(
    root: Path, command: Command, arguments: list[str]
) -> None:
    given = command(
        "run", root / "pipelines/quickstart.toml", "--engine", "slurm", "--dry-run", *arguments
    )
    assert given.code == 2
    assert "--part or --finish with --engine slurm" in given.err


def test_a_training_is_no_job_by_itself(tmp_path: Path, command: Command) -> None:
    given = command("train", tmp_path, "-o", tmp_path / "out", "--engine", "slurm")
    assert given.code == 2
    assert "`lensfinder run PIPELINE.toml --engine slurm`" in given.err


def test_neither_a_closed_stderr_nor_a_poor_terminal_is_a_bug(tmp_path: Path) -> None:
    program = f"{sys.executable} -P -m lensfinder"
    mocks = f"simulate --survey kids -n 128 --unit-size 64 --size 9 --bands r -o {tmp_path}/out"
    for line in (f"{program} {mocks} --engine serial 2>&-", f"LC_ALL=C {program} surveys"):
        poor = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        said = subprocess.run(line, shell=True, capture_output=True, env=poor, check=False)
        assert said.returncode == 0, said.stderr


def test_an_unknown_network_is_refused(tmp_path: Path, command: Command) -> None:
    given = command("train", tmp_path, "-o", tmp_path / "out", "--network", "lensnt")
    assert given.code == 2


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nonsense"], ["cutout"], ["train", "-o"]])
def test_wrong_usage_is_code_2(command: Command, arguments: list[str]) -> None:
    assert command(*arguments).code == 2


def test_escape_codes_in_a_name_do_not_reach_the_terminal(tile: Path, command: Command) -> None:
    given = command("cutout", tile / "\x1b[31mred.fits", "-o", tile / "out")
    assert given.code == 2
    assert "\x1b" not in given.err
    assert "x1b[31mred" in given.err


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_is_an_option_with_its_description(command: Command, stage: str) -> None:
    said = " ".join(command(stage, "--help").out.split())
    for key, field in section_model(stage).model_fields.items():
        extra = field.json_schema_extra
        if get_origin(field.annotation) is dict:
            continue  # a table is given key by key with --set
        if isinstance(extra, dict) and extra.get("positional"):
            continue
        assert f"--{key.replace('_', '-')}" in said, key


def test_a_bug_is_shown_whole_with_code_1(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("lensfinder.status.describe", break_down)
    given = command("status", ".")
    assert given.code == 1
    assert "ZeroDivisionError: a bug" in given.err
    assert "please report it" in given.err


def test_the_lists_and_the_version(command: Command) -> None:
    assert command("--version").out == f"lensfinder {package.__version__}\n"
    assert {survey["name"] for survey in json.loads(command("surveys", "--json").out)} >= {"kids"}
    networks = json.loads(command("networks", "--json", "--size", 61).out)
    assert {network["name"] for network in networks} >= {"lensnet", "deeplens", "petrillo2017"}
    for network in networks:
        # One that takes no stamps of this size says why.
        assert network["multiply_adds"] or network["reason"]
    assert "kids" in command("surveys").out
    assert "lensnet" in command("networks", "--size", 61).out


def test_check_describes_the_machine_and_a_sound_tile(tile: Path, command: Command) -> None:
    machine = json.loads(command("check", "--json").out)
    assert {"torch", "cores", "gpus", "file locks here"} <= machine.keys()
    said = command("check", tile / "tiles")
    assert said.code == 0
    assert "ok, 70 x 70, centre 10.00000 +0.00000" in said.out


def test_check_looks_at_a_pipeline(tile: Path, command: Command) -> None:
    pipeline = tile / "p.toml"
    pipeline.write_text(
        "[cutout]\ntiles = 'tiles'\ncatalog = 'targets.csv'\n[simulate]\ncount = 1000\nsize = 61\n"
    )
    said = command("check", pipeline)
    assert said.code == 0, said.err
    assert "cutout → simulate → train → infer-mocks → infer-sky → report" in said.out
    assert re.search(r"catalogue +ok, 1 row\b", said.out)
    assert "1000 of 61² in g,r,i" in said.out


def test_the_module_runs_as_the_script_does(
    lensfinder: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    said = lensfinder("cutout", tmp_path / "none.fits", "-o", tmp_path / "out")
    assert said.returncode == 2
    assert said.stderr.startswith("lensfinder: no such file")
    assert len(said.stderr.strip().splitlines()) == 1
