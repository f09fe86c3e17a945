"""Open regular files only: no pipe to wait for, no device without an end, no link to elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.limits import Limit

# Without O_NONBLOCK, opening a pipe that took the file's place would wait for a writer.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
_PIECE: Final = 1 << 20
_DISK: Final = "check rights and disk"


def open_regular(path: Path, *, hint: str, follow: bool = False, link_hint: str = "") -> int:
    """Open a regular file for reading and return its descriptor.

    Args:
        path: File to open.
        hint: Hint of the error if there is no regular file of this name.
        follow: Accept a symbolic link to a regular file.
        link_hint: Hint of the error for a symbolic link, if it differs from `hint`.

    Raises:
        CovisError: nothing of this name, a link, or no regular file (exit code 2); no rights, or a
            disk that fails (3).
    """
    try:
        facts = path.stat() if follow else path.lstat()  # a device must not even be opened
        if stat.S_ISREG(facts.st_mode):
            descriptor = os.open(path, _FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
    except OSError as error:
        raise unreadable(path, error, hint) from error
    if stat.S_ISLNK(facts.st_mode):
        raise user_error("is a symbolic link", where=path, hint=link_hint or hint)
    raise user_error("is not a regular file", where=path, hint=hint)


def read_regular(path: Path, most: Limit, *, hint: str, follow: bool = False) -> bytes:
    """Read a small regular file.

    Raises:
        CovisError: see `open_regular`; also if the file is larger than `most` (exit code 2).
    """
    descriptor = open_regular(path, hint=hint, follow=follow)
    try:
        if os.fstat(descriptor).st_size > most.most:
            raise too_large(path, most, hint)
        return b"".join(pieces(descriptor, most.most))
    except OSError as error:
        raise unreadable(path, error, hint) from error
    finally:
        os.close(descriptor)


def pieces(descriptor: int, most: int) -> Iterator[bytes]:
    """Iterate over the first `most` bytes of an open file, at offsets of its own.

    Several threads may read one descriptor at once, because its own position is not used.
    """
    offset = 0
    while piece := os.pread(descriptor, min(_PIECE, most - offset), offset):
        yield piece
        offset += len(piece)


def too_large(path: Path, most: Limit, hint: str) -> CovisError:
    """Return the error for a file that is larger than its limit."""
    return user_error(f"is larger than {most}", where=path, hint=hint)


def unreadable(path: Path, error: OSError, hint: str) -> CovisError:
    """Return the error for a file that cannot be opened or read."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return user_error("is missing", where=path, hint=hint)
    if error.errno == errno.ELOOP:
        return user_error("is a symbolic link", where=path, hint=hint)
    return environment_error(f"cannot be read ({error.strerror or error})", where=path, hint=_DISK)
