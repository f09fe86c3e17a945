"""Children of a killed process end too."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.places import ROOT

PARENT = """
import multiprocessing, os, signal, time
from concurrent.futures import ProcessPoolExecutor
from covis.engines.system.children import end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 60)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_child_of_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.communicate(timeout=20)  # to the end of the output, which the child has too
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    assert parent.returncode == -signal.SIGKILL
