"""Work for crews under test: a task is a number, and some tasks end their worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from covis.engines.errors import user_error


@dataclass(frozen=True)
class Squares:
    """Factory of a function that squares; it records every call in a folder.

    Attributes:
        log: Folder that gets a file for each start of a worker and each attempt of a task.
        deadly: Task -> number of its attempts that end in SIGKILL.
        wrong: Tasks that fail with an error for the user.
        faulty: Tasks that meet a defect.
        unsendable: Tasks whose result cannot be pickled.
        slow: Tasks that take as long as the test.
    """

    log: Path
    deadly: dict[int, int] = field(default_factory=dict)
    wrong: tuple[int, ...] = ()
    faulty: tuple[int, ...] = ()
    unsendable: tuple[int, ...] = ()
    slow: tuple[int, ...] = ()

    def __call__(self) -> Squares.Function:
        (self.log / f"start.{os.getpid()}").touch()
        return Squares.Function(self)

    @dataclass(frozen=True)
    class Function:
        """The function of one worker."""

        of: Squares

        def __call__(self, task: int) -> object:
            attempt = len(list(self.of.log.glob(f"task.{task}.*")))
            (self.of.log / f"task.{task}.{attempt}.{os.getpid()}").touch()
            if attempt < self.of.deadly.get(task, 0):
                os.kill(os.getpid(), signal.SIGKILL)
            if task in self.of.slow:
                time.sleep(600)
            if task in self.of.wrong:
                raise user_error("is odd", where=f"task {task}", hint="use another")
            if task in self.of.faulty:
                raise ZeroDivisionError("as if by accident")
            return threading.Lock() if task in self.of.unsendable else task**2

    def attempts(self, task: int) -> int:
        """Return how often a task was begun."""
        return len(list(self.log.glob(f"task.{task}.*")))

    def starts(self) -> int:
        """Return how many workers were started."""
        return len(list(self.log.glob("start.*")))
