"""Workers on a cluster, through Ray."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import Any

from covis.engines.errors import CovisError, environment_error
from covis.evaluation.accuracy.execution import Died, Outcome, answer
from covis.evaluation.accuracy.job import Evaluator, Job
from covis.evaluation.datasets.truth import SceneRef


class _Worker:
    """Ray actor of a worker."""

    def __init__(self, job: Job) -> None:
        self.evaluator = Evaluator(job)

    def evaluate(self, scene: SceneRef) -> Any:
        return answer(self.evaluator, scene)


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
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return environment_error(
        f"no Ray cluster ({reason})",
        where=f"--ray {address}",
        hint="start one with `ray start --head`, or use --ray local",
    )


class RayCrew:
    """Crew of actors on a Ray cluster; each evaluates one scene at a time.

    Every node requires covis (of the same version), the bundle and the dataset at the same paths.

    Args:
        job: Job to send to each actor.
        size: Number of actors; 0 takes as many as the cluster has cores for. No more are started,
            because an actor without a core would wait for ever.
        address: Address for `ray.init`: "host:port", "auto", "ray://host:port", or "local" for a
            new cluster on this machine.

    Raises:
        CovisError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, job: Job, size: int, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise environment_error(
                f"--ray needs Ray ({error})", hint="pip install 'covis[ray]'"
            ) from error
        self._ray = ray
        check_reachable(address)
        options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise _nobody(address, error) from error
        # Ray schedules each actor by the cores that it uses.
        threads = job.run.threads or 1
        job = replace(job, run=replace(job.run, threads=threads))
        room = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        self.size = min(size, room) if size else room
        self._actor = ray.remote(num_cpus=threads, max_restarts=0)(_Worker)
        self._job = ray.put(job)
        self._workers: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}

    def assign(self, worker: int, scene: SceneRef) -> None:
        """Assign a scene to an idle worker, which is started if necessary."""
        if worker not in self._workers:
            self._workers[worker] = self._actor.remote(self._job)
        self._pending[self._workers[worker].evaluate.remote(scene)] = worker

    def wait(self) -> list[tuple[int, Outcome]]:
        """Wait until a busy worker answers or ends."""
        ready, _ = self._ray.wait(list(self._pending), num_returns=1)
        outcomes: list[tuple[int, Outcome]] = []
        for reference in ready:
            worker = self._pending.pop(reference)
            try:
                outcome: Outcome = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                # The actor, its node or its memory is gone; a new actor takes the number.
                self._workers.pop(worker)
                outcome = Died(type(error).__name__)
            outcomes.append((worker, outcome))
        return outcomes

    def close(self) -> None:
        """End all actors and leave the cluster."""
        for actor in self._workers.values():
            self._ray.kill(actor)
        self._ray.shutdown()
