"""Ctrl-C, where it must not strike at any moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Within this block Ctrl-C waits for its end.

    For imports: trimesh takes KeyboardInterrupt for a library that is missing and goes on, and
    native modules turn it into an ImportError. Outside the main thread nothing changes, since only
    that one hears signals; nor where somebody else handles Ctrl-C.

    Raises:
        KeyboardInterrupt: at the end of the block, where Ctrl-C was pressed in it.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if pressed:
            raise KeyboardInterrupt
