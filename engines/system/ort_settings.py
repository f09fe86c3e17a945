"""Import ONNX Runtime, and define the session settings that export and runtime share."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from covis.engines.errors import environment_error, printable
from covis.engines.system.signals import signals_deferred

_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_M_MMAP_THRESHOLD = -3  # from glibc's malloc.h


def import_onnxruntime() -> ModuleType:
    """Import `onnxruntime`, whichever of its two distributions is installed.

    From 1.31 on it stores an identifier of the machine and sends telemetry as soon as it is loaded.
    Telemetry is switched off here, unless the environment or an earlier import has decided.

    Raises:
        CovisError: neither is installed, or it cannot be loaded (exit code 3).
    """
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        with signals_deferred():
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
        # The state of the folder after one of the two distributions was removed.
        raise environment_error(
            "ONNX Runtime is not whole: its two distributions have overwritten each other",
            hint="pip uninstall onnxruntime onnxruntime-gpu, then install one of them",
        )
    module: ModuleType = onnxruntime
    return module


def session_settings(threads: int = 0, library: Path | None = None) -> Any:
    """Create the session options for a graph whose weights are memory-mapped.

    Args:
        threads: Threads of one session; 0 uses every core.
        library: Custom-op library to register; None runs the graphs' function bodies.
    """
    settings = import_onnxruntime().SessionOptions()
    settings.intra_op_num_threads = threads
    # Errors are raised as exceptions; the log would repeat them, with names of nodes unescaped.
    settings.log_severity_level = 4
    # Pre-packed weights are a second copy of the memory-mapped file; at the row counts of
    # these models packing inside each product costs no measurable time.
    settings.add_session_config_entry("session.disable_prepacking", "1")
    # Every stage has threads of its own, which otherwise wait actively after its run, on the cores
    # that the next stage needs.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    # The arena keeps its peak, but stages run one after the other, so their memory is freed.
    settings.enable_cpu_mem_arena = False
    # Planned reuse of buffers chains values of equal symbolic shape, and frees a chain only at its
    # end: at 12 views four times the memory of freeing each value after its last reader.
    settings.enable_mem_reuse = False
    _return_large_blocks()
    if library is not None:
        settings.register_custom_ops_library(str(library))
    return settings


@functools.cache
def _return_large_blocks() -> None:
    """Return blocks of 256 KiB and more to the system as soon as they are freed.

    glibc raises this threshold to the largest block ever freed, up to 32 MiB. Smaller blocks stay
    in a heap that shrinks only from its end and reuses few of its holes, because blocks are
    aligned: at 100 small views it grows to ten times what a graph's values need. The time for
    fresh pages is below the noise. Nothing is changed for other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 256 << 10)
