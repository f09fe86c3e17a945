"""From finished parts to scenes: each connected group becomes one, with its photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.runtime.collection.joined import Joined, join_parts
from covis.runtime.collection.merge import merge
from covis.runtime.collection.parts import Cut
from covis.runtime.collection.report import collection_notes, collection_record
from covis.runtime.collection.work_folder import WorkFolder
from covis.runtime.photos.selection import Selection
from covis.runtime.pipeline import StageProgress
from covis.runtime.scene.adjust import move_world, share_cameras
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.scene import Scene

# Smallest number of views of a scene: one view shows no motion of the camera.
_FEWEST_VIEWS = 2

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Assembly:
    """Scenes of a collection.

    Attributes:
        scenes: The scenes, the largest first.
        notes: Lines for the user.
    """

    scenes: tuple[Scene, ...]
    notes: tuple[str, ...]


def assemble(
    work: WorkFolder,
    cut: Cut,
    photos: Selection,
    options: SceneOptions,
    failed: Mapping[int, str],
    progress: StageProgress,
) -> Assembly:
    """Join the finished parts, place them, and merge each connected group into one scene.

    Args:
        work: Folder of the collection.
        cut: Its division.
        photos: Its photos.
        options: Shared cameras and frame of the world.
        failed: Why a part has no result, by its number.
        progress: Called with `joining` and `merging`, what is done, and all.

    Raises:
        CovisError: A part's folder is damaged, the disk is full, or nothing connects two photos.
    """
    joined = join_parts(work, cut, failed, progress)
    groups = _groups(joined, len(photos.names))
    if not groups:
        raise user_error(
            f"no two of {len(photos.names)} photos belong together",
            where="photos",
            hint="give photos of one place, or run them one by one",
        )
    stamps = _stamps(joined)
    scenes: list[Scene] = []
    progress("merging", 0, len(groups))
    for component, views in groups:
        members = np.flatnonzero(joined.placement.component == component)
        scene = merge(
            joined.parts.take(members),
            Cut(tuple(joined.cut.parts[m] for m in members), (), joined.cut.scene[members]),
            [joined.placement.similarities[m] for m in members],
            views,
            work.path / f"scene-{len(scenes) + 1:03}",
        )
        scene = _adjusted(_with_photos(scene, photos, views, stamps), options)
        facts = joined.parts[int(members[0])].facts["provenance"]
        record = collection_record(joined, members, len(photos.names))
        scenes.append(replace(scene, provenance={**facts, "collection": record}))
        progress("merging", len(scenes), len(groups))
    inside = np.zeros(len(photos.names), bool)
    for _, views in groups:
        inside[views] = True
    left_out = [name for name, kept in zip(photos.names, inside, strict=True) if not kept]
    return Assembly(tuple(scenes), collection_notes(joined, [len(s) for s in scenes], left_out))


def _groups(joined: Joined, total: int) -> list[tuple[int, Indices]]:
    """Return component and views of each scene, the largest scene first.

    A view belongs to the component of the part whose core it is in; a view of a part without a
    result, to that of the first part that shares it.
    """
    component = np.full(total, -1, np.int64)
    for core in (False, True):  # cores last, because they decide
        for number in reversed(range(len(joined.cut.parts))):
            part = joined.cut.parts[number]
            component[part.views[part.core == core]] = joined.placement.component[number]
    sizes = np.bincount(component[component >= 0])
    largest_first = np.argsort(-sizes, kind="stable").tolist()
    return [
        (c, np.flatnonzero(component == c).astype(np.int64))
        for c in largest_first
        if sizes[c] >= _FEWEST_VIEWS
    ]


def _stamps(joined: Joined) -> dict[int, tuple[int, int] | None]:
    """Return size and time of each photo's file when its part was run, by the photo's index."""
    stamps: dict[int, tuple[int, int] | None] = {}
    for number, part in enumerate(joined.cut.parts):
        for view, stamp in zip(part.views, joined.parts[number].facts["stamps"], strict=True):
            stamps[int(view)] = None if stamp is None else (stamp[0], stamp[1])
    return stamps


def _with_photos(
    scene: Scene,
    photos: Selection,
    views: Indices,
    stamps: Mapping[int, tuple[int, int] | None],
) -> Scene:
    """Return the scene with the photos of its views, which the writers decode at full size."""
    chosen = photos.take(views)
    return replace(
        scene,
        names=chosen.names,
        sources=chosen.photos,
        paths=chosen.paths,
        stamps=tuple(stamps[int(view)] for view in views),
        mask_paths=chosen.mask_paths,
    )


def _adjusted(scene: Scene, options: SceneOptions) -> Scene:
    """Apply the options that concern all views of a scene together; its masks are the parts'."""
    if options.shared_camera:
        scene = share_cameras(scene)
    if options.world == "view0":
        scene = move_world(scene, view=0)
    return scene
