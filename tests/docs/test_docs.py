"""Laws of the docs: what they show is what the code does, and what they name is there."""

from __future__ import annotations

import ast
import csv
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from docs import generate
from lensfinder import survey, tables, tiles
from lensfinder.cli import app

Command = Callable[..., Any]

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])
SPAN = re.MULTILINE | re.DOTALL
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


# What the fenced blocks of a page hold. Commands in a console run in a test as they stand; those of
# a shell need what only their reader has, and are held against the code.
LANGUAGES = {"console", "sh", "text", "toml", "python", "sql"}
RUN = {"tutorial.md", "populations.md", "surveys.md"}
# What else is typed beside lensfinder's own commands, and where that is done.
OTHERS = {
    **dict.fromkeys(("pip", "pytest", "mypy", "ruff"), "CI, in new environments"),
    **dict.fromkeys(("python3", "pre-commit", "git", "less"), "who sets up a checkout"),
    **dict.fromkeys(("cd", ".", "cp", "cat", "mkdir", "printf", "chmod"), "the shell"),
    **dict.fromkeys(("squeue", "tail"), "tests/slurm, by hand"),
    **dict.fromkeys(("docker", "apptainer"), "tests/container, which does what they do"),
    "python": "by hand; the script and its options are looked up",
}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield language and text of each fenced block."""
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        yield match[1], match[2]


def typed(text: str) -> Iterator[list[str]]:
    """Yield the words of each simple command in lines of a shell, without its redirections."""
    lines = iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        shell = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        shell.whitespace_split = True
        words: list[str] = []
        for word in [*shell, ";"]:
            if set(word) <= set(";&|"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)
        if "<<" in line:
            end = line.split("<<")[1].strip().strip("'")
            for body in lines:
                if body == end:
                    break


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each call of lensfinder in a block of shell lines."""
    for words in typed(text):
        if words[0] == "lensfinder":
            yield [word for word in words[1:] if set(word) - set("<>")]


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_says_what_the_code_says(name: str) -> None:
    stands = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert stands == generate.written(name), "run python tests/docs/generate.py"


def shown() -> Iterator[Any]:
    for page in PAGES:
        shells = [text for language, text in blocks(page) if language in ("console", "sh")]
        calls = [(words, True) for text in shells for words in commands(text)]
        inline = re.findall(r"`(lensfinder [^`]+)`", FENCE.sub("", page.read_text("utf-8")))
        calls += [(words, False) for text in inline for words in commands(text)]
        for words, whole in calls:
            # Words in capitals stand for something, and a bare name is no call.
            if len(words) > 1 and words[0].islower():
                name = f"{page.name}: {' '.join(words)[:70]}"
                yield pytest.param(words, whole, id=name)


@pytest.mark.parametrize(("words", "whole"), list(shown()))
def test_every_command_that_a_page_shows_is_one(words: list[str], whole: bool) -> None:
    group: Any = typer.main.get_command(app)
    assert words[0] in group.commands
    command = group.commands[words[0]]
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    given = [word.partition("=")[0] for word in words if re.match("--?[a-z]", word)]
    assert set(given) <= known | {"--help"}
    if whole and "--help" not in words:
        # Missing arguments and values of the wrong type are errors; a capital N is some number.
        command.make_context(words[0], ["1" if word == "N" else word for word in words[1:]])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_stands_where_it_is_not_tried(page: Path) -> None:
    """Each block says what it holds, and each command is run or held against the code."""
    for language, text in blocks(page):
        assert language in LANGUAGES, text
        assert language != "console" or page.name in RUN, text
        if language in ("console", "sh"):
            assert {words[0] for words in typed(text) if "=" not in words[0]} <= {
                *OTHERS, "lensfinder"
            }, text  # fmt: skip
        else:
            starts = {line.split(" ")[0] for line in text.splitlines() if "[OPTIONS]" not in line}
            assert not starts & {*OTHERS, "lensfinder"}, text


def test_nothing_is_listed_that_no_page_types() -> None:
    shells = [t for page in PAGES for language, t in blocks(page) if language in ("console", "sh")]
    assert {*OTHERS} <= {words[0] for text in shells for words in typed(text)}


def others() -> Iterator[Any]:
    for page in PAGES:
        for language, text in blocks(page):
            for words in typed(text) if language == "sh" else ():
                if words[0] in ("python", "pytest", "pip", "docker", "cp"):
                    yield pytest.param(words, id=f"{page.name}: {' '.join(words)[:60]}")


@pytest.mark.parametrize("words", list(others()))
def test_what_other_commands_name_is_there(words: list[str]) -> None:
    named = [word for word in words[1:] if re.fullmatch(r"[\w./]+\.(py|toml|txt)", word)]
    for name in named[: 1 if words[0] == "cp" else None]:
        # The image has the pipelines under /opt/lensfinder.
        assert (ROOT / name.removeprefix("/opt/lensfinder/")).exists(), name
    for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert {*extra.split(",")} <= {*declared["optional-dependencies"]}
    for target in re.findall(r"--target (\w+)", " ".join(words)):
        assert f" AS {target}" in (ROOT / "Dockerfile").read_text()
    own = (ROOT / named[0]).read_text() if words[0] == "python" else ""
    own += (ROOT / "tests" / "conftest.py").read_text()
    for option in words[1:] if words[0] in ("python", "pytest") else ():
        assert not option.startswith("--") or f'"{option}"' in own, option


