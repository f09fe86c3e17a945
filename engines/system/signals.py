"""Signals that end a program: raised as exceptions, and deferred where a step must not be torn."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

_TERMINATION: Final = (signal.SIGHUP, signal.SIGTERM)
_ENDING: Final = (*_TERMINATION, signal.SIGINT)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, as an exception.

    It is a KeyboardInterrupt, so that whatever cleans up after Ctrl-C also cleans up after it.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM or SIGHUP arrives inside this block.

    `kill`, `timeout`, batch systems and containers send SIGTERM, and a closed terminal SIGHUP: by
    default they end the process on the spot, without cleaning up. A signal that was ignored before
    (`nohup`) or has a handler keeps it. The main thread must call this, because only that one
    receives signals.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        raise Terminated(number)

    changed = [number for number in _TERMINATION if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP to the end of this block, whatever they do there.

    Two kinds of steps need it. Renames that belong together must both happen. And imports: trimesh
    treats KeyboardInterrupt as a missing library and continues, native modules turn it into an
    ImportError. Nothing changes outside the main thread, because only that one receives signals.

    Raises:
        KeyboardInterrupt: at the end of the block, if Ctrl-C was pressed inside it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {}
    try:
        for ending in _ENDING:
            handler = signal.getsignal(ending)
            # None: a handler that was not installed from Python and could not be restored.
            if handler is not None and handler is not signal.SIG_IGN:
                handlers[ending] = handler
                signal.signal(ending, lambda *received: arrived.append(received))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in arrived:
            if callable(handlers[number]):
                handlers[number](number, frame)
            else:
                signal.raise_signal(number)
