"""Start the crew that a command's options describe."""

from __future__ import annotations

from collections.abc import Callable

from covis.runtime.workers.crew import Crew, Make, Result, Task
from covis.runtime.workers.options import WorkerOptions


def start_crew(
    make_for: Callable[[int], Make[Task, Result]],
    options: WorkerOptions,
    *,
    tasks: int,
    threads: int = 0,
    gpus: int = 0,
) -> Crew[Task, Result]:
    """Start a crew of local processes, or of actors on a Ray cluster.

    Args:
        make_for: Returns the picklable factory of a worker's function, for the number of threads
            that each worker has.
        options: Number and place of the workers.
        tasks: Number of tasks; no more local workers are started.
        threads: Number of threads of each worker. With 0, local workers share out the cores, and
            an actor has one.
        gpus: Number of GPUs of each actor: 1 where a GPU runs the stages. Local workers all see
            the GPUs of this machine.

    Raises:
        CovisError: Ray is not installed, or has no cluster at the address or no room on it.
    """
    if options.ray is not None:
        from covis.runtime.workers.cluster import RayCrew

        each = threads or 1
        return RayCrew(make_for(each), options.workers, options.ray, threads=each, gpus=gpus)
    from covis.runtime.workers.local import LocalCrew, share_of_cores

    size = max(1, min(options.workers, tasks))
    return LocalCrew(make_for(threads or share_of_cores(size)), size)
