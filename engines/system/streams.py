"""Standard streams of a command: closed ones, readers that leave, unknown characters."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from typing import Any


def prepare_streams() -> None:
    """Make the standard streams safe to print to for the whole life of a command.

    A closed stream (`>&-`) is connected to the null device: otherwise the next file opened would
    get its number, and receive what libraries print. What a stream cannot encode is escaped. A
    reader that leaves (`covis run ... 2>&1 | head`) does not end the work whose result goes
    elsewhere: from then on, the output goes to the null device.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            if _is_pipe(number):
                setattr(sys, name, _without_a_reader(stream, number))


def discard_output() -> None:
    """Connect standard output to the null device, where Python would otherwise fail at exit."""
    with contextlib.suppress(OSError, ValueError):
        _to_null(sys.stdout.fileno())


def _is_pipe(number: int) -> bool:
    mode = os.fstat(number).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _without_a_reader(stream: io.TextIOWrapper, number: int) -> io.TextIOWrapper:
    """Return a stream like `stream` that continues where its reader has left."""
    raw = _Pipe(number, "wb", closefd=False)
    # `python -u` has no buffer, as here.
    buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Pipe(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            _to_null(self.fileno())
            return memoryview(data).nbytes


def _to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
