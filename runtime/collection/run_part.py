"""Run of one part of a collection, in this process or in a worker."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from covis.engines.errors import CovisError, ExitCode, environment_error, user_error
from covis.engines.options import RunOptions, Sparsity
from covis.runtime.collection.stored_part import FinishedPart, finished_part
from covis.runtime.photos.selection import Selection
from covis.runtime.pipeline import Pipeline, StageProgress, load
from covis.runtime.scene.options import SceneOptions


@dataclass(frozen=True)
class PartTask:
    """Part to run.

    Attributes:
        number: Number of the part.
        photos: Photos of the part, in the order of its run.
    """

    number: int
    photos: Selection


@dataclass(frozen=True)
class FailedPart:
    """Part whose run gave numbers that are not finite; the collection goes on without it."""

    reason: str


@dataclass(frozen=True)
class PartRuns:
    """What the runs of all parts share; picklable, and a factory of `PartRunner` in a worker.

    Attributes:
        bundle: Folder of the bundle, at the same path on all nodes of a cluster.
        digest: Digest that the bundle must have when a worker opens it.
        run: Options of the runs.
        sparsity: Selector options.
        scene: Options of each part's scene. The world and the cameras of a part stay its own.
    """

    bundle: Path
    digest: str
    run: RunOptions
    sparsity: Sparsity
    scene: SceneOptions

    def __call__(self) -> PartRunner:
        """Load the bundle.

        Raises:
            CovisError: The bundle is missing here, damaged, or another one.
        """
        pipeline = load(self.bundle, self.run)
        if pipeline.bundle.digest() != self.digest:
            raise environment_error(
                "is not the bundle that this run started with",
                where=self.bundle,
                hint="put the same bundle at the same path on every node",
            )
        return PartRunner(pipeline, self)

    def with_threads(self, threads: int) -> PartRuns:
        """Return the same runs with a number of threads of each."""
        return replace(self, run=replace(self.run, threads=threads))


class PartRunner:
    """Run parts, one after the other, with one pipeline.

    Args:
        pipeline: Pipeline of the bundle.
        runs: What the runs share.
    """

    def __init__(self, pipeline: Pipeline, runs: PartRuns) -> None:
        self.pipeline = pipeline
        self.runs = runs

    def __call__(
        self, task: PartTask, progress: StageProgress | None = None
    ) -> FinishedPart | FailedPart:
        """Run one part.

        Raises:
            CovisError: A photo is at fault or has changed, or the machine is.
        """
        started = time.monotonic()
        rule = self.pipeline.bundle.manifest.pixel_rule
        images = task.photos.load(rule)
        if images.names != task.photos.names:
            missing = next(name for name in task.photos.names if name not in images.names)
            raise user_error(
                "cannot be decoded any more", where=missing, hint="give --restart without it"
            )
        try:
            scene = self.pipeline(
                images,
                sparsity=self.runs.sparsity,
                progress=progress,
                scene_options=self.runs.scene,
            )
        except CovisError as error:
            if error.code == ExitCode.NUMERICS:
                return FailedPart(str(error))
            raise
        report = scene.sparsity
        facts: dict[str, Any] = {
            "seconds": time.monotonic() - started,
            "stamps": [None if stamp is None else list(stamp) for stamp in images.stamps],
            "notes": list(scene.notes),
            "sparsity": None
            if report is None
            else {
                "selector": report.selector,
                "schedule": report.schedule,
                "attention_work": report.attention_work,
            },
            "provenance": dict(scene.provenance),
        }
        return finished_part(scene, facts)


def part_options(options: SceneOptions) -> SceneOptions:
    """Return the options of a part's scene: its masks; cameras and world are the collection's."""
    return replace(options, shared_camera=False, world="model")
