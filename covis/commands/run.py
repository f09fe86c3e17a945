"""`covis run`: photos to a scene."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from covis.commands.arguments import (
    BundlePath,
    OutputArguments,
    PhotoArguments,
    Photos,
    RunArguments,
    SceneArguments,
    SparsityArguments,
)
from covis.commands.collection_arguments import CollectionArguments
from covis.commands.worker_arguments import WorkerArguments
from covis.engines.errors import printable, user_error
from covis.engines.options import RunOptions, SparsityChanges
from covis.runtime.collection.options import CollectionOptions
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.writers.options import OutputOptions
from covis.runtime.workers.options import WorkerOptions

if TYPE_CHECKING:
    from rich.console import Console

    from covis.engines.options import Sparsity
    from covis.runtime.photos.selection import Selection
    from covis.runtime.pipeline import Pipeline, StageProgress
    from covis.runtime.scene.scene import Scene, SparsityReport


PLAIN: Final[dict[str, Any]] = {"highlight": False, "markup": False, "soft_wrap": True}
"""Options of a line for the console that may contain a name of the user's."""


@dataclass(frozen=True)
class RunCommand:
    """Reconstruct a folder of photos.

    Attributes:
        bundle: Bundle to run: a folder that `covis export` wrote.
        photos: Folder of photos and videos, or the files themselves.
        out: Folder to write the scene to; it must not exist yet.
        force: Replace the output folder if covis wrote everything in it.
        choice: Photos and video frames to take, and pixels to leave out.
        scene: Cameras, frame of the world and masks.
        output: Contents of the output folder.
        collection: Parts of a collection that is too large for one run.
        workers: Number and place of the workers that run the parts.
        run: How the stages run, and in which backend; the result is the same up to rounding.
        sparsity: Selector options for this run; options that are not given keep the bundle's
            values.
    """

    bundle: BundlePath
    photos: Photos
    out: Path
    force: bool = False
    choice: PhotoArguments = field(default_factory=PhotoOptions)
    scene: SceneArguments = field(default_factory=SceneOptions)
    output: OutputArguments = field(default_factory=OutputOptions)
    collection: CollectionArguments = field(default_factory=CollectionOptions)
    workers: WorkerArguments = field(default_factory=WorkerOptions)
    run: RunArguments = field(default_factory=RunOptions)
    sparsity: SparsityArguments = field(default_factory=SparsityChanges)

    def __post_init__(self) -> None:
        if not self.workers.alone and not self.collection.requested:
            raise user_error(
                "run the parts of a collection",
                where="--workers and --ray",
                hint="add --part-views or --memory, or use `covis batch` for several scenes",
            )


def run(command: RunCommand) -> None:
    """Run the pipeline, write the scene, and print what the selector kept."""
    from rich.console import Console

    from covis.commands.run_collection import run_collection, views_of_a_part
    from covis.engines.schedule import check_schedule
    from covis.runtime.photos.selection import select_photos
    from covis.runtime.pipeline import load
    from covis.runtime.scene.writers import check_output

    console = Console(stderr=True)
    check_output(command.out, command.output, force=command.force)
    with console.status("checking the bundle"):
        pipeline = load(command.bundle, command.run)
    sparsity = command.sparsity.apply(pipeline.bundle.manifest.sparsity)
    check_schedule(sparsity, pipeline.bundle.manifest.model.global_layers)
    most = views_of_a_part(command, pipeline.bundle, sparsity)
    with progress_bar(console) as progress:
        selection = select_photos(named(command.photos), command.choice, progress)
        if most is not None and len(selection.photos) > most:
            files = run_collection(command, pipeline, selection, sparsity, most, progress, console)
        else:
            files = _run_once(command, pipeline, selection, sparsity, progress, console)
    for path in shown(files):
        print(path)


