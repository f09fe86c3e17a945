"""`covis run` of a collection that is cut into parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from covis.commands.run import PLAIN
from covis.engines.errors import printable, user_error

if TYPE_CHECKING:
    from rich.console import Console

    from covis.commands.run import RunCommand
    from covis.engines.bundle.bundle import Bundle
    from covis.engines.options import Sparsity
    from covis.runtime.photos.selection import Selection
    from covis.runtime.pipeline import Pipeline, StageProgress
    from covis.runtime.workers.crew import Event


def views_of_a_part(command: RunCommand, bundle: Bundle, sparsity: Sparsity) -> int | None:
    """Return the largest number of views of one run; None where the command sets no limit.

    Raises:
        CovisError: Not even a small part fits into the memory, or the backend has no estimate.
    """
    from covis.runtime.collection.options import part_views_for
    from covis.runtime.run_memory import RunMemory

    options = command.collection
    if options.memory is None:
        return options.part_views
    if command.run.backend.backend not in ("cpu", "tensorrt"):
        raise user_error(
            f"there is no estimate for {command.run.backend.backend}",
            where="--memory",
            hint="give --part-views",
        )
    return part_views_for(RunMemory(bundle, command.run, sparsity), options.memory)


def run_collection(
    command: RunCommand,
    pipeline: Pipeline,
    selection: Selection,
    sparsity: Sparsity,
    part_views: int,
    progress: StageProgress,
    console: Console,
) -> list[Path]:
    """Run the parts of a collection, join and write them, and return the files.

    Raises:
        CovisError: A photo, an option or the machine is at fault; what is finished is kept for the
            next run.
    """
    from covis.runtime.collection.collection import reconstruct_collection
    from covis.runtime.scene.writers import check_inputs, write_scenes
    from covis.runtime.scene.writers.space import check_space

    rule, count = pipeline.bundle.manifest.pixel_rule, len(selection.photos)
    check_inputs(command.out, [*selection.paths, *selection.mask_paths])
    check_space(command.out, count, (rule.height, rule.width), command.output)
    folder = command.collection.parts or command.out.with_name(command.out.name + ".parts")

    def lost(event: Event[Any]) -> None:
        if event.kind == "lost":
            then = "it is done again" if event.again else "it is given up"
            console.print(
                f"part {event.task.number + 1}: its worker died ({event.how}); {then}",
                style="yellow",
                **PLAIN,
            )

    with reconstruct_collection(
        pipeline,
        selection,
        folder,
        part_views,
        command.collection,
        sparsity=sparsity,
        scene_options=command.scene,
        workers=command.workers,
        progress=progress,
        on_event=lost,
        on_note=lambda note: console.print(printable(note), **PLAIN),
    ) as collection:
        progress("writing", 0, 1)
        written = write_scenes(collection.scenes, command.out, command.output, force=command.force)
        progress("writing", 1, 1)
    for note in (*collection.notes, *written.notes):
        console.print(printable(note), style="yellow", **PLAIN)
    return written.files
