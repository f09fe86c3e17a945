"""Workers in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic

from covis.engines.system.children import end_with_parent
from covis.runtime.workers.crew import Crew, Died, Fault, Make, Outcome, Result, Task, Worker


def share_of_cores(size: int) -> int:
    """Return the number of threads for each of `size` local workers: its share of the cores."""
    return max(1, (os.cpu_count() or 1) // size)


class LocalCrew(Crew[Task, Result], Generic[Task, Result]):
    """Crew of processes on this machine.

    Args:
        make: Factory of the function that does a task, with its number of threads; see
            `share_of_cores`.
        size: Number of processes.
    """

    def __init__(self, make: Make[Task, Result], size: int) -> None:
        self.size = size
        self._make = make
        # A forked child would inherit the locks of ONNX Runtime's threads without the threads.
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self._busy: set[int] = set()

    def assign(self, worker: int, task: Task) -> None:
        """Assign a task to an idle worker, which is started if necessary."""
        for _ in range(2):
            if worker not in self._workers:
                self._workers[worker] = self._start()
            try:
                self._workers[worker][1].send(task)
                break
            except OSError:  # it died while idle
                self._bury(worker)
        self._busy.add(worker)

    def wait(self) -> list[tuple[int, Outcome[Result]]]:
        """Wait until a busy worker answers or ends."""
        if lost := [worker for worker in self._busy if worker not in self._workers]:
            self._busy.difference_update(lost)
            return [(worker, Died("it could not be started")) for worker in lost]
        connections = {self._workers[worker][1]: worker for worker in self._busy}
        outcomes: list[tuple[int, Outcome[Result]]] = []
        for connection in wait(list(connections)):
            assert isinstance(connection, Connection)
            worker = connections[connection]
            outcome: Outcome[Result]
            try:
                outcome = connection.recv()
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
        process = self._context.Process(target=_serve, args=(self._make, theirs), daemon=True)
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


def _serve(make: Make[Any, Any], connection: Connection) -> None:
    """Do tasks in a worker until its connection closes."""
    # Ctrl-C reaches the whole group of processes; the parent reports it and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    worker = Worker(make)
    while True:
        outcome: Any
        try:
            outcome = worker(connection.recv())
        except (EOFError, OSError):
            return
        except Exception:  # a task that cannot be unpickled here
            outcome = Fault(traceback.format_exc())
        try:
            connection.send(outcome)
        except OSError:
            return
        except Exception:  # a result that cannot be pickled; nothing of it was sent
            connection.send(Fault(traceback.format_exc()))
