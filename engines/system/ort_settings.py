"""The ONNX Runtime session settings of this project, in one place for export and runtime."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from covis.engines.errors import environment_error, printable
from covis.engines.system.interrupts import interrupts_held

_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def import_onnxruntime() -> ModuleType:
    """The `onnxruntime` module, whichever of its two distributions is installed.

    From 1.31 on it keeps an identifier of the machine and reports what it runs, from the moment it
    is loaded: switched off here, unless the environment or an earlier import has decided.

    Raises:
        CovisError: neither is, or it cannot be loaded (exit code 3).
    """
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        with interrupts_held():
            import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise environment_error(
            "ONNX Runtime is not installed",
            hint="pip install 'covis[cpu]', or 'covis[gpu]' on a machine with an NVIDIA GPU",
        ) from None
    except ImportError as error:
        raise environment_error(
            f"ONNX Runtime cannot be loaded ({printable(str(error))})", hint="see `covis doctor`"
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        # What is left of the folder when one of the two distributions was removed.
        raise environment_error(
            "ONNX Runtime is not whole: its two distributions have overwritten each other",
            hint="pip uninstall onnxruntime onnxruntime-gpu, then install one of them",
        )
    module: ModuleType = onnxruntime
    return module


def session_settings(threads: int = 0, library: Path | None = None) -> Any:
    """Session options for a graph whose weights are memory-mapped.

    Args:
        threads: of one session; 0 takes every core.
        library: custom-op library to register; without one the graphs' function bodies run.
    """
    settings = import_onnxruntime().SessionOptions()
    settings.intra_op_num_threads = threads
    # Errors come as exceptions; its log would show them once more, names of nodes unescaped.
    settings.log_severity_level = 4
    # Pre-packed weights are a second copy of the memory-mapped file; at the row counts of
    # these models packing inside each product costs nothing one can measure.
    settings.add_session_config_entry("session.disable_prepacking", "1")
    # The arena keeps the largest ever needed; stages take turns, so give memory back.
    settings.enable_cpu_mem_arena = False
    # Planned reuse of buffers chains values of equal symbolic shape, and a chain is given back only
    # at its end: at 12 views four times the memory of freeing each value after its last reader.
    settings.enable_mem_reuse = False
    _return_large_blocks()
    if library is not None:
        settings.register_custom_ops_library(str(library))
    return settings


@functools.cache
def _return_large_blocks() -> None:
    """Have blocks of 256 KiB and more given back to the system when they are freed.

    glibc raises that size to the largest block ever freed, up to 32 MiB, and keeps what is smaller
    in a heap that shrinks only from its end and, blocks being aligned, finds few of its holes
    again: at 100 small views ten times what a graph's values need. Fresh pages cost no time that
    stands out of the noise. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 256 << 10)
