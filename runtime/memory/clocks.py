"""Clocks for stages: wall time on the CPU, events of the stream on a GPU."""

from __future__ import annotations

import time
from typing import Any, Protocol

from covis.runtime.memory.device_array import import_cuda_core
from covis.runtime.memory.memory import CudaMemory


class Clock(Protocol):
    """Clock that marks moments of a run; the time between them is read after the run."""

    def mark(self) -> Any:
        """Mark the present moment, in the order of the work submitted so far."""

    def between(self, begin: Any, end: Any) -> float:
        """Return the milliseconds between two marks."""


class HostClock:
    """Wall time."""

    def mark(self) -> Any:
        """Mark the present moment."""
        return time.perf_counter()

    def between(self, begin: Any, end: Any) -> float:
        """Return the milliseconds between two marks."""
        return float(end - begin) * 1000


class CudaClock:
    """Clock of events of this thread's stream; the CPU may be far ahead of them."""

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory
        self._options = import_cuda_core().EventOptions(timing_enabled=True)

    def mark(self) -> Any:
        """Record an event behind all work submitted so far."""
        return self._memory.stream.record(options=self._options)

    def between(self, begin: Any, end: Any) -> float:
        """Wait for the second mark and return the milliseconds between the two."""
        end.sync()
        return float(end - begin)
