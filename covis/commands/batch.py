"""`covis batch`: many scenes, each a run of its own, on any number of workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro

from covis.commands.arguments import (
    BundlePath,
    ChoiceArguments,
    OutputArguments,
    RunArguments,
    SceneArguments,
    SparsityArguments,
)
from covis.commands.run import PLAIN
from covis.commands.worker_arguments import WorkerArguments
from covis.engines.errors import CovisError, printable
from covis.engines.options import RunOptions, SparsityChanges
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.writers.options import OutputOptions
from covis.runtime.workers.options import WorkerOptions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from covis.commands.batch_job import BatchJob, Row
    from covis.commands.batch_scenes import BatchScene
    from covis.runtime.pipeline import Pipeline
    from covis.runtime.workers.crew import Event, Report

_COLUMNS: Final = (
    "scene", "views", "selector", "attention_work", "seconds", "peak_bytes", "status", "error",
)  # fmt: skip
_MOST_ROWS: Final = 40


@dataclass(frozen=True)
class BatchCommand:
    """Reconstruct many scenes, each in a run of its own.

    Attributes:
        bundle: Bundle to run: a folder that `covis export` wrote.
        scenes: Folders of photos, or videos, one for each scene. A scene is named after its folder.
        out: Folder to write a folder for each scene and the table of all to; an interrupted batch
            continues there.
        each: Take each folder in the given folders as a scene.
        force: Replace scenes of other options or of photos that have changed since, if covis wrote
            everything in their folders.
        workers: Number and place of the workers.
        choice: Photos and video frames to take.
        scene: Cameras, frame of the world and masks.
        output: Contents of each scene's folder.
        run: How the stages run, and in which backend. With several workers, `--threads 0` shares
            out the cores.
        sparsity: Selector options for all scenes; options that are not given keep the bundle's
            values.
    """

    bundle: BundlePath
    scenes: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="SCENES ...", help_behavior_hint="(required)"),
    ]
    out: Path
    each: bool = False
    force: bool = False
    workers: WorkerArguments = field(default_factory=WorkerOptions)
    choice: ChoiceArguments = field(default_factory=PhotoOptions)
    scene: SceneArguments = field(default_factory=SceneOptions)
    output: OutputArguments = field(default_factory=OutputOptions)
    run: RunArguments = field(default_factory=RunOptions)
    sparsity: SparsityArguments = field(default_factory=SparsityChanges)


def batch(command: BatchCommand) -> None:
    """Reconstruct the scenes that are not done yet, and print the table of all."""
    from rich.console import Console

    from covis.commands.batch_job import done_row, waiting_row
    from covis.commands.batch_scenes import FILES, find_scenes
    from covis.commands.scene_bar import scene_bar
    from covis.engines.system.drafts import remove_leftovers
    from covis.evaluation.accuracy.results import check_results_folder
    from covis.runtime.scene.writers import check_output

    console = Console(stderr=True)
    check_results_folder(command.out, FILES[0], "batch")
    scenes = find_scenes(command.scenes, command.out, each=command.each)
    with console.status("checking the bundle and the scenes"):
        job, pipeline = make_job(command)
        rows = {scene.name: done_row(job, scene) or waiting_row(scene) for scene in scenes}
        todo = [scene for scene in scenes if rows[scene.name]["status"] == "not done"]
        for scene in todo:
            check_output(command.out / scene.name, command.output, force=command.force)
    if len(todo) < len(scenes):
        done = len(scenes) - len(todo)
        console.print(f"{done} of {len(scenes)} scenes are done already", **PLAIN)
    failed: dict[str, CovisError] = {}
    write_tables(command.out, job, rows.values())
    try:
        with scene_bar(console, len(scenes), len(scenes) - len(todo)) as advance:

            def report(scene: BatchScene, outcome: Row | CovisError) -> None:
                if isinstance(outcome, CovisError):
                    failed[scene.name] = outcome
                    rows[scene.name] = waiting_row(scene, "failed", str(outcome))
                    lines = [str(outcome)]
                else:
                    rows[scene.name] = outcome
                    lines = [f"{scene.name}: {note}" for note in outcome["notes"]]
                for line in lines:
                    console.print(printable(line), style="yellow", **PLAIN)
                write_tables(command.out, job, rows.values())
                advance(scene.name)

            _run(job, pipeline, command.workers, todo, report, console)
    finally:
        for scene in todo:  # half-written folders of workers that were ended
            remove_leftovers(command.out / scene.name)
    _conclude(command.out, list(rows.values()), failed)


def make_job(command: BatchCommand) -> tuple[BatchJob, Pipeline]:
    """Return the job of a command, and its bundle, checked and loaded.

    Raises:
        CovisError: The bundle or the schedule of its layers is at fault.
    """
    from covis.commands.batch_job import BatchJob
    from covis.engines.schedule import check_schedule
    from covis.runtime.pipeline import load

    pipeline = load(command.bundle, command.run)
    manifest = pipeline.bundle.manifest
    sparsity = command.sparsity.apply(manifest.sparsity)
    check_schedule(sparsity, manifest.model.global_layers)
    job = BatchJob(
        bundle=command.bundle.resolve(),
        digest=pipeline.bundle.digest(),
        out=command.out.absolute(),
        sparsity=sparsity,
        choice=command.choice,
        scene=command.scene,
        output=command.output,
        run=command.run,
        force=command.force,
    )
    return job, pipeline


def _run(
    job: BatchJob,
    pipeline: Pipeline,
    workers: WorkerOptions,
    todo: Sequence[BatchScene],
    report: Report[BatchScene, Row],
    console: Console,
) -> None:
    from functools import partial

    from covis.commands.batch_job import Reconstructor, make_reconstructor
    from covis.runtime.workers.crew import run_crew, run_here
    from covis.runtime.workers.start import start_crew

    def note(event: Event[BatchScene]) -> None:
        if event.kind == "lost" and event.again:
            line = f"{event.task.name}: its worker died ({event.how}); it is done again"
            console.print(printable(line), style="yellow", **PLAIN)

    if workers.alone:
        run_here(Reconstructor(job, pipeline), todo, report)
    elif todo:
        crew = start_crew(
            partial(make_reconstructor, job),
            workers,
            tasks=len(todo),
            threads=job.run.threads,
            gpus=int(job.run.backend.on_gpu),
        )
        cure = "use --max-views or fewer --workers"
        run_crew(crew, todo, report, describe=lambda scene: scene.name, cure=cure, on_event=note)


def write_tables(out: Path, job: BatchJob, rows: Any) -> None:
    """Write `batch.json` and `batch.csv` in place of earlier ones, each whole or not at all.

    Raises:
        CovisError: There is no space or no permission.
    """
    from covis.commands.batch_scenes import FILES
    from covis.engines.system.csv_file import csv_text
    from covis.evaluation.accuracy.results import write_result

    content = {"options": job.options(), "scenes": list(rows)}
    # In this order: a folder without the first file would not be known as a batch.
    write_result(out / FILES[0], json.dumps(content, indent=1) + "\n")
    write_result(out / FILES[1], csv_text(_COLUMNS, rows))


def _conclude(out: Path, rows: Sequence[Row], failed: dict[str, CovisError]) -> None:
    """Print the table, and raise an error where a scene failed."""
    from rich.console import Console

    from covis.commands.batch_scenes import FILES

    shown = table(rows)
    # Numbers must not be cut to fit a narrow terminal; the terminal may break the lines.
    needed = Console(width=10_000).measure(shown).maximum
    Console(width=max(needed, Console().width)).print(shown, soft_wrap=True)
    for name in FILES:
        print(out / name)
    first = next((failed[row["scene"]] for row in rows if row["scene"] in failed), None)
    if first is not None:
        raise CovisError(
            first.code,
            f"{len(failed)} of {len(rows)} scenes failed",
            where=next(iter(failed)) if len(failed) == 1 else "",
            hint="the reasons are above; run the same command again to retry only these",
        )


def table(rows: Sequence[Row]) -> Table:
    """Build a table with a row for each scene, or of the failed ones where they are many."""
    from rich.table import Table
    from rich.text import Text

    headings = ("scene", "views", "selector", "attention", "s", "peak GiB", "status")
    out = Table(*headings, box=None)
    for column in out.columns[1:-1]:
        column.justify = "right"
    listed = [row for row in rows if len(rows) <= _MOST_ROWS or row["status"] == "failed"]
    for row in listed:
        peak = row["peak_bytes"]
        cells = (
            _cell(row["views"], "d"),
            row["selector"] or "-",
            _cell(row["attention_work"], ".1%"),
            _cell(row["seconds"], ".2f"),
            _cell(peak / 2**30 if peak else None, ".2f"),
            row["status"],
        )
        out.add_row(Text(printable(row["scene"])), *cells)
    if len(listed) < len(rows):
        out.add_row(Text(f"{len(rows) - len(listed)} more"), *("",) * 5, "done")
    return out


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
