"""`covis sweep`: accuracy by threshold, layers, selector, anchors, schedule and precision."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from covis.commands.arguments import BundlePath, MeasureArguments, arguments, default
from covis.commands.eval import Dataset, DatasetPaths, MetricName, current_name
from covis.engines.errors import CovisError, printable, user_error
from covis.engines.options import RunOptions
from covis.evaluation.sweep.axes import SweepAxes

if TYPE_CHECKING:
    from covis.evaluation.datasets.truth import SceneRef
    from covis.evaluation.sweep.report import Row
    from covis.evaluation.sweep.sweep import Sweep


_Axes = arguments("_Axes", SweepAxes, defaults={"min_neighbours": "the bundle's"})


@dataclass(frozen=True)
class SweepCommand:
    """Measure accuracy by threshold, sparse layers, selector, anchors, schedule and precision.

    Attributes:
        bundle: Bundle to measure: a folder that `covis export` wrote.
        dataset: Dataset to read; docs/reference/datasets-and-metrics.md has the layouts.
        paths: Folders or files of the dataset. For synthetic scenes: family/path/seeds/views.
        out: Folder to write results, tables and pictures to; an interrupted sweep continues there.
        also: Bundles of the same model in other precisions, to measure on the same views.
        views: Number of views of each scene; 0 takes all.
        sampling: Choice of the views: `random`, drawn as in the CO3D protocol, or `even`, evenly
            along the sequence.
        seed: Seed of the random choice of views, and of random pairs, 0 or more.
        limit: Largest number of scenes to run; 0 takes all.
        metrics: Metrics to compute. `points` requires covis[eval].
        attention: Number of scenes on which to analyse attention by layer; 0 leaves it out. It
            requires covis[export].
        pictures: Draw pictures of the results; requires covis[view].
        axes: Values that the sweep runs through.
        run: How the stages run, and in which backend.
    """

    bundle: BundlePath
    dataset: Dataset
    paths: DatasetPaths
    out: Path
    also: Annotated[tuple[Path, ...], default("none")] = ()
    views: int = 10
    sampling: Literal["random", "even"] = "random"
    seed: int = 0
    limit: int = 0
    metrics: tuple[MetricName, ...] = ("pose", "depth")
    attention: Annotated[int, tyro.conf.arg(metavar="SCENES")] = 0
    pictures: bool = True
    axes: Annotated[SweepAxes, tyro.conf.arg(constructor=_Axes), tyro.conf.OmitArgPrefixes] = field(
        default_factory=SweepAxes
    )
    run: MeasureArguments = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        for name in ("limit", "seed", "attention"):
            if getattr(self, name) < 0:
                raise user_error(f"{getattr(self, name)} is negative", where=f"--{name}")


def sweep(command: SweepCommand) -> None:
    """Run the missing settings, then write tables, pictures and JSON, and print the tables."""
    from rich.console import Console

    from covis.evaluation.accuracy.job import chosen_scenes
    from covis.evaluation.accuracy.results import check_results_folder

    check_results_folder(command.out, "settings/dense/evaluation.json", "sweep")
    console = Console(stderr=True)
    if command.pictures:
        from covis.evaluation.sweep.pictures import pyplot

        pyplot()  # a missing package is reported before the work
    with console.status("checking bundles and dataset"):
        whole = make_sweep(command)
        scenes = chosen_scenes(whole.job.dataset, (), command.limit)
        missing = whole.missing(scenes)
    total = len(whole.settings) * len(scenes)
    if missing < total:
        console.print(f"{total - missing} of {total} runs are done already", highlight=False)
    failed = run_with_bar(whole, scenes, missing, total, console)
    for path in report(command, whole, [s for s in scenes if s.name not in failed]):
        print(path)
    if failed:
        for name, error in failed.items():
            line = printable(f"{name}: {error}")
            console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        raise CovisError(
            next(iter(failed.values())).code,
            f"{len(failed)} of {len(scenes)} scenes could not be run",
            where=next(iter(failed)) if len(failed) == 1 else "",
            hint="the reasons are above; run the same command again to retry only these",
        )


def make_sweep(command: SweepCommand) -> Sweep:
    """Return the sweep of a command, with its bundles checked and loaded."""
    from covis.evaluation.accuracy.job import Job
    from covis.evaluation.accuracy.scoring import ScoreOptions
    from covis.evaluation.datasets import open_dataset
    from covis.evaluation.sweep.settings import settings
    from covis.evaluation.sweep.sweep import Sweep
    from covis.runtime.pipeline import load

    folders = {"": command.bundle, **{path.resolve().name: path for path in command.also}}
    if len(folders) < 1 + len(command.also):
        raise user_error("two bundles have one name", where="--also", hint="rename a folder")
    pipelines = {label: load(path, command.run) for label, path in folders.items()}
    first = pipelines[""].bundle.manifest
    points = []
    for label, pipeline in pipelines.items():
        manifest = pipeline.bundle.manifest
        if (manifest.model.name, manifest.model.config) != (first.model.name, first.model.config):
            raise user_error("holds another model", where=folders[label], hint="leave it out")
        depth = manifest.model.global_layers
        points += settings(command.axes, manifest.sparsity, depth, label, command.views)
    rule = first.pixel_rule
    job = Job(
        bundle=command.bundle.resolve(),
        dataset=open_dataset(
            current_name(command.dataset), command.paths, size=(rule.height, rule.width)
        ),
        sparsity=first.sparsity,
        score=ScoreOptions(metrics=command.metrics),
        views=command.views,
        sampling=command.sampling,
        seed=command.seed,
        run=command.run,
    )
    return Sweep(command.out, pipelines, job, points, command.seed)


def run_with_bar(
    whole: Sweep, scenes: list[SceneRef], missing: int, total: int, console: Any
) -> dict[str, CovisError]:
    """Run the missing settings with a progress bar; return the error of each scene that failed."""
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("", total=total, completed=total - missing)

        def advance(scene: str, name: str) -> None:
            bars.update(task, advance=1, description=escape(printable(f"{scene} {name}")))

        return whole.run(scenes, advance)


def report(command: SweepCommand, whole: Sweep, scenes: list[SceneRef]) -> list[Path]:
    """Write `sweep.json`, `tables.md`, the pictures and the attention analysis."""
    from covis.evaluation.accuracy.results import write_result
    from covis.evaluation.sweep.report import markdown, row

    depth = whole.pipelines[""].bundle.manifest.model.global_layers
    rows = [row(s, records) for s in whole.settings if (records := whole.records(s, scenes))]
    attention = _attention(command, whole, scenes) if command.attention else None
    content = {
        "bundles": {label: p.bundle.digest() for label, p in whole.pipelines.items()},
        "dataset": [command.dataset, *command.paths],
        "scenes": [scene.name for scene in scenes],
        "rows": rows,
        "attention": attention,
    }
    text = "\n".join(_tables(rows, label, depth, markdown) for label in whole.pipelines)
    write_result(command.out / "sweep.json", json.dumps(content, indent=1) + "\n")
    write_result(command.out / "tables.md", text)
    print(text)
    written = [command.out / "sweep.json", command.out / "tables.md"]
    return written + (_pictures(command.out, rows, attention) if command.pictures else [])


def _tables(rows: list[Row], label: str, depth: int, markdown: Any) -> str:
    own = [row for row in rows if row["bundle"] == label]
    return (f"## {label}\n\n" if label else "") + str(markdown(own, depth))


def _pictures(out: Path, rows: list[Row], attention: list[dict[str, Any]] | None) -> list[Path]:
    from covis.evaluation.sweep import pictures

    own = [row for row in rows if row["bundle"] == ""]
    written = [
        pictures.draw_pareto(own, out / "pareto.png"),
        pictures.draw_pairs(own, out / "pairs.png"),
        pictures.draw_drops(own, out / "layers.png"),
        pictures.draw_anchors(own, out / "anchors.png"),
    ]
    if attention:
        written.append(pictures.draw_attention(attention, out / "attention.png"))
    return [path for path in written if path is not None]


def _attention(command: SweepCommand, whole: Sweep, scenes: list[SceneRef]) -> list[dict[str, Any]]:
    """Analyse attention by layer in torch, with the bundle's weights."""
    try:
        import torch

        from covis.export.attention_analysis import analyse, mean_over_scenes, model_of_bundle
    except ModuleNotFoundError as error:
        from covis.engines.errors import environment_error

        raise environment_error(
            f"{error.name} is not installed",
            where="--attention",
            hint="pip install 'covis[cpu,export]', or leave it out",
        ) from error
    from covis.evaluation.datasets.truth import sample_views
    from covis.runtime.photos.images import load_images

    bundle, job = whole.pipelines[""].bundle, whole.job
    model = model_of_bundle(bundle)
    found = []
    for ref in scenes[: command.attention]:
        truth = sample_views(job.dataset.load(ref), job.views, job.sampling, job.seed)
        images = load_images(truth.images, bundle.manifest.pixel_rule)
        found.append(analyse(model, torch.from_numpy(images.batch(0, len(images)))))
    return mean_over_scenes(found)