# The numbers that make a tutorial's result good, and a test long.
SMALLER = {"14336": "768", "12": "1", "8": "1", "0.1,0.05,0.001": "0.5,0.2"}


def test_the_tutorial_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """With fewer mocks, epochs and views; grades come from here instead of from people."""
    for name in ("sample_data", "pipelines"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "tutorial.md"
    calls = [words for language, text in blocks(page) if language == "console"
             for words in commands(text)]  # fmt: skip
    assert {words[0] for words in calls} >= {
        *("check", "cutout", "simulate", "train", "infer", "report", "status", "grades")
    }
    for words in calls:
        said = [SMALLER.get(word, word) if n else word for n, word in enumerate(words)]
        if words[0] in ("cutout", "simulate", "train", "infer", "report"):
            said += ["--engine", "serial", "-q"]
        if words[0] == "grades":
            write_grades(tmp_path)
        done = command(*said)
        assert done.code == 0, f"{said}: {done.err}"
    for shown_file in re.findall(r"`(tutorial/[^`*]+\.\w+)`", page.read_text(encoding="utf-8")):
        assert (tmp_path / shown_file).exists(), shown_file


@pytest.mark.parametrize("name", ["populations.md", "surveys.md"])
def test_commands_that_a_page_shows_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, name: str
) -> None:
    """The first TOML block is the file that they take; other files are written as shown."""
    (tmp_path / "my_tiles").symlink_to(ROOT / "sample_data" / "tiles")
    monkeypatch.chdir(tmp_path)
    page = list(blocks(ROOT / "docs" / name))
    Path("mine.toml").write_text(next(text for language, text in page if language == "toml"))
    ran = 0
    for text in [text for language, text in page if language == "console"]:
        for file, end, body in re.findall(r"cat >(\S+) <<'(\w+)'\n(.*?)\n(?=\2$)", text, SPAN):
            assert end
            Path(file).write_text(body + "\n")
        for words in commands(text):
            said = ["32" if word == "20000" else word for word in words]
            said += ["--engine", "serial"] if words[0] == "simulate" else []
            done = command(*said)
            assert done.code == 0, f"{said}: {done.err}"
            ran += 1
    assert ran


@pytest.mark.parametrize(
    "words", [["surveys"], ["networks", "--bands", "1", "--size", "45"], ["check"]]
)
def test_what_takes_no_files_runs_as_it_stands(words: list[str], command: Command) -> None:
    shown_words = " ".join(["lensfinder", *words])
    assert any(f"{shown_words}`" in page.read_text("utf-8") or f"{shown_words}\n" in page.read_text(
        "utf-8") for page in PAGES)  # fmt: skip
    done = command(*words)
    assert done.code == 0, done.err
    assert done.out


def write_grades(folder: Path) -> None:
    ids = tables.read_columns(folder / "tutorial" / "scores-sky" / "ranked.parquet")["id"][:9]
    for grader, letters in (("anna", "ABCXAACXX"), ("ben", "AACXABCXX")):
        with (folder / f"{grader}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "grade", "grader"])
            rows.writerows(
                [name, letter, grader] for name, letter in zip(ids, letters, strict=True)
            )


def test_python_that_a_page_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """What `formats.md` tells a stranger to type, beside a folder of cutouts."""
    made = ["cutout", ROOT / "sample_data" / "tiles", "--catalog", ROOT / "sample_data/targets.csv"]
    made += ["--size", 21, "--engine", "serial", "-q", "-o", tmp_path / "cutouts"]
    assert command(*made).code == 0
    monkeypatch.chdir(tmp_path)
    found = [
        text for language, text in blocks(ROOT / "docs" / "formats.md") if language == "python"
    ]
    assert found
    for text in found:
        exec(compile(text, "formats.md", "exec"), {})


@pytest.mark.parametrize("name", survey.names())
def test_the_file_names_shown_for_a_survey_are_its_own(name: str, tmp_path: Path) -> None:
    this = survey.load(name)
    names = generate.FILES[name]
    for file in names:
        (tmp_path / file).touch()
    if names:
        # What the commands beside them ask for is there.
        (tile,) = tiles.find([tmp_path], this, generate.bands_of(this, names))
        assert all("image" in tile.paths[band] for band in generate.bands_of(this, names))
    words = [re.fullmatch(this.files.pattern, file) for file in names]
    assert all(words), [file for file, match in zip(names, words, strict=True) if not match]
    assert len({match["tile"] for match in words if match}) <= 1


TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("page", ["promises.md", "faults.md"])
def test_each_test_that_a_page_names_exists(page: str) -> None:
    named = set(TEST_NAME.findall((ROOT / "docs" / page).read_text(encoding="utf-8")))
    assert len(named) > 15
    for file, function in sorted(named):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not function or function in there, f"{file}::{function}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        assert (page.parent / target).exists(), target


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    assert shutil.which("mkdocs") or sys.executable
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        # Nothing is loaded from elsewhere.
        loaded = re.findall(r'(?:src|<link[^>]*href)="(https?:[^"]+)"', page.read_text("utf-8"))
        assert not loaded, f"{page}: {loaded}"
