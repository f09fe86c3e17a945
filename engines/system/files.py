"""Folders and files on the disk: list, copy, flush, exchange."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100  # linux/fcntl.h: relative paths start at the working folder
_RENAME_EXCHANGE: Final = 2  # linux/fs.h


def entries(folder: Path) -> Iterator[str]:
    """Iterate over all files below a folder, as paths relative to it; links count as files.

    An absent folder has none.
    """
    for here, _, names in walk(folder) if folder.is_dir() else ():
        for name in names:
            yield (here / name).relative_to(folder).as_posix()


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk over a folder from the top, in order of names, however deep it is.

    `os.walk` recurses up to Python 3.11, and ends with RecursionError some 1,000 folders down.

    Yields:
        Each folder with the names of its folders and of everything else, links included. Folders
        whose names are removed from the first list are not entered.

    Raises:
        OSError: a folder cannot be read, or its path is too long.
    """
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        inner = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        folders = [entry.name for entry in entries if entry.name in inner]
        yield here, folders, [entry.name for entry in entries if entry.name not in inner]
        waiting += [here / name for name in reversed(folders)]


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; on file systems that can share blocks (XFS, btrfs) this takes no space."""
    if not hasattr(os, "copy_file_range"):
        shutil.copyfile(source, target)
        return
    with source.open("rb") as reader, target.open("wb") as writer:
        remaining = os.fstat(reader.fileno()).st_size
        while remaining > 0:
            try:
                done = os.copy_file_range(reader.fileno(), writer.fileno(), min(remaining, 1 << 30))
            except OSError as error:
                # Old kernels refuse it across file systems; a real failure (no space) is raised.
                if error.errno not in (18, 22, 38, 95):
                    raise
                shutil.copyfileobj(reader, writer, 1 << 24)
                return
            if done == 0:
                break
            remaining -= done


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for place, _, names in os.walk(folder):
        for path in [Path(place), *(Path(place) / name for name in names)]:
            sync(path)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step, so that neither is missing at any time.

    Returns:
        False where the system or the file system cannot do it; nothing has changed then.

    Raises:
        OSError: one of them does not exist, or may not be renamed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # Linux, glibc from 2.28
    except AttributeError:
        return False
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    if rename(*paths, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), os.fspath(first), None, os.fspath(second))


def umask() -> int:
    """Return the permissions that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
