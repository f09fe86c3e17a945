"""Clocks for stages: wall time on the CPU, events of the stream on a GPU."""

from __future__ import annotations

import time
from typing import Any, Protocol

from covis.runtime.memory.device_array import import_cuda_core
from covis.runtime.memory.memory import CudaMemory


class Clock(Protocol):
    """Marks moments of a run; the time between them is asked for once the run is over."""

    def mark(self) -> Any:
        """Now, in the order of the work given so far."""

    def between(self, begin: Any, end: Any) -> float:
        """Milliseconds between two marks."""


class HostClock:
    """Wall time."""

    def mark(self) -> Any:
        """Now."""
        return time.perf_counter()

    def between(self, begin: Any, end: Any) -> float:
        """Milliseconds between two marks."""
        return float(end - begin) * 1000


class CudaClock:
    """Events of this thread's stream. The CPU may be far ahead of them."""

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory
        self._options = import_cuda_core().EventOptions(timing_enabled=True)

    def mark(self) -> Any:
        """An event behind all work so far."""
        return self._memory.stream.record(options=self._options)

    def between(self, begin: Any, end: Any) -> float:
        """Milliseconds between two marks, waited for."""
        end.sync()
        return float(end - begin)
