"""Laws of shared file systems: locks are never needed to read, and what is missing is said."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import h5py
import numpy as np
import pytest

from lensfinder import disks, schema, shards


def shard(path: Path) -> None:
    header = shards.Header("simulate", "kids", ("r",), 0.2, {}, {})
    columns = {name: schema.column(name) for name in schema.REQUIRED_COLUMNS}
    catalog = {
        name: ["a"] if column is not None and column.dtype == "str" else np.zeros(1)
        for name, column in columns.items()
    }
    pixels = np.ones((1, 1, 9, 9), np.float32)
    shards.write(path, header, pixels, np.zeros(pixels.shape, np.uint8), catalog)


def test_a_shard_is_read_though_somebody_holds_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "one.h5"
    shard(path)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="lock"), h5py.File(path, "r", locking=True):
            pass
        with shards.read(path) as found:
            assert len(found) == 1


def refuse(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_shard_is_written_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    shard(tmp_path / "one.h5")
    said = disks.describe(tmp_path)["file locks here"]
    assert "do not work (flock: No locks available; fcntl: No locks available)" in said


def test_looking_leaves_nothing_and_tells_what_is_there(tmp_path: Path) -> None:
    found = disks.describe(tmp_path)
    assert found["commit here"] == "works"
    assert found["file locks here"] == "work"
    assert not list(tmp_path.iterdir())


def test_the_deepest_mount_is_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    deep = str(tmp_path / "two words").replace(" ", "\\040")
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {deep} nfs4 rw 0 0\ntmp /elsewhere tmpfs 0\n")
    monkeypatch.setattr(disks, "_MOUNTS", mounts)
    assert disks.kind_of(tmp_path / "two words" / "run") == f"nfs4 at {tmp_path / 'two words'}"
    assert disks.kind_of(tmp_path) == "ext4 at /"
