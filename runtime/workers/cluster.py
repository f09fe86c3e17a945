"""Workers on a cluster, through Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any, Generic

from covis.engines.errors import CovisError, environment_error, first_line, printable
from covis.engines.version import __version__
from covis.runtime.workers.crew import Crew, Died, Fault, Make, Outcome, Result, Task, Worker

_PATIENCE = 10.0  # seconds between two looks for actors that no node has room for


class _Actor:
    """Ray actor of a worker.

    Args:
        make: Factory of the function that does a task.
        version: Version of covis on the machine that sends the tasks.
    """

    def __init__(self, make: Make[Any, Any], version: str) -> None:
        self._worker = Worker(make)
        self._version = version

    def ready(self) -> None:
        """Return as soon as the actor has a place on a node."""

    def do(self, task: Any) -> Any:
        if self._version != __version__:
            return environment_error(
                f"has covis {__version__}, and the machine that sends the tasks {self._version}",
                where=f"node {socket.gethostname()}",
                hint="install one version on all nodes",
            )
        return self._worker(task)


def check_reachable(address: str, timeout: float = 10.0) -> None:
    """Require a server at "host:port"; Ray itself would try for many minutes.

    Raises:
        CovisError: There is none.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except (OSError, OverflowError) as error:
        raise _nobody(address, error) from error


def _nobody(address: str, error: Exception) -> CovisError:
    return environment_error(
        f"no Ray cluster ({first_line(error)})",
        where=f"--ray {address}",
        hint="start one with `ray start --head`, or use --ray local",
    )


class RayCrew(Crew[Task, Result], Generic[Task, Result]):
    """Crew of actors on a Ray cluster; each does one task at a time.

    Every node requires covis (of the same version), and the files that the tasks name at the same
    paths.

    Args:
        make: Factory of the function that does a task, with `threads` threads.
        size: Number of actors; 0 takes as many as the cluster has room for. No more are started,
            because an actor without room would wait for ever.
        address: Address for `ray.init`: "host:port", "auto", "ray://host:port", or "local" for a
            new cluster on this machine.
        threads: Number of cores of each actor, by which Ray places it.
        gpus: Number of GPUs of each actor; Ray shows it these alone.

    Raises:
        CovisError: Ray is not installed, there is no cluster at the address, or none of its nodes
            has room for one actor.
    """

    def __init__(
        self,
        make: Make[Task, Result],
        size: int,
        address: str,
        *,
        threads: int = 1,
        gpus: int = 0,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._needs = {"CPU": threads, "GPU": gpus}
        with _own_handlers():
            self._ray = _import_ray()
            check_reachable(address)
            options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
            try:
                self._ray.init(
                    address=address, log_to_driver=False, logging_level="ERROR", **options
                )
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
                raise _nobody(address, error) from error
        room = self._places()
        if not room:
            self._ray.shutdown()
            raise self._too_small(address)
        self.size = min(size, room) if size else room
        self._class = self._ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0)(_Actor)
        self._make = self._ray.put(make)
        self._actors: dict[int, Any] = {}
        self._starting: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}

    def room(self) -> int:
        """Return the number of actors that the nodes which are left have room for, up to `size`."""
        return min(self.size, self._places())

    def assign(self, worker: int, task: Task) -> None:
        """Assign a task to an idle worker, which is started if necessary."""
        if worker not in self._actors:
            self._actors[worker] = self._class.remote(self._make, __version__)
            self._starting[worker] = self._actors[worker].ready.remote()
        self._pending[self._actors[worker].do.remote(task)] = worker

    def wait(self) -> list[tuple[int, Outcome[Result]]]:
        """Wait until a busy worker answers or ends, or has lost its place before it started."""
        ready: list[Any] = []
        while not ready:
            patience = _PATIENCE if self._starting else None
            ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=patience)
            if not ready and (stranded := self._stranded()):
                return [(worker, self._give_back(worker)) for worker in stranded]
        return [(self._pending[reference], self._outcome(reference)) for reference in ready]

    def close(self) -> None:
        """End all actors and leave the cluster."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._ray.shutdown()

    def _outcome(self, reference: Any) -> Outcome[Result]:
        worker = self._pending.pop(reference)
        self._starting.pop(worker, None)
        outcome: Outcome[Result]
        try:
            outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # the actor lives; the answer does not
            outcome = Fault(str(error))
        except self._ray.exceptions.RayError as error:
            # The actor, its node or its memory is gone; a new actor takes the number. One that is
            # only out of reach must not keep its place.
            self._ray.kill(self._actors.pop(worker))
            outcome = Died(_end(error))
        return outcome

    def _stranded(self) -> list[int]:
        """Return busy workers that have not started, as many as there are too many for the nodes.

        A node may go while the others work. Its workers' successors wait for another one to come,
        perhaps for ever, while workers that have a place become idle.
        """
        for worker, begun in list(self._starting.items()):
            if self._ray.wait([begun], timeout=0)[0]:
                del self._starting[worker]
        too_many = len(self._actors) - max(1, self._places())
        return list(self._starting)[-too_many:] if too_many > 0 else []

    def _give_back(self, worker: int) -> Died:
        del self._starting[worker]
        self._ray.kill(self._actors.pop(worker))
        self._pending = {ref: owner for ref, owner in self._pending.items() if owner != worker}
        return Died("the cluster has lost its place", started=False)

    def _places(self) -> int:
        """Return the number of actors that fit on the cluster's nodes, each on one node."""
        needs = {name: amount for name, amount in self._needs.items() if amount}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(
            min(int(resources.get(name, 0) // amount) for name, amount in needs.items())
            for resources in nodes
        )

    def _too_small(self, address: str) -> CovisError:
        cores, gpus = self._needs["CPU"], self._needs["GPU"]
        wanted = f"{cores} core{'s' * (cores > 1)}"
        wanted += f" and {gpus} GPU{'s' * (gpus > 1)}" if gpus else ""
        return environment_error(
            f"no node of the cluster has {wanted}",
            where=f"--ray {address}",
            hint="use fewer --threads or another --backend" if gpus else "use fewer --threads",
        )


def _end(error: Exception) -> str:
    """Return Ray's name of an actor's end, and the reason if it could not be made on its node."""
    text = str(error).strip()
    reason = f": {printable(text.splitlines()[-1])}" if "creation task" in text else ""
    return type(error).__name__ + reason


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise environment_error(
            f"--ray needs Ray ({error})", hint="pip install 'covis[ray]'"
        ) from error
    return ray


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep the handlers of signals, because Ray would end the process at SIGTERM by its own."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None:
                with contextlib.suppress(ValueError):  # not the main thread, which has them
                    signal.signal(number, handler)
