"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from covis.engines.atomic import umask
from covis.engines.errors import environment_error, user_error


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
