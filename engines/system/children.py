"""Processes that covis starts for a part of its work."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process as soon as its parent has ended; call it in a process of `multiprocessing`.

    A parent that is killed (`kill -9`, or the system where memory is short) ends no children, and
    they would keep their memory, perhaps for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
