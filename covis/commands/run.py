"""`covis run`: photos to a scene."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from covis.commands.arguments import BundlePath, Photos, RunArguments, SparsityArguments
from covis.engines.errors import CovisError, user_error
from covis.engines.options import RunOptions, SparsityChanges
from covis.runtime.scene.writers import CONF_PERCENTILE, FORMATS, Format

if TYPE_CHECKING:
    from covis.engines.options import Sparsity
    from covis.runtime.pipeline import StageProgress
    from covis.runtime.scene.scene import SparsityReport


@dataclass(frozen=True)
class RunCommand:
    """Reconstruct a folder of photos.

    Attributes:
        bundle: Bundle to run: a folder that `covis export` wrote.
        photos: Folder of photos, or the photo files themselves.
        out: Folder to write the scene to; it must not exist yet.
        formats: File formats to write; docs/reference/conventions.md has their axes and units.
        conf_percentile: Share of the least confident points, in percent from 0 to 100, to leave
            out of point clouds.
        force: Replace the output folder if covis wrote everything in it.
        run: How the stages run, and in which backend; the result is the same up to rounding.
        sparsity: Selector options for this run; options that are not given keep the bundle's
            values.
    """

    bundle: BundlePath
    photos: Photos
    out: Path
    formats: tuple[Format, ...] = FORMATS
    conf_percentile: float = CONF_PERCENTILE
    force: bool = False
    run: RunArguments = field(default_factory=RunOptions)
    sparsity: SparsityArguments = field(default_factory=SparsityChanges)

    def __post_init__(self) -> None:
        # The writers reject it too, but only after the work.
        if not 0.0 <= self.conf_percentile <= 100.0:
            raise user_error(
                f"{self.conf_percentile} is not in [0, 100]",
                where="--conf-percentile",
                hint="give a share in percent",
            )


def run(command: RunCommand) -> None:
    """Run the pipeline, write the scene, and print what the selector kept."""
    from rich.console import Console

    from covis.engines.bundle.pixel_rule import size_warning
    from covis.engines.errors import printable
    from covis.runtime.photos.images import find_images, photo_sizes
    from covis.runtime.pipeline import load
    from covis.runtime.scene.writers import check_output, write

    console = Console(stderr=True)
    check_output(command.out, command.formats, force=command.force)
    with console.status("checking the bundle"):
        pipeline = load(command.bundle, command.run)
    sparsity = command.sparsity.apply(pipeline.bundle.manifest.sparsity)
    paths = find_images(command.photos[0] if len(command.photos) == 1 else command.photos)
    sizes = photo_sizes(paths)
    with suppress(CovisError):  # a photo that no size suits is named when it is loaded
        if warning := size_warning(pipeline.bundle.manifest.pixel_rule, sizes):
            console.print(printable(warning), style="yellow", markup=False, soft_wrap=True)
    with progress_bar(console) as progress:
        scene = pipeline(paths, sparsity=sparsity, progress=progress)
        progress("writing", 0, 1)
        written = write(
            scene,
            command.out,
            command.formats,
            conf_percentile=command.conf_percentile,
            force=command.force,
        )
        progress("writing", 1, 1)
    for note in pipeline.notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    report = scene.sparsity
    assert report is not None
    console.print(f"{len(scene)} views; {kept_line(report, sparsity, len(scene))}", highlight=False)
    if report.attention_mass is not None and report.layers:
        mass = ", ".join(f"{share:.1%}" for share in report.attention_mass.mean(axis=1))
        console.print(f"attention mass on kept blocks, by sparse layer: {mass}", highlight=False)
    for path in written:
        print(path)


def kept_line(report: SparsityReport, sparsity: Sparsity, views: int) -> str:
    """Return what the selector kept, in its own unit: view pairs, blocks, or blocks in pairs."""
    layers = f"in {len(report.layers)} sparse layers"
    pairs = f"{report.kept_pairs} of {views**2} pairs kept ({report.relative_blocks:.1%})"
    if sparsity.selector not in ("pooled", "both") or not report.kept_blocks.size:
        return f"{pairs} {layers}"
    blocks = f"{float(report.kept_blocks.mean()):.1%} of all blocks kept {layers}"
    return blocks if sparsity.selector == "pooled" else f"{pairs}, {blocks}"


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
