"""The commit protocol: a file under its final name is complete; and what disks do to files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lensfinder.errors import DiskError, RequestError

_TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def commit(path: Path, check: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Give a temporary path to write to, and put the file under its final name only if complete.

    Write → close → `check` (reopen and look) → fsync → rename → fsync of the folder. A kill at
    any instant leaves either the whole file or a temporary one, which `clean` sweeps.

    Raises
    ------
    DiskError
        If the disk is full or not writable.
    """
    if path.is_symlink():
        path = path.resolve()  # what it points to is meant
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if check is not None:
                _read_back(path, temporary, check)
            _fsync(temporary)
            os.replace(temporary, path)
            _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _read_back(path: Path, temporary: Path, check: Callable[[Path], object]) -> None:
    try:
        check(temporary)
    except OSError as error:
        raise DiskError(
            f"{path} can't be read back as written: {error}",
            remedy="Look after the disk, then run the same command.",
        ) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path | None = None) -> Iterator[None]:
    """Turn what the operating system says of a full or unwritable disk into a `DiskError`.

    Without a path, what the system names is what can't be used.
    """
    disk = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
    disk |= {errno.EFBIG, errno.ENAMETOOLONG}
    try:
        yield
    except OSError as error:
        # h5py carries the cause in the text alone.
        if error.errno in disk or "No space left" in str(error):
            cause = os.strerror(error.errno) if error.errno else "no space left on the device"
            what = f"{path} can't be written"
            if path is None:
                what = f"{error.filename or 'a file'} can't be read or written"
            raise DiskError(
                f"{what}: {cause}",
                remedy="Free some space or choose another folder, then run the same command.",
            ) from error
        raise


def need_space(path: Path, bytes_needed: int) -> None:
    """Raise `DiskError` before writing what can't fit."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    if free < bytes_needed:
        raise DiskError(
            f"{path} needs {bytes_needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            remedy="Free some space or choose another folder, then run the same command.",
        )


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Make `folder`; if it is new and still empty when the block ends, it goes again."""
    known = os.path.exists(folder)
    make_folder(folder)
    try:
        yield
    finally:
        if not known:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def make_folder(folder: Path) -> None:
    """Make `folder`, or say in a sentence why not."""
    try:
        str(folder).encode()
        folder.mkdir(parents=True, exist_ok=True)
    except UnicodeEncodeError:
        raise RequestError(f"{str(folder)!a} is no UTF-8", "a name of plain text") from None
    except (FileExistsError, NotADirectoryError):
        raise RequestError(f"{folder} is a file", "a folder to write to") from None
    except OSError as error:
        raise DiskError(f"{folder} can't be made: {error.strerror}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` by the commit protocol."""
    with commit(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def orphans(folder: Path) -> list[Path]:
    """Temporary files that killed writers left behind."""
    return sorted(folder.rglob(f".*{_TEMPORARY_SUFFIX}"))
