"""Write folders and files atomically: complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.system.drafts import FolderDraft, new_draft_file, remove_leftovers
from covis.engines.system.files import exchange, sync, sync_tree, umask
from covis.engines.system.signals import signals_deferred

_CURE: Final = "check free space and rights"
_RENAME: Final = "choose another name"


@contextlib.contextmanager
def atomic_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Create a folder that becomes `target` at the end of the block, or is removed on any failure.

    Missing parents of `target` are created, and removed with it. What a killed process leaves is
    removed by the next one that writes to `target`; see `drafts`.

    Args:
        target: Path of the final folder; must not exist, unless `force`.
        force: Replace an existing folder, which stays unchanged until the new one is complete.

    Yields:
        A temporary folder beside `target` (same file system, so the rename is atomic).

    Raises:
        CovisError: see `check_folder_target`; also if the disk becomes full, or another process
            has written `target` meanwhile.
    """
    target = Path(target)
    check_folder_target(target, force=force)
    draft: FolderDraft | None = None
    new_parents: list[Path] = []
    try:
        with signals_deferred():
            new_parents = [parent for parent in target.parents if not parent.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = FolderDraft(target)
        yield draft.folder
        sync_tree(draft.folder)
        with signals_deferred():
            _publish(draft, target, force)
            new_parents = []
            sync(target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        with signals_deferred():
            if draft is not None:
                draft.discard()
            with contextlib.suppress(OSError):  # another program may have put something there
                for parent in new_parents:
                    parent.rmdir()


def _publish(draft: FolderDraft, target: Path, force: bool) -> None:
    """Rename the draft to `target`; an old `target` takes its place, and is discarded with it."""
    try:
        draft.folder.rename(target)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not force:
        raise user_error(
            "already exists, another run wrote it meanwhile",
            where=target,
            hint="choose another name or pass --force",
        )
    if not exchange(draft.folder, target):
        target.rename(draft.old)
        draft.folder.rename(target)  # if this fails, discarding the draft brings the old one back


@contextlib.contextmanager
def atomic_file(target: Path, *, keep_mode: bool = False, cure: str = _CURE) -> Iterator[BinaryIO]:
    """Open a new file that becomes `target` at the end of the block, or is removed on any failure.

    The data are flushed to the disk before the file gets its name, and the name before this
    returns, so that a visible file is complete even after a power cut. What a killed process leaves
    is removed by the next one that writes `target`; see `drafts`.

    Args:
        target: Path of the final file; see `check_file_target`.
        keep_mode: Take the permissions of the existing file, instead of 0o644 without the umask.
        cure: Hint of the error where the folder cannot be written or the disk is full.

    Yields:
        The file, whose `name` is its temporary path.

    Raises:
        CovisError: see `check_file_target`; also if the disk becomes full.
    """
    check_file_target(target, cure=cure)
    remove_leftovers(target)
    draft: Path | None = None
    try:
        with signals_deferred():
            handle, draft = new_draft_file(target)
        with open(draft, "wb", opener=lambda path, flags: handle) as stream:  # closing unlocks it
            yield stream
            stream.flush()
            mode = target.stat().st_mode & 0o777 if keep_mode else 0o644 & ~umask()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
            with signals_deferred():
                draft.replace(target)
                draft = None
                sync(target.parent)
    except OSError as error:
        raise _cannot_write(target, error, cure) from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def write_file(target: Path, text: str, *, cure: str = _CURE) -> None:
    """Write a text file atomically, in UTF-8; missing folders are created. See `atomic_file`."""
    check_writable(target, cure=cure)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(target, error, cure) from error
    with atomic_file(target, cure=cure) as stream:
        stream.write(text.encode())


def check_folder_target(target: Path, *, force: bool = False) -> None:
    """Refuse what `atomic_folder` would refuse, before the work whose result it will contain.

    Leftovers of killed processes are removed first, or an old folder is brought back.

    Raises:
        CovisError: the target exists and `force` is not set; it is a file, a link, a mount point or
            no name (`/`, `.`, `..`); its place is below a file (exit code 2); its name is too long,
            or nothing can be written there (exit code 3).
    """
    if target.name in ("", ".."):
        raise user_error(
            "is no name for a new folder", where=target, hint="name a folder to create"
        )
    remove_leftovers(target)
    mode = _mode(target)
    if mode is None:
        check_writable(target)
        return
    if stat.S_ISLNK(mode):
        raise user_error("is a link, and is not replaced", where=target, hint=_RENAME)
    if not stat.S_ISDIR(mode):
        raise user_error("is a file, not a folder", where=target, hint=_RENAME)
    if not force:
        raise user_error("already exists", where=target, hint=f"{_RENAME} or pass --force")
    if target.is_mount():
        raise user_error(
            "is a mount point, and cannot be replaced", where=target, hint="name a folder inside it"
        )
    check_writable(target)


def check_file_target(target: Path, *, cure: str = _CURE) -> None:
    """Refuse what `atomic_file` would refuse, before the work whose result it will contain.

    Only a regular file is replaced, because a rename would also replace /dev/null by one.

    Raises:
        CovisError: the target is a folder, a link or a device, or its folder cannot be written.
    """
    mode = _mode(target)
    if mode is not None and stat.S_ISDIR(mode):
        raise user_error("is a folder", where=target, hint="name a file")
    if mode is not None and not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no ordinary file"
        raise user_error(f"is {kind}, and is not replaced", where=target, hint="name a file")
    if not target.parent.is_dir():
        raise environment_error(
            "cannot be written (no such folder)", where=target, hint="check its folder and rights"
        )
    check_writable(target, cure=cure)


def check_writable(target: Path, *, cure: str = _CURE) -> None:
    """Refuse a path at which no file or folder can be created: no rights, no space, read-only.

    A nameless file of 4 KiB is written for the test, because rights alone do not show a full disk
    or what a file system refuses.

    Raises:
        CovisError: the path is below a file (exit code 2), or nothing can be written (3).
    """
    try:
        parent = next(path for path in target.absolute().parents if path.exists())
        if not parent.is_dir():
            raise user_error("is a file, not a folder", where=parent, hint=_RENAME)
        with tempfile.TemporaryFile(dir=parent, buffering=0) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise _cannot_write(target, error, cure) from error


def _mode(target: Path) -> int | None:
    """Return type and permissions of what stands at `target`, None if it is free."""
    if "\0" in str(target):
        raise user_error("holds a NUL character", where=target, hint=_RENAME)
    try:
        return target.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise environment_error(
            f"cannot be written ({error.strerror})", where=target, hint=_RENAME
        ) from error


def _cannot_write(target: Path, error: OSError, cure: str = _CURE) -> CovisError:
    return environment_error(
        f"cannot be written ({error.strerror or error})", where=target, hint=cure
    )
