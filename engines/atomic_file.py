"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from covis.engines.errors import environment_error


@contextlib.contextmanager
def atomic_file(target: Path, *, keep_mode: bool = False) -> Iterator[BinaryIO]:
    """A new file to write, which becomes `target` at the end, or vanishes on any failure.

    It is flushed to the disk before it gets its name, and the name before this returns, so that
    whoever sees it sees all of it, even after a power cut. A process that is killed leaves a hidden
    `.NAME.*.partial` behind; `remove_partials` takes those away.

    Args:
        target: the file to be.
        keep_mode: take the permissions of the file that is there, instead of 0o644.

    Raises:
        CovisError: the folder cannot be written, or the disk is full.
    """
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
            os.fchmod(stream.fileno(), target.stat().st_mode & 0o777 if keep_mode else 0o644)
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
