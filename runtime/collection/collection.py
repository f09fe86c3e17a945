"""From the photos of a large collection to scenes: describe, cut, run the parts, join them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from covis.engines.errors import numerics_error
from covis.engines.options import Sparsity
from covis.engines.version import __version__
from covis.runtime.collection.assemble import assemble
from covis.runtime.collection.cut import cut, shared_views
from covis.runtime.collection.descriptors import describe
from covis.runtime.collection.neighbours import sparse
from covis.runtime.collection.options import CollectionOptions
from covis.runtime.collection.parts import Cut
from covis.runtime.collection.run_part import PartRuns, PartTask, part_options
from covis.runtime.collection.run_parts import OnEvent, run_parts
from covis.runtime.collection.work_folder import WorkFolder
from covis.runtime.photos.selection import Selection
from covis.runtime.photos.video import VideoFrame
from covis.runtime.pipeline import Pipeline, StageProgress
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.scene import Scene
from covis.runtime.workers.options import WorkerOptions

FORMAT = 1
"""Version of the folder of an unfinished collection."""


@dataclass(frozen=True)
class Collection:
    """Result of a collection.

    Attributes:
        scenes: Scenes of photos that are connected, the largest first. Their maps of pixels are
            memory-mapped files of the folder of parts: use them before it is removed.
        notes: Lines for the user.
    """

    scenes: tuple[Scene, ...]
    notes: tuple[str, ...]


@contextmanager
def reconstruct_collection(
    pipeline: Pipeline,
    selection: Selection,
    folder: Path,
    part_views: int,
    options: CollectionOptions | None = None,
    *,
    sparsity: Sparsity | None = None,
    scene_options: SceneOptions | None = None,
    workers: WorkerOptions | None = None,
    progress: StageProgress | None = None,
    on_event: OnEvent | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Iterator[Collection]:
    """Reconstruct a collection of photos in parts, and yield its scenes.

    Cameras and descriptors of all photos are in memory, and pixels of one part. Everything that is
    finished is in `folder`, where an interrupted run goes on. At the end of the block it is
    removed, unless the block fails or the options keep it.

    Args:
        pipeline: Pipeline of the bundle.
        selection: Photos of the collection.
        folder: Folder for finished parts.
        part_views: Largest number of views of a part.
        options: Overlap and order of the parts, and what becomes of the folder.
        sparsity: Selector options of each part's run; by default those of the bundle.
        scene_options: Shared cameras, frame of the world and masks.
        workers: Number and place of the workers that run the parts; this process by default.
        progress: Called with the name of a step or a stage, what is done, and all.
        on_event: Called at each step of a worker's part.
        on_note: Called with the division of the collection, as soon as it is known.

    Raises:
        CovisError: A photo or an option is at fault or has changed, no part has finite numbers, or
            the machine lacks something.
    """
    options, workers = options or CollectionOptions(), workers or WorkerOptions()
    # Options and SciPy are checked before hours of work.
    shared_views(part_views, options.overlap)
    sparse()
    sparsity = sparsity or pipeline.bundle.manifest.sparsity
    scene_options = scene_options or SceneOptions()
    report = progress or (lambda stage, done, total: None)
    ordered = _one_video(selection) if options.ordered is None else options.ordered
    runs = PartRuns(
        pipeline.bundle.path,
        pipeline.bundle.digest(),
        pipeline.options,
        sparsity,
        part_options(scene_options),
    )
    facts = _facts(runs, selection, part_views, options.overlap, ordered)
    with WorkFolder(folder, facts, restart=options.restart) as work:
        described = describe(pipeline, selection, work.path, progress=report)
        photos = described.selection
        division = work.cut()
        if division is None:
            division = cut(
                described.descriptors, part_views, ordered=ordered, overlap=options.overlap
            )
            work.save_cut(division)
        if on_note is not None:
            on_note(_division(division, len(photos.photos)))
        tasks = [
            PartTask(number, photos.take(part.views))
            for number, part in enumerate(division.parts)
            if not work.has(number)
        ]
        failed = run_parts(pipeline, tasks, work, runs, workers, report, on_event)
        if len(failed) == len(division.parts):
            raise numerics_error(
                f"no part has finite results; the first: {next(iter(failed.values()))}",
                where=folder,
                hint="check the weights (`covis inspect`)",
            )
        found = assemble(work, division, photos, scene_options, failed, report)
        yield Collection(found.scenes, (*photos.notes, *found.notes))
        if not options.keep_parts:
            work.remove()


def _one_video(selection: Selection) -> bool:
    """Return whether all photos are frames of one video."""
    videos = {p.path if isinstance(p, VideoFrame) else None for p in selection.photos}
    return len(videos) == 1 and None not in videos


def _facts(
    runs: PartRuns, selection: Selection, part_views: int, overlap: int | None, ordered: bool
) -> dict[str, Any]:
    """Return what the results depend on, under the names that an error gives."""
    masks = [str(path) for path in selection.mask_paths if path is not None]
    return {
        "format": FORMAT,
        "version of covis": __version__,
        "bundle": runs.digest,
        "masks of photos": hashlib.sha256(json.dumps(masks).encode()).hexdigest(),
        "--part-views": part_views,
        "--overlap": overlap,
        "--ordered": ordered,
        "selector options": asdict(runs.sparsity),
        "pixels left out": asdict(runs.scene),
        "backend": runs.run.backend.backend,
    }


def _division(cut: Cut, photos: int) -> str:
    """Return the line about the parts of a collection."""
    sizes = [len(part) for part in cut.parts]
    loops = sum(link.kind == "loop" for link in cut.links)
    scenes = len(set(cut.scene.tolist()))
    apart = "" if scenes == 1 else f" in {scenes} scenes that share nothing"
    return (
        f"{photos:,} photos in {len(sizes)} parts of {min(sizes)} to {max(sizes)} views{apart}, "
        f"{len(cut.links) - loops} links and {loops} more that close loops"
    )
