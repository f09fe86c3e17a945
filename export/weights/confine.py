"""Confine a process: no network, no programs, no files to write, and an end of time and memory.

A second wall behind a reader that runs no code. It holds back Python code; machine code in a
process can do what the process may do.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Final

from covis.engines.limits import CONVERSION, GROWTH

_SECONDS_A_BYTE: Final = 1e-7
_SPARE_MEMORY: Final = 2 << 30
_DENIED: Final = (
    "os.chmod", "os.chown", "os.exec", "os.fork", "os.kill", "os.link", "os.mkdir",
    "os.posix_spawn", "os.putenv", "os.remove", "os.rename", "os.rmdir", "os.spawn",
    "os.symlink", "os.system", "os.truncate", "pty.spawn", "shutil.", "socket.", "subprocess.",
)  # fmt: skip
"""Audit events of Python, by their beginning, that no conversion needs."""
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def confine(size: int) -> None:
    """Limit time, memory and files of this process, for a checkpoint of `size` bytes.

    It must have imported torch: from here on it cannot load libraries.
    """
    with contextlib.suppress(OSError, AttributeError):  # where the rights and Python's age suffice
        unshare, new_network = getattr(os, "unshare"), getattr(os, "CLONE_NEWNET")  # noqa: B009
        unshare(new_network)
    sys.addaudithook(deny)
    try:
        import resource
    except ImportError:
        return
    limits = {
        resource.RLIMIT_CPU: CONVERSION.most + int(size * _SECONDS_A_BYTE),
        resource.RLIMIT_AS: _address_space() + 2 * size + _SPARE_MEMORY,
        resource.RLIMIT_FSIZE: GROWTH.most * size + _SPARE_MEMORY,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        own, hard = resource.getrlimit(kind)
        soft = min(n for n in (most, own, hard) if n != resource.RLIM_INFINITY)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (soft, hard))


def deny(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise PermissionError for what a conversion never does; an audit hook of the interpreter."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
    # A handle that is open already has no name to open: the result is written to one.
    if event.startswith(_DENIED) or (writes and not isinstance(arguments[0], int)):
        raise PermissionError(f"{event} is not allowed here")
    if event == "ctypes.dlopen" and arguments[0] is not None:
        raise PermissionError("loading a library is not allowed here")


def available_memory() -> int:
    """Return the memory that new data may take, in bytes; without /proc, all that there is."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _address_space() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 64 << 30
