"""`covis run`: photos to a scene."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from covis.engines.errors import CovisError, user_error
from covis.engines.options import BackendOptions, SparsityChanges

if TYPE_CHECKING:
    from covis.engines.options import Sparsity
    from covis.runtime.pipeline import Progress
    from covis.runtime.scene.scene import SparsityReport

Format = Literal["npz", "ply", "glb", "colmap", "nerfstudio", "saliency", "html"]


@dataclass(frozen=True)
class RunCommand:
    """Reconstruct a folder of photos.

    Attributes:
        bundle: a folder made by `covis export`.
        photos: a folder of photos, or the files themselves.
        out: folder to write, which must not exist yet.
        formats: what to write.
        conf_percentile: leave this share, in percent, of the least confident points out of clouds.
        chunk: frames that encoder and heads take at once; bounds their memory.
        threads: of ONNX Runtime; 0 takes every core.
        kernel: use the CPU kernel of the ops where it was built.
        probes: measure on this many queries which share of attention mass the selector keeps.
        force: replace an existing output folder.
        where: the backend that the stages run in.
        sparsity: selector options for this run; those not given are the bundle's own.
    """

    bundle: tyro.conf.Positional[Path]
    photos: tyro.conf.Positional[tuple[Path, ...]]
    out: Path
    formats: tuple[Format, ...] = (
        *("npz", "ply", "glb", "colmap", "nerfstudio", "saliency", "html"),
    )
    conf_percentile: float = 20.0
    chunk: int = 2
    threads: int = 0
    kernel: bool = True
    probes: int = 0
    force: bool = False
    where: Annotated[BackendOptions, tyro.conf.arg(name="")] = field(default_factory=BackendOptions)
    sparsity: Annotated[SparsityChanges, tyro.conf.arg(name="")] = field(
        default_factory=SparsityChanges
    )

    def __post_init__(self) -> None:
        # The writers would refuse it too, but only after the work.
        if not 0.0 <= self.conf_percentile <= 100.0:
            raise user_error(
                f"{self.conf_percentile} is not in [0, 100]",
                where="--conf-percentile",
                hint="give a share in percent",
            )


def run(command: RunCommand) -> None:
    """Run the pipeline, write the scene, and say what came out."""
    from rich.console import Console

    from covis.engines.bundle.pixel_rule import size_warning
    from covis.engines.errors import printable
    from covis.engines.options import RunOptions
    from covis.runtime.photos.images import find_images, photo_sizes
    from covis.runtime.pipeline import load
    from covis.runtime.scene.writers import check_output, write

    console = Console(stderr=True)
    check_output(command.out, command.formats, force=command.force)
    options = RunOptions(
        command.chunk, command.threads, command.kernel, command.probes, command.where
    )
    with console.status("checking the bundle"):
        pipeline = load(command.bundle, options)
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
    """What the selector kept, in its own unit: frame pairs, blocks, or blocks inside pairs."""
    layers = f"in {len(report.layers)} sparse layers"
    pairs = f"{report.kept_pairs} of {views**2} pairs kept ({report.relative_blocks:.1%})"
    if sparsity.selector not in ("pooled", "both") or not report.kept_blocks.size:
        return f"{pairs} {layers}"
    blocks = f"{float(report.kept_blocks.mean()):.1%} of all blocks kept {layers}"
    return blocks if sparsity.selector == "pooled" else f"{pairs}, {blocks}"


@contextmanager
def progress_bar(console: object) -> Iterator[Progress]:
    """A bar a stage; stages appear as they begin."""
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