def _run_once(
    command: RunCommand,
    pipeline: Pipeline,
    selection: Selection,
    sparsity: Sparsity,
    progress: StageProgress,
    console: Console,
) -> list[Path]:
    """Reconstruct all photos together, write the scene, and return its files."""
    from covis.engines.bundle.pixel_rule import size_warning
    from covis.runtime.scene.writers import check_inputs, write
    from covis.runtime.scene.writers.space import check_space

    rule, depth = pipeline.bundle.manifest.pixel_rule, pipeline.bundle.manifest.model.global_layers
    images = selection.load(rule, progress)
    early = (*images.notes, size_warning(rule, images.sizes))
    warn(console, [note for note in early if note])
    console.print(f"{len(images)} views: {plan(sparsity, len(images), depth)}", **PLAIN)
    check_inputs(command.out, [*images.paths, *images.mask_paths])
    check_space(command.out, len(images), images.uint8.shape[2:], command.output)
    scene = pipeline(images, sparsity=sparsity, progress=progress, scene_options=command.scene)
    progress("writing", 0, 1)
    written = write(scene, command.out, command.output, force=command.force)
    progress("writing", 1, 1)
    notes = dict.fromkeys([*pipeline.notes, *written.notes])
    warn(console, [note for note in notes if note not in images.notes])
    report = scene.sparsity
    assert report is not None
    console.print(f"{_views(scene)}: {computed(report, len(scene))}", **PLAIN)
    if report.attention_mass is not None and report.layers:
        mass = ", ".join(f"{share:.1%}" for share in report.attention_mass.mean(axis=1))
        console.print(f"attention mass on kept blocks, by sparse layer: {mass}", **PLAIN)
    return written.files


def _views(scene: Scene) -> str:
    """Return the number of views, and how many of them are in the output where not all are."""
    kept = int(scene.usable_cameras().sum())
    return f"{len(scene)} views" if kept == len(scene) else f"{kept} of {len(scene)} views"


def shown(files: Iterable[Path]) -> list[Path]:
    """Return files, with a folder in place of those that have one file for each view."""
    each = ("images", "masks", "depth", "photos")
    return list(dict.fromkeys(f.parent if f.parent.name in each else f for f in files))


def named(photos: tuple[Path, ...]) -> Path | tuple[Path, ...]:
    """Return what the command line names: one folder or file, or a list of files."""
    return photos[0] if len(photos) == 1 else photos


def warn(console: Console, notes: Iterable[str]) -> None:
    """Print notes for the user, a line each."""
    for note in notes:
        console.print(printable(note), style="yellow", markup=False, soft_wrap=True)


def plan(sparsity: Sparsity, views: int, depth: int) -> str:
    """Return the selector of a run to come, why `auto` chose it, and the regimes of the layers."""
    from covis.engines.regime import format_schedule
    from covis.engines.schedule import layer_regimes, reason, resolve

    chosen = resolve(sparsity, views)
    schedule = format_schedule(layer_regimes(chosen, depth))
    return _selection(chosen.selector, reason(sparsity, views), schedule)


def computed(report: SparsityReport, views: int) -> str:
    """Return what a run computed: its plan, the share of attention, and the pairs of saliency."""
    chosen = _selection(report.selector, report.reason, report.schedule)
    share = f"{chosen}; {report.attention_work:.1%} of dense global attention"
    if "saliency" not in report.schedule:
        return share
    return f"{share}, {report.kept_pairs} of {views**2} pairs of views"


def _selection(selector: str, why: str, schedule: str) -> str:
    name = f"{selector} ({why})" if why else selector
    return name if selector == "dense" else f"{name}: layers {schedule.replace(':', ' ')}"


@contextmanager
def progress_bar(console: object) -> Iterator[StageProgress]:
    """Show one progress bar for each stage; a bar appears when its stage begins.

    Yields:
        A function to call with the name of a stage, the frames done and all frames.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    assert isinstance(console, Console)
    tasks: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console) as bars:

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield progress
