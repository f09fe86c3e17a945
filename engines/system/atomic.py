"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from covis.engines.errors import environment_error, user_error


@contextlib.contextmanager
def atomic_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A new folder to fill, which becomes `target` at the end, or vanishes on any failure.

    Parents of `target` that were missing are made, and vanish with it.

    Args:
        target: the folder to be; must not exist, unless `force`.
        force: replace an existing folder; it stays untouched until the new one is complete.

    Yields:
        A temporary folder beside `target` (same file system, so the rename is atomic).

    Raises:
        CovisError: `target` exists; its parent cannot be written; the disk is full.
    """
    target = Path(target)
    scratch: Path | None = None
    made: list[Path] = []
    try:
        _check_target(target, force)
        made = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        )
        scratch.chmod(0o777 & ~umask())
        yield scratch
        sync_tree(scratch)
        _replace(scratch, target, force)
        scratch, made = None, []
    except OSError as error:
        raise environment_error(
            f"cannot be written ({error.strerror or error})",
            where=target,
            hint="check free space and rights",
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # another program may have put something there
            for parent in made:
                parent.rmdir()


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for place, _, names in os.walk(folder):
        for path in [Path(place), *(Path(place) / name for name in names)]:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _check_target(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise user_error("already exists", where=target, hint="choose another name or pass --force")
    for path in (target, *target.parents):
        if path.exists():
            if not path.is_dir():
                raise user_error("is a file, not a folder", where=path, hint="choose another name")
            return


def _replace(scratch: Path, target: Path, force: bool) -> None:
    """Rename `scratch` to `target`; an old `target` is moved aside first and removed last.

    Without `force`, a folder that has appeared meanwhile makes the rename itself fail.
    """
    if not force or not target.exists():
        scratch.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(aside / "was")
    try:
        scratch.rename(target)
    except BaseException:
        (aside / "was").rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def entries(folder: Path) -> Iterator[str]:
    """Everything below a folder that is no folder itself, relative to it; links count as such."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in [*names, *links]:
            yield (here / name).relative_to(folder).as_posix()


def umask() -> int:
    """The permissions that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; on file systems that can share blocks (XFS, btrfs) this takes no space."""
    if not hasattr(os, "copy_file_range"):
        shutil.copyfile(source, target)
        return
    with source.open("rb") as reader, target.open("wb") as writer:
        left = os.fstat(reader.fileno()).st_size
        while left > 0:
            try:
                done = os.copy_file_range(reader.fileno(), writer.fileno(), min(left, 1 << 30))
            except OSError as error:
                # Old kernels refuse it across file systems; a real failure (no space) goes up.
                if error.errno not in (18, 22, 38, 95):
                    raise
                shutil.copyfileobj(reader, writer, 1 << 24)
                return
            if done == 0:
                break
            left -= done


@contextlib.contextmanager
def atomic_file(target: Path, *, keep_mode: bool = False) -> Iterator[BinaryIO]:
    """A new file to write, which becomes `target` at the end, or vanishes on any failure.

    It is flushed to the disk before it gets its name, and the name before this returns, so that
    whoever sees it sees all of it, even after a power cut. A process that is killed leaves a hidden
    `.NAME.*.partial` behind; `remove_partials` takes those away.

    Args:
        target: the file to be; see `check_file_target`.
        keep_mode: take the permissions of the file that is there, instead of 0o644 or less, as
            the umask has it.

    Raises:
        CovisError: the folder cannot be written, or the disk is full.
    """
    check_file_target(target)
    scratch: Path | None = None
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name}.", suffix=".partial", dir=target.parent
        )
        os.close(handle)
        scratch = Path(name)
        with scratch.open("wb") as stream:
            yield stream
            stream.flush()
            mode = target.stat().st_mode & 0o777 if keep_mode else 0o644 & ~umask()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        scratch.replace(target)
        scratch = None
        sync_folder(target.parent)
    except OSError as error:
        raise environment_error(
            f"cannot be written ({error.strerror or error})",
            where=target,
            hint="check free space and rights",
        ) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def check_file_target(target: Path) -> None:
    """Refuse what `atomic_file` would refuse, before the work whose result it is to hold.

    Only an ordinary file is replaced: a rename would put one in the place of /dev/null, too.

    Raises:
        CovisError: there is a folder, a link or a device; there is no folder to write into.
    """
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise environment_error(
            f"cannot be written ({error.strerror})", where=target, hint="choose another name"
        ) from error
    if stat.S_ISDIR(mode):
        raise user_error("is a folder", where=target, hint="name a file")
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no ordinary file"
        raise user_error(f"is {kind}, and is not replaced", where=target, hint="name a file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        reason = "no rights" if target.parent.is_dir() else "no such folder"
        raise environment_error(
            f"cannot be written ({reason})", where=target, hint="check its folder and rights"
        )


def remove_partials(target: Path) -> None:
    """Remove what killed writers of `target` left; call it only where no other can be writing."""
    for path in target.parent.glob(f".{target.name}.*.partial"):
        with contextlib.suppress(OSError):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
