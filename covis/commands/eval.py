"""`covis eval`: accuracy of a bundle on a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from covis.commands.arguments import BundlePath, MeasureArguments, SparsityArguments, default
from covis.commands.worker_arguments import WorkerArguments
from covis.engines.errors import CovisError, user_error
from covis.engines.options import RunOptions, SparsityChanges
from covis.runtime.workers.options import WorkerOptions

if TYPE_CHECKING:
    from covis.evaluation.accuracy.job import Job
    from covis.evaluation.accuracy.results import Results
    from covis.evaluation.datasets.truth import SceneRef
    from covis.runtime.pipeline import Pipeline

# Repeated here, so that --help imports no reader; a test compares them with the readers.
DatasetName = Literal[
    "synthetic", "co3d", "realestate10k", "tanks_temples", "eth3d", "7scenes", "nrgbd", "dtu",
    "scannet", "stereodemo", "pose2sim", "made",
]  # fmt: skip
MetricName = Literal["pose", "depth", "points"]
Dataset = Annotated[tyro.conf.Positional[DatasetName], tyro.conf.arg(metavar="DATASET")]
DatasetPaths = Annotated[
    tyro.conf.Positional[tuple[str, ...]],
    tyro.conf.arg(metavar="PATHS ...", help_behavior_hint="(required)"),
]

_MOST_ROWS = 40


@dataclass(frozen=True)
class EvalCommand:
    """Measure accuracy on a dataset: cameras, depth and points.

    Attributes:
        bundle: Bundle to measure: a folder that `covis export` wrote.
        dataset: Dataset to read; docs/reference/datasets-and-metrics.md has the layouts.
        paths: Folders or files of the dataset. For synthetic scenes: family/path,
            family/path/seeds or family/path/seeds/views, such as loop/loop/1000000-1000007/24.
        out: Folder to write the results to; an interrupted evaluation continues there.
        views: Number of views of each scene; 0 takes all.
        sampling: Choice of the views: `random`, drawn as in the CO3D protocol, or `even`, evenly
            along the sequence.
        seed: Seed of the random choice of views, 0 or more.
        scenes: Names of the scenes to evaluate; * and ? match any characters.
        limit: Largest number of scenes to evaluate; 0 takes all.
        metrics: Metrics to compute. `points` requires covis[eval].
        source: Source of the predicted points: `depth`, depth and cameras, or `points`, the
            model's own point head.
        max_points: Number of points of each cloud whose distance to the other cloud is measured.
        icp: Number of rounds of iterative closest points before clouds are compared.
        workers: Number and place of the workers.
        run: How the stages run, and in which backend. With several workers, `--threads 0` shares
            out the cores.
        sparsity: Selector options to measure; options that are not given keep the bundle's values.
    """

    bundle: BundlePath
    dataset: Dataset
    paths: DatasetPaths
    out: Path
    views: int = 10
    sampling: Literal["random", "even"] = "random"
    seed: int = 0
    scenes: Annotated[tuple[str, ...], default("all")] = ()
    limit: int = 0
    metrics: tuple[MetricName, ...] = ("pose", "depth", "points")
    source: Literal["depth", "points"] = "depth"
    max_points: int = 20_000
    icp: int = 20
    workers: WorkerArguments = field(default_factory=WorkerOptions)
    run: MeasureArguments = field(default_factory=RunOptions)
    sparsity: SparsityArguments = field(default_factory=SparsityChanges)

    def __post_init__(self) -> None:
        for name in ("limit", "seed"):
            if getattr(self, name) < 0:
                raise user_error(f"{getattr(self, name)} is negative", where=f"--{name}")


def evaluate(command: EvalCommand) -> None:
    """Evaluate the scenes that are not done yet, and print the table of all."""
    from rich.console import Console

    from covis.commands.scene_bar import scene_bar
    from covis.engines.errors import printable
    from covis.evaluation.accuracy.execution import run
    from covis.evaluation.accuracy.job import chosen_scenes
    from covis.evaluation.accuracy.results import Results, check_results_folder

    check_results_folder(command.out)
    console = Console(stderr=True)
    with console.status("checking bundle and dataset"):
        job, pipeline = make_job(command)
        scenes = chosen_scenes(job.dataset, command.scenes, command.limit)
        results = Results(command.out, job.options(pipeline.bundle.digest()))
        todo = [scene for scene in scenes if results.get(scene.name) is None]
    if len(todo) < len(scenes):
        done = len(scenes) - len(todo)
        console.print(f"{done} of {len(scenes)} scenes are done already", highlight=False)
    failed: dict[str, CovisError] = {}
    with scene_bar(console, len(scenes), len(scenes) - len(todo)) as advance:

        def report(scene: SceneRef, outcome: dict[str, Any] | CovisError) -> None:
            if isinstance(outcome, CovisError):
                failed[scene.name] = outcome
                console.print(printable(str(outcome)), style="yellow", markup=False,
                              highlight=False, soft_wrap=True)  # fmt: skip
            else:
                results.put(outcome)
            advance(scene.name)

        if todo:
            run(job, todo, report, command.workers, pipeline)
    _conclude(results, scenes, failed)


def current_name(dataset: str) -> str:
    """Return the present name of a dataset, with a notice on stderr where a former one is given."""
    import sys

    from covis.evaluation.datasets import FORMER_NAMES

    name = FORMER_NAMES.get(dataset)
    if name is None:
        return dataset
    line = f"covis: the dataset `{dataset}` is now `{name}`; the next version drops the old name"
    print(line, file=sys.stderr)
    return name


def make_job(command: EvalCommand) -> tuple[Job, Pipeline]:
    """Return the evaluation job of a command, and its bundle, checked and loaded."""
    from covis.evaluation.accuracy.job import Job
    from covis.evaluation.accuracy.scoring import ScoreOptions
    from covis.evaluation.datasets import open_dataset
    from covis.runtime.pipeline import load

    score = ScoreOptions(command.metrics, command.source, command.max_points, command.icp)
    if "points" in command.metrics:
        from covis.evaluation.metrics.clouds import check_scipy

        check_scipy()
    pipeline = load(command.bundle, command.run)
    manifest = pipeline.bundle.manifest
    rule = manifest.pixel_rule
    job = Job(
        bundle=command.bundle.resolve(),
        dataset=open_dataset(
            current_name(command.dataset), command.paths, size=(rule.height, rule.width)
        ),
        sparsity=command.sparsity.apply(manifest.sparsity),
        score=score,
        views=command.views,
        sampling=command.sampling,
        seed=command.seed,
        run=pipeline.options,
        digest=pipeline.bundle.digest(),
    )
    return job, pipeline


def _conclude(results: Results, scenes: list[SceneRef], failed: dict[str, CovisError]) -> None:
    """Write the summary, print the table, and raise an error where a scene failed."""
    from rich.console import Console

    from covis.evaluation.accuracy.tables import table

    whole = results.finish(scenes, {name: str(error) for name, error in failed.items()})
    if whole["scenes"]:
        rows = table(whole, _MOST_ROWS)
        # Numbers must not be cut to fit a narrow terminal; the terminal may break the lines.
        needed = Console(width=10_000).measure(rows).maximum
        Console(width=max(needed, Console().width)).print(rows, soft_wrap=True)
    for name in ("results.json", "results.csv"):
        print(results.folder / name)
    if failed:
        first = next(iter(failed.values()))
        raise CovisError(
            first.code,
            f"{len(failed)} of {len(scenes)} scenes could not be evaluated",
            where=next(iter(failed)) if len(failed) == 1 else "",
            hint="the reasons are above; run the same command again to retry only these",
        )
