"""Run scenes in this process, in local processes, or on any other crew of workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

from covis.engines.errors import CovisError, environment_error
from covis.engines.system.children import end_with_parent
from covis.evaluation.accuracy.job import Evaluator, Job
from covis.evaluation.accuracy.scoring import Record
from covis.evaluation.datasets.truth import SceneRef
from covis.runtime.pipeline import Pipeline, StageProgress

_ATTEMPTS = 2


@dataclass(frozen=True)
class Died:
    """End of a worker without an answer; `how` describes it."""

    how: str


@dataclass(frozen=True)
class Fault:
    """Defect of covis in a worker, with its traceback."""

    text: str


Outcome = Record | CovisError | Died | Fault
Report = Callable[[SceneRef, Record | CovisError], None]


class Crew(Protocol):
    """Workers by number; each takes one scene at a time. A dead worker is replaced."""

    size: int

    def assign(self, worker: int, scene: SceneRef) -> None:
        """Assign a scene to an idle worker."""
        ...

    def wait(self) -> list[tuple[int, Outcome]]:
        """Wait until at least one busy worker has an outcome."""
        ...

    def close(self) -> None:
        """End all workers, busy or not."""
        ...


def run_here(
    job: Job,
    scenes: Sequence[SceneRef],
    report: Report,
    pipeline: Pipeline | None = None,
    progress: StageProgress | None = None,
) -> None:
    """Run one scene after the other in this process."""
    evaluator = Evaluator(job, pipeline)
    for scene in scenes:
        try:
            record = evaluator(scene, progress)
        except CovisError as error:
            report(scene, error)
        else:
            report(scene, record)


def run_crew(crew: Crew, scenes: Sequence[SceneRef], report: Report) -> None:
    """Run all scenes on a crew; a scene whose worker dies is tried once more, then reported.

    Only this process reports results, one at a time. A scene whose worker dies after its work but
    before its answer is therefore run again.
    """
    queue = deque((scene, 1) for scene in scenes)
    idle = list(range(crew.size))
    busy: dict[int, tuple[SceneRef, int]] = {}
    try:
        while queue or busy:
            while queue and idle:
                worker = idle.pop()
                busy[worker] = queue.popleft()
                crew.assign(worker, busy[worker][0])
            for worker, outcome in crew.wait():
                scene, attempt = busy.pop(worker)
                idle.append(worker)
                if isinstance(outcome, Fault):
                    raise RuntimeError(f"in a worker, at {scene.name}:\n{outcome.text}")
                if not isinstance(outcome, Died):
                    report(scene, outcome)
                elif attempt < _ATTEMPTS:
                    queue.append((scene, attempt + 1))
                else:
                    report(scene, _gave_up(scene, outcome))
    finally:
        crew.close()


def _gave_up(scene: SceneRef, last: Died) -> CovisError:
    return environment_error(
        f"its worker died {_ATTEMPTS} times ({last.how})",
        where=scene.name,
        hint="use fewer --views or --workers",
    )


def answer(evaluator: Evaluator, scene: SceneRef) -> Record | CovisError | Fault:
    """Return a worker's outcome for a scene: always a value, because values can be sent."""
    try:
        return evaluator(scene)
    except CovisError as error:
        return error
    except Exception:
        return Fault(traceback.format_exc())


class LocalCrew:
    """Crew of processes on this machine, each with its share of the cores.

    Args:
        job: Job to send to each process.
        size: Number of processes.
    """

    def __init__(self, job: Job, size: int) -> None:
        threads = job.run.threads or max(1, (os.cpu_count() or 1) // size)
        self.job = replace(job, run=replace(job.run, threads=threads))
        self.size = size
        # A forked child would inherit the locks of ONNX Runtime's threads without the threads.
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self._busy: set[int] = set()

    def assign(self, worker: int, scene: SceneRef) -> None:
        """Assign a scene to an idle worker, which is started if necessary."""
        for _ in range(2):
            if worker not in self._workers:
                self._workers[worker] = self._start()
            try:
                self._workers[worker][1].send(scene)
                break
            except OSError:  # it died while idle
                self._bury(worker)
        self._busy.add(worker)

    def wait(self) -> list[tuple[int, Outcome]]:
        """Wait until a busy worker answers or ends."""
        if lost := [worker for worker in self._busy if worker not in self._workers]:
            self._busy.difference_update(lost)
            return [(worker, Died("it could not be started")) for worker in lost]
        connections = {self._workers[worker][1]: worker for worker in self._busy}
        outcomes: list[tuple[int, Outcome]] = []
        for connection in wait(list(connections)):
            assert isinstance(connection, Connection)
            worker = connections[connection]
            try:
                outcome: Outcome = connection.recv()
            except (EOFError, OSError):
                outcome = Died(self._bury(worker))
            self._busy.discard(worker)
            outcomes.append((worker, outcome))
        return outcomes

    def close(self) -> None:
        """End all workers at once."""
        for process, connection in self._workers.values():
            connection.close()
            process.kill()
        for process, _ in self._workers.values():
            process.join()
        self._workers.clear()

    def _start(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self.job, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _bury(self, worker: int) -> str:
        process, connection = self._workers.pop(worker)
        connection.close()
        process.join(timeout=10)
        code = process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
        return f"exit code {code}"


def _work(job: Job, connection: Connection) -> None:
    """Evaluate scenes in a worker until its connection closes."""
    # Ctrl-C reaches the whole group of processes; the parent reports it and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    evaluator = Evaluator(job)
    while True:
        try:
            scene = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(answer(evaluator, scene))
