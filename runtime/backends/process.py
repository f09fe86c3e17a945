"""The process that opened a backend: a child that was forked from it cannot use the backend."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, Final

from covis.engines.errors import user_error


class OwnProcess:
    """Process in which this object was created.

    `os.fork` copies the memory of a process, but not its threads, and a GPU cannot be used in the
    copy at all: a run there would wait for ever for a thread that does not exist.
    """

    def __init__(self) -> None:
        self._number = os.getpid()

    def check(self) -> None:
        """Refuse a call from any other process.

        Raises:
            CovisError: this process was forked from the one that opened the backend (exit code 2).
        """
        if os.getpid() != self._number:
            raise user_error(
                f"was opened in process {self._number}, and cannot be used after os.fork",
                where="pipeline",
                hint="load the bundle in the new process, or start it with the method 'spawn'",
            )


def keep_in_children(session: Any) -> None:
    """Let processes that are forked from this one never destroy a session.

    Its destructor waits for the session's threads, which a forked process does not have: at the end
    of the process it would crash.
    """
    _sessions.add(session)


_sessions: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def _keep_sessions() -> None:
    for session in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions)
