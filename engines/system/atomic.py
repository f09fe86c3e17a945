"""Write folders and files atomically: complete or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from covis.engines.errors import CovisError, environment_error, user_error


@contextlib.contextmanager
def atomic_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Create a folder that becomes `target` at the end of the block, or is removed on any failure.

    Missing parents of `target` are created, and removed with it.

    Args:
        target: Path of the final folder; must not exist, unless `force`.
        force: Replace an existing folder, which stays unchanged until the new one is complete.

    Yields:
        A temporary folder beside `target` (same file system, so the rename is atomic).

    Raises:
        CovisError: `target` exists; its parent cannot be written; the disk is full.
    """
    target = Path(target)
    scratch: Path | None = None
    new_parents: list[Path] = []
    try:
        _check_target(target, force)
        new_parents = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        )
        scratch.chmod(0o777 & ~umask())
        yield scratch
        sync_tree(scratch)
        _replace(scratch, target, force)
        scratch, new_parents = None, []
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # another program may have put something there
            for parent in new_parents:
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
    """Iterate over all files below a folder, as paths relative to it; links count as files."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in [*names, *links]:
            yield (here / name).relative_to(folder).as_posix()


def _cannot_write(target: Path, error: OSError) -> CovisError:
    return environment_error(
        f"cannot be written ({error.strerror or error})",
        where=target,
        hint="check free space and rights",
    )


def umask() -> int:
    """Return the permissions that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


@contextlib.contextmanager
def atomic_file(target: Path, *, keep_mode: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that becomes `target` at the end of the block, or is removed on any failure.

    The data are flushed to the disk before the file gets its name, and the name before this
    returns, so that a visible file is complete even after a power cut. A process that is killed
    leaves a hidden `.NAME.*.partial`; `remove_partials` removes those.

    Args:
        target: Path of the final file; see `check_file_target`.
        keep_mode: Take the permissions of the existing file, instead of 0o644 without the umask.

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
        raise _cannot_write(target, error) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def check_file_target(target: Path) -> None:
    """Refuse what `atomic_file` would refuse, before the work whose result it will contain.

    Only a regular file is replaced, because a rename would also replace /dev/null by one.

    Raises:
        CovisError: the target is a folder, a link or a device, or its folder cannot be written.
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
    """Remove files left by killed writers of `target`; no other writer may be running."""
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
