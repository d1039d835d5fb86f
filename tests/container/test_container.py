"""The image: built from the Dockerfile, and run by nobody in particular.

Asked for with ``pytest -m container``: it installs buildah and debootstrap, and takes minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import test_quickstart

pytestmark = pytest.mark.container
IMAGE = Path(__file__).with_name("image")
USER = 54321
UNAVAILABLE = 69

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def image(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Return a folder with the built image; it is large, and goes when the tests are over."""
    if "container" not in request.config.option.markexpr:
        pytest.skip("builds an image; ask for it with -m container")
    if os.geteuid() != 0 or not all(map(shutil.which, ("apt-get", "unshare", "setpriv"))):
        pytest.skip("needs root on a Debian")
    folder: Path = tmp_path_factory.mktemp("image")
    built = subprocess.run([IMAGE, "build", folder], capture_output=True, text=True, check=False)
    if built.returncode == UNAVAILABLE:
        pytest.skip(f"buildah and debootstrap can't be installed: {built.stderr[-300:]}")
    assert built.returncode == 0, built.stderr
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def run(image: Path, tmp_path: Path) -> Run:
    """Run the entry point; its working folder is the test's."""
    os.chown(tmp_path, USER, USER)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [IMAGE, "run", image, tmp_path, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return call


def test_anybody_runs_the_quickstart_and_writes_nothing_else(
    run: Run, tmp_path: Path, root: Path
) -> None:
    done = run("run", "/opt/lensfinder/pipelines/quickstart.toml")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {USER}
    test_quickstart.test_mocks_are_told_apart(tmp_path / "quickstart")
    test_quickstart.test_planted_lenses_are_found_among_few_candidates(
        tmp_path / "quickstart", root
    )


def test_its_own_folders_are_closed(run: Run) -> None:
    refused = run("simulate", "-o", "/opt/lensfinder/mocks", "-n", 64)
    assert refused.returncode == 74, refused.stderr
    assert "/opt/lensfinder/mocks can't be made" in refused.stderr
