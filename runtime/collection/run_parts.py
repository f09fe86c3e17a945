"""Run all parts of a collection that are not finished, here or on a crew of workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from covis.engines.errors import CovisError
from covis.runtime.collection.run_part import FailedPart, PartRunner, PartRuns, PartTask
from covis.runtime.collection.stored_part import FinishedPart
from covis.runtime.collection.work_folder import WorkFolder
from covis.runtime.pipeline import Pipeline, StageProgress
from covis.runtime.workers.crew import Event, run_crew
from covis.runtime.workers.options import WorkerOptions
from covis.runtime.workers.start import start_crew

OnEvent = Callable[[Event[PartTask]], None]


def run_parts(
    pipeline: Pipeline,
    tasks: Sequence[PartTask],
    folder: WorkFolder,
    runs: PartRuns,
    workers: WorkerOptions,
    progress: StageProgress,
    on_event: OnEvent | None = None,
) -> dict[int, str]:
    """Run parts and store each in the folder as soon as it is finished.

    Args:
        pipeline: Pipeline of this process, used where it does the work itself.
        tasks: Parts to run.
        folder: Folder that finished parts go to.
        runs: What the runs share.
        workers: Number and place of the workers.
        progress: Called with `parts`, the parts done and all of them; in this process also with the
            stages, over the views of all parts.
        on_event: Called at each step of a worker's part, such as its worker's death.

    Returns:
        Why a part has no result, by its number, for parts whose numbers are not finite.

    Raises:
        CovisError: A photo or the machine is at fault; the parts that are finished are stored.
    """
    failed: dict[int, str] = {}
    done = iter(range(1, len(tasks) + 1))

    def report(task: PartTask, result: FinishedPart | FailedPart | CovisError) -> None:
        if isinstance(result, CovisError):
            raise result
        if isinstance(result, FailedPart):
            failed[task.number] = result.reason
        else:
            result.store(folder.part(task.number))
        progress("parts", next(done), len(tasks))

    if tasks:
        progress("parts", 0, len(tasks))
    if workers.alone:
        runner = PartRunner(pipeline, runs)
        total, before = sum(len(task.photos.names) for task in tasks), 0
        for task in tasks:
            report(task, runner(task, _shifted(progress, before, total)))
            before += len(task.photos.names)
        return failed
    if tasks:
        crew = start_crew(
            runs.with_threads,
            workers,
            tasks=len(tasks),
            threads=runs.run.threads,
            gpus=int(runs.run.backend.on_gpu),
        )
        run_crew(
            crew,
            tasks,
            report,
            describe=lambda task: f"part {task.number + 1}",
            attempts=3,
            cure="use fewer --workers or smaller --part-views",
            on_event=on_event,
        )
    return failed


def _shifted(progress: StageProgress, before: int, total: int) -> StageProgress:
    """Return progress of one part's stages as a share of the views of all parts."""
    return lambda stage, done, _: progress(stage, before + done, total)
