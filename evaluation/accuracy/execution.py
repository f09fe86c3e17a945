"""Evaluate scenes in this process, or on a crew of workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from covis.evaluation.accuracy.job import Evaluator, Job
from covis.evaluation.accuracy.scoring import Record
from covis.evaluation.datasets.truth import SceneRef
from covis.runtime.pipeline import Pipeline
from covis.runtime.workers import crew
from covis.runtime.workers.options import WorkerOptions
from covis.runtime.workers.start import start_crew

Report = crew.Report[SceneRef, Record]
ATTEMPTS = 2
"""Number of workers that may die of a scene before it is reported as failed."""


def run(
    job: Job,
    scenes: Sequence[SceneRef],
    report: Report,
    workers: WorkerOptions | None = None,
    pipeline: Pipeline | None = None,
) -> None:
    """Evaluate all scenes and report each one once, as a record or as an error.

    Args:
        job: The evaluation.
        scenes: Scenes to evaluate.
        report: Called in this process, with one scene at a time.
        workers: Number and place of the workers; this process by default.
        pipeline: Loaded bundle of the job, for this process alone.

    Raises:
        CovisError: The crew cannot be started.
    """
    if workers is None or workers.alone:
        crew.run_here(Evaluator(job, pipeline), scenes, report)
    else:
        run_crew(start_workers(job, workers, len(scenes)), scenes, report)


def start_workers(job: Job, workers: WorkerOptions, scenes: int) -> crew.Crew[SceneRef, Record]:
    """Start workers that evaluate the scenes of a job, each with its share of the cores."""
    return start_crew(
        lambda threads: partial(Evaluator, replace(job, run=replace(job.run, threads=threads))),
        workers,
        tasks=scenes,
        threads=job.run.threads,
        gpus=int(job.run.backend.on_gpu),
    )


def run_crew(
    workers: crew.Crew[SceneRef, Record], scenes: Sequence[SceneRef], report: Report
) -> None:
    """Run all scenes on a crew; a scene whose worker dies is tried once more, then reported."""
    crew.run_crew(
        workers,
        scenes,
        report,
        describe=lambda scene: scene.name,
        attempts=ATTEMPTS,
        cure="use fewer --views or --workers",
    )
