"""What a folder's file system can do: locks, renaming, space. Shared ones often lack something."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from lensfinder.commit import commit
from lensfinder.errors import DiskError

_MOUNTS = Path("/proc/self/mounts")


def describe(folder: Path) -> dict[str, str]:
    """Try what a run needs in `folder`, and leave nothing there.

    Returns
    -------
    dict
        A line each on file system, free space, locks, the commit of a file, and the temporary
        folder.
    """
    scratch = Path(tempfile.gettempdir())
    return {
        "file system here": kind_of(folder),
        "free space here": _free(folder),
        "file locks here": _locks(folder),
        "commit here": _commit(folder),
        "temporary folder": f"{scratch}: {kind_of(scratch)}, {_free(scratch)} free",
    }


def kind_of(folder: Path) -> str:
    """Name the type of a folder's file system, such as nfs4 or lustre, and where it is mounted."""
    here = folder.resolve()
    found = ("unknown", Path("/"))
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found[0]
    for line in mounts:
        where, kind = line.split(" ")[1:3]
        # Mount points come with their blanks as octal numbers.
        mount = Path(where.encode().decode("unicode_escape"))
        # Of two on the same folder the later one counts.
        if here.is_relative_to(mount) and len(mount.parts) >= len(found[1].parts):
            found = (kind, mount)
    return f"{found[0]} at {found[1]}"


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 2**30:.0f} GiB"


def _locks(folder: Path) -> str:
    kinds = {"flock": fcntl.flock, "fcntl": fcntl.lockf}
    lacking = []
    for name, lock in kinds.items():
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lacking.append(f"{name}: {error.strerror or errno.errorcode.get(error.errno or 0)}")
    if not lacking:
        return "work"
    return (
        f"do not work ({'; '.join(lacking)}): products need none; training under srun needs "
        "MASTER_ADDR and MASTER_PORT"
    )


def _commit(folder: Path) -> str:
    """Do what every product goes through: write, read back, fsync, rename, fsync the folder."""
    path = folder / f".lensfinder-check-{os.getpid()}"
    try:
        with commit(path, check=Path.read_bytes) as temporary:
            temporary.write_bytes(b"0")
        path.unlink()
    except DiskError as error:
        return f"would fail: {error}"
    return "works"
