"""Progress of TensorRT's build phases, and the way to cancel a build."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from covis.engines.tensorrt.module import import_tensorrt


class Phases(Protocol):
    """Receiver of a build's phases; called from TensorRT's threads, one call at a time."""

    def begin(self, name: str, depth: int, steps: int) -> None:
        """Report that a phase of `steps` steps begins, nested inside `depth` others."""

    def step(self, name: str, done: int) -> None:
        """Report that `done` steps of a phase are complete."""

    def end(self, name: str) -> None:
        """Report that a phase is complete."""


class SilentPhases:
    """Ignores all phases."""

    def begin(self, name: str, depth: int, steps: int) -> None:
        """Do nothing."""

    def step(self, name: str, done: int) -> None:
        """Do nothing."""

    def end(self, name: str) -> None:
        """Do nothing."""


@contextmanager
def progress_bars() -> Iterator[Phases]:
    """Show a progress bar on the terminal for each phase that is running."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)

    class Bars:
        def __init__(self) -> None:
            self._tasks: dict[str, Any] = {}

        def begin(self, name: str, depth: int, steps: int) -> None:
            label = "  " * depth + name
            self._tasks[name] = bars.add_task(label[:60], total=max(steps, 1))

        def step(self, name: str, done: int) -> None:
            if name in self._tasks:
                bars.update(self._tasks[name], completed=done)

        def end(self, name: str) -> None:
            if name in self._tasks:
                bars.remove_task(self._tasks.pop(name))

    with bars:
        yield Bars()


def monitor(phases: Phases, stop: threading.Event) -> Any:
    """Create an `IProgressMonitor` that reports to `phases`, and cancels once `stop` is set.

    TensorRT stops at the next step of any phase, which may take seconds.
    """
    trt = import_tensorrt()
    lock = threading.Lock()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._depths: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with lock:
                depth = self._depths.get(parent, -1) + 1 if parent else 0
                self._depths[name] = depth
                phases.begin(name, depth, steps)

        def step_complete(self, name: str, step: int) -> bool:
            with lock:
                phases.step(name, step + 1)
            return not stop.is_set()

        def phase_finish(self, name: str) -> None:
            with lock:
                self._depths.pop(name, None)
                phases.end(name)

    return Monitor()
