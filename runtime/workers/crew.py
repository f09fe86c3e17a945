"""Run independent tasks on a crew of workers; the tasks of a worker that dies are done again."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from covis.engines.errors import CovisError, environment_error

Task = TypeVar("Task")
Result = TypeVar("Result")
Task_contra = TypeVar("Task_contra", contravariant=True)

Make = Callable[[], Callable[[Task], Result]]
"""Picklable factory, called once in each worker at its first task: it loads what all tasks share
(a bundle), and returns the function that does a task."""


@dataclass(frozen=True)
class Died:
    """End of a worker without an answer.

    Attributes:
        how: Description of the end, for messages.
        started: False if the worker never received the task, which then costs no attempt.
    """

    how: str
    started: bool = True


@dataclass(frozen=True)
class Fault:
    """Defect of covis in a worker, with its traceback."""

    text: str


Outcome: TypeAlias = Result | CovisError | Died | Fault
"""What becomes of a task: a result, an error that describes itself, a dead worker or a defect."""
Report = Callable[[Task, Result | CovisError], None]


@dataclass(frozen=True)
class Event(Generic[Task]):
    """Step of a task, for progress.

    Attributes:
        kind: `begun`: a worker has the task. `done`: it has answered, with a result or an error.
            `lost`: it died.
        task: The task.
        worker: Number of the worker.
        attempt: Number of the attempt, from 1.
        how: Description of the worker's end; "" for other kinds.
        again: True if the task is lost and will be tried again.
    """

    kind: Literal["begun", "done", "lost"]
    task: Task
    worker: int
    attempt: int
    how: str = ""
    again: bool = False


class Crew(Protocol[Task_contra, Result]):
    """Workers by number; each does one task at a time. A dead worker is replaced."""

    size: int

    def room(self) -> int:
        """Return the number of tasks that can be under way now: `size`, if no place is lost."""
        return self.size

    def assign(self, worker: int, task: Task_contra) -> None:
        """Assign a task to an idle worker, which is started if necessary."""
        ...

    def wait(self) -> list[tuple[int, Outcome[Result]]]:
        """Wait until at least one busy worker has an outcome."""
        ...

    def close(self) -> None:
        """End all workers, busy or not."""
        ...


class Worker(Generic[Task, Result]):
    """Worker's side of a crew: makes its function at the first task, and answers every task.

    Args:
        make: Factory of the function.
    """

    def __init__(self, make: Make[Task, Result]) -> None:
        self._make = make
        self._work: Callable[[Task], Result] | None = None

    def __call__(self, task: Task) -> Result | CovisError | Fault:
        """Return the outcome of a task: always a value, because values can be sent."""
        try:
            if self._work is None:
                self._work = self._make()
            return self._work(task)
        except CovisError as error:
            return error
        except MemoryError:
            return environment_error("out of memory in a worker", hint="use fewer --workers")
        except Exception:
            return Fault(traceback.format_exc())


def run_here(
    work: Callable[[Task], Result], tasks: Iterable[Task], report: Report[Task, Result]
) -> None:
    """Do one task after the other in this process, and report each; a failed one stops none."""
    for task in tasks:
        outcome: Result | CovisError
        try:
            outcome = work(task)
        except CovisError as error:
            outcome = error
        report(task, outcome)


def run_crew(
    crew: Crew[Task, Result],
    tasks: Iterable[Task],
    report: Report[Task, Result],
    *,
    describe: Callable[[Task], str] = str,
    attempts: int = 2,
    cure: str = "use fewer --workers",
    on_event: Callable[[Event[Task]], Any] | None = None,
) -> None:
    """Do all tasks on a crew, handed out in order, and close the crew, whatever happens.

    Only this process reports results, one at a time, as they arrive: each task once. A task whose
    worker dies is tried again after the tasks that wait, also where the worker had done the work
    but not answered: doing a task twice must be harmless.

    Args:
        crew: Crew to run on; it is closed at the end, by an exception (Ctrl-C, SIGTERM) as well.
        tasks: The tasks; picklable.
        report: Called with each task and its result or error.
        describe: Name of a task in messages.
        attempts: Number of workers that may die of a task before it is reported as failed.
        cure: Hint of that error.
        on_event: Called at each step of a task.

    Raises:
        RuntimeError: A worker met a defect of covis; the text has its traceback.
    """
    notify = on_event or (lambda _: None)
    queue = deque((task, 1) for task in tasks)
    idle = list(reversed(range(crew.size)))
    busy: dict[int, tuple[Task, int]] = {}
    try:
        while queue or busy:
            while queue and idle and (not busy or len(busy) < crew.room()):
                worker = idle.pop()
                task, attempt = busy[worker] = queue.popleft()
                crew.assign(worker, task)
                notify(Event("begun", task, worker, attempt))
            for worker, outcome in crew.wait():
                task, attempt = busy.pop(worker)
                if isinstance(outcome, Fault):
                    raise RuntimeError(f"in a worker, at {describe(task)}:\n{outcome.text}")
                if not isinstance(outcome, Died):
                    idle.append(worker)
                    notify(Event("done", task, worker, attempt))
                    report(task, outcome)
                    continue
                idle.insert(0, worker)  # those that live have loaded their bundle already
                again = attempt < attempts or not outcome.started
                notify(Event("lost", task, worker, attempt, outcome.how, again))
                if not outcome.started:
                    queue.appendleft((task, attempt))
                elif again:
                    queue.append((task, attempt + 1))
                else:
                    report(task, _gave_up(describe(task), attempts, outcome, cure))
    finally:
        crew.close()


def _gave_up(name: str, attempts: int, last: Died, cure: str) -> CovisError:
    times = f"{attempts} times" if attempts > 1 else "once"
    return environment_error(f"its worker died {times} ({last.how})", where=name, hint=cure)
