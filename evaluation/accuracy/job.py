"""Description of an evaluation as one value: bundle, dataset, options and metrics."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.options import RunOptions, Sparsity
from covis.evaluation.accuracy.scoring import Record, ScoreOptions, evaluate_scene
from covis.evaluation.datasets.truth import Dataset, SceneRef, sample_views
from covis.runtime.pipeline import Pipeline, StageProgress, load

PROTOCOL = 2
"""Version of the numbers: raised when a number of an unchanged scene may change."""


@dataclass(frozen=True)
class Job:
    """Everything that determines the numbers of an evaluation; picklable, for workers.

    Attributes:
        bundle: Folder of the bundle, at the same path on all nodes of a cluster.
        dataset: Reader of the dataset.
        sparsity: Selector options.
        score: Metrics and their options.
        views: Number of views of each scene; 0 takes all.
        sampling: Sampling of the views; see `truth.sample_views`.
        seed: Seed of the sampling.
        run: Options of the run, which do not change the result.
        digest: Digest that the bundle must have when a worker opens it; "" accepts any.
    """

    bundle: Path
    dataset: Dataset
    sparsity: Sparsity
    score: ScoreOptions = field(default_factory=ScoreOptions)
    views: int = 10
    sampling: Literal["random", "even"] = "random"
    seed: int = 0
    run: RunOptions = field(default_factory=RunOptions)
    digest: str = ""

    def __post_init__(self) -> None:
        if self.views < 0 or self.views == 1:
            raise user_error(
                f"{self.views} views make no pair", where="--views", hint="use 2 or more, or 0: all"
            )

    def options(self, digest: str) -> dict[str, Any]:
        """Return the options that two comparable results share, as JSON values.

        Args:
            digest: Digest of the bundle.
        """
        return {
            "protocol": PROTOCOL,
            "bundle": digest,
            "dataset": {"name": self.dataset.name, **self.dataset.settings()},
            "sparsity": asdict(self.sparsity),
            "score": asdict(self.score) | {"metrics": list(self.score.metrics)},
            "views": self.views,
            "sampling": self.sampling,
            "seed": self.seed,
            # A GPU rounds differently. Results of the CPU have no such key, because older versions
            # wrote none and their results must remain resumable.
            **({"backend": self.run.backend.backend} if self.run.backend.on_gpu else {}),
        }


class Evaluator:
    """Evaluator of a job in one process: loads the bundle once, then takes scene after scene."""

    def __init__(self, job: Job, pipeline: Pipeline | None = None) -> None:
        self.job = job
        self.pipeline = pipeline

    def __call__(self, ref: SceneRef, progress: StageProgress | None = None) -> Record:
        """Evaluate one scene and return its record.

        Raises:
            CovisError: The evaluation fails; the message starts with the scene's name.
        """
        job = self.job
        try:
            if self.pipeline is None:
                self.pipeline = _opened(job)
            truth = sample_views(job.dataset.load(ref), job.views, job.sampling, job.seed)
            return evaluate_scene(self.pipeline, truth, job.sparsity, job.score, progress=progress)
        except MemoryError:
            raise environment_error(
                "out of memory", where=ref.name, hint="use fewer --views or --workers"
            ) from None
        except CovisError as error:
            where = error.where if error.where.startswith(ref.name) else ""
            if not where:
                where = f"{ref.name}, {error.where}" if error.where else ref.name
            raise error.replaced(where=where) from error


def _opened(job: Job) -> Pipeline:
    """Load the bundle of a job, which must still be the one that the job was made for."""
    pipeline = load(job.bundle, job.run)
    if job.digest and pipeline.bundle.digest() != job.digest:
        raise user_error(
            "was replaced by another bundle since the evaluation began",
            where=job.bundle,
            hint="start again, and change no bundle while it is in use",
        )
    return pipeline


def chosen_scenes(dataset: Dataset, patterns: Sequence[str], limit: int) -> list[SceneRef]:
    """List the scenes of a dataset whose names match, at most `limit` of them.

    Args:
        dataset: Reader of the dataset.
        patterns: Names with `*` and `?`; none takes all scenes.
        limit: Largest number of scenes; 0 for no limit.

    Raises:
        CovisError: A pattern matches nothing, or two scenes have the same name.
    """
    scenes = dataset.scenes()
    names = [scene.name for scene in scenes]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise user_error("two scenes have this name", where=twice, hint="give each path once")
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise user_error(
                f"none of the {len(names)} scenes is called that",
                where=f"--scenes {pattern}",
                hint=f"e.g. {names[0]}" if names else "",
            )
    if patterns:
        scenes = [s for s in scenes if any(fnmatch.fnmatch(s.name, p) for p in patterns)]
    return scenes[:limit] if limit else scenes
