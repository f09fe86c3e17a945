"""Defer Ctrl-C while a library is being imported."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Defer Ctrl-C to the end of this block.

    Imports need it: trimesh treats KeyboardInterrupt as a missing library and continues, and native
    modules turn it into an ImportError. Nothing changes outside the main thread, because only that
    one receives signals, or if another handler of Ctrl-C is installed.

    Raises:
        KeyboardInterrupt: at the end of the block, if Ctrl-C was pressed inside it.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
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
