"""Hidden drafts beside a target: locked by the process that writes them, else leftovers to remove.

The draft of a file is `.NAME.TOKEN.partial`, which its writer keeps locked. A folder cannot be
locked on every file system, so its draft has three names: `.NAME.TOKEN.lock`, the writer's lock,
which is created first and removed last; `.partial`, the new folder; and `.old`, the folder that it
replaces, between two renames. The system releases a lock when its process ends, however it ends.

Where a file system has no locks, nobody can tell a leftover from a living draft, and none is
removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

PARTIAL: Final = ".partial"
_LOCK: Final = ".lock"
_OLD: Final = ".old"
_ENDING: Final = re.compile(r"[a-z0-9_]{8}\.(partial|lock|old)")  # the token is tempfile's
_LONGEST: Final = 200  # bytes; a file system takes 255, and token and suffix are added


def is_draft(name: str, target: str) -> bool:
    """Return whether a file in the folder of `target` has the name of a draft of it."""
    prefix = f".{_stem(target)}."
    return name.startswith(prefix) and _ENDING.fullmatch(name, len(prefix)) is not None


def _stem(name: str) -> str:
    """Return a target's name, or its digest where drafts of that name would be too long."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST else hashlib.sha256(encoded).hexdigest()


def new_draft_file(target: Path, suffix: str = PARTIAL) -> tuple[int, Path]:
    """Create an empty file beside `target`, locked as long as its descriptor is open.

    Returns:
        The descriptor, open for reading and writing, and the path.
    """
    while True:
        handle, name = tempfile.mkstemp(
            prefix=f".{_stem(target.name)}.", suffix=suffix, dir=target.parent
        )
        _lock(handle, wait=True)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # `remove_leftovers` of another process was quicker than the lock


class FolderDraft:
    """The draft of a folder; see the module for its three names.

    Args:
        target: The final folder.

    Attributes:
        folder: The new folder.
        old: Place for the folder that it replaces.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._handle, self._lock = new_draft_file(target, _LOCK)
        self.folder = self._lock.with_suffix(PARTIAL)
        self.old = self._lock.with_suffix(_OLD)
        try:
            self.folder.mkdir()
        except OSError:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove whatever is left of the draft; the replaced folder returns to an empty place."""
        with contextlib.suppress(OSError):
            _clear_folder(self._lock, self._target)
        os.close(self._handle)


def remove_leftovers(target: Path) -> None:
    """Remove drafts of `target` whose writers are dead.

    A folder that was to be replaced returns to its place, if its writer was killed before the new
    folder had taken it. What belongs to a living writer or another user stays.
    """
    with contextlib.suppress(OSError), os.scandir(target.parent) as found:
        for name in [entry.name for entry in found if is_draft(entry.name, target.name)]:
            _remove_if_left(target.parent / name, target)


def _remove_if_left(path: Path, target: Path) -> None:
    if path.suffix not in (PARTIAL, _LOCK) or path.is_dir():  # a folder goes with its lock
        return
    with contextlib.suppress(OSError):
        # A link or a pipe of this name is not ours: it must neither be followed nor waited for.
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode) or not _lock(handle, wait=False):
                return
            if path.suffix == _LOCK:
                _clear_folder(path, target)
            else:
                path.unlink()
        finally:
            os.close(handle)


def _clear_folder(lock: Path, target: Path) -> None:
    """Bring the old folder back if nothing took its place, and remove the rest, its lock last."""
    old, partial = lock.with_suffix(_OLD), lock.with_suffix(PARTIAL)
    if os.path.lexists(old) and not os.path.lexists(target):
        old.rename(target)
    for folder in (old, partial):
        shutil.rmtree(folder, ignore_errors=True)
    if not old.exists() and not partial.exists():
        lock.unlink()


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file; False: another process has the lock, or the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
