"""Adjust a decoded scene: shared cameras, the world at the first view, masks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.runtime.photos.names import shortened
from covis.runtime.scene import geometry
from covis.runtime.scene.edges import surface_edges
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.scene import Scene

_THREADS = 8  # each with the arrays of one view


def adjust(scene: Scene, options: SceneOptions, model: str) -> Scene:
    """Return the scene with these options applied, and notes on what they changed.

    Args:
        scene: Scene as it was decoded.
        options: Changes to make.
        model: Name of the model, which decides about masks that the options leave open.
    """
    edges, min_conf = options.masks(model)
    scene = mask(scene, edges=edges, min_conf=min_conf)
    if options.shared_camera:
        scene = share_cameras(scene)
    if options.world == "view0":
        scene = move_world(scene, view=0)
    used = {**asdict(options), "mask_edges": edges, "min_conf": min_conf}
    return replace(scene, provenance={**scene.provenance, "scene": used})


def mask(scene: Scene, *, edges: bool, min_conf: float | None) -> Scene:
    """Mark pixels of little confidence and, with `edges`, at edges of surfaces as not valid.

    Edges are found in the model's own points, or in its depth where it has none, among the pixels
    that are sure enough.
    """
    valid = scene.valid
    if min_conf is not None and scene.depth_conf is not None:
        valid = valid & (scene.depth_conf >= min_conf)
    if edges:
        points = scene.points_from_depth() if scene.points is None else scene.points
        with ThreadPoolExecutor(_THREADS, "covis-edges") as pool:
            found = list(pool.map(surface_edges, points, scene.depth, valid))
        valid = valid & ~np.stack(found)
    before, after = int(scene.valid.sum()), int(valid.sum())
    if before == after:
        return scene
    reasons = ["edges of surfaces (--no-mask-edges keeps them)"] if edges else []
    if min_conf is not None:
        reasons.append(f"confidence below {min_conf:g} (--min-conf)")
    note = f"{1 - after / before:.1%} of the valid pixels are left out: {', '.join(reasons)}"
    return _noted(scene, note, valid=valid)


def share_cameras(scene: Scene) -> Scene:
    """Give the views whose photos have one size one camera.

    Focal lengths and principal points are medians over the views with usable cameras. Depth, poses
    and the model's own points stay; points from depth move with the rays of their pixels. A view
    whose own focal length is not finite gets the shared camera, too.
    """
    _, sizes = np.unique(scene.original_sizes, axis=0, return_inverse=True)
    sizes = sizes.reshape(-1)  # NumPy 2.0 returns (M, 1)
    usable = scene.usable_cameras()
    camera = len(scene) + np.arange(len(scene))  # of its own, where no view has a usable camera
    shared = {name: getattr(scene, name).copy() for name in ("intrinsics", "intrinsics_original")}
    for size in np.unique(sizes[usable]):
        views = sizes == size
        camera[views] = size
        for array in shared.values():
            # Medians of model and of original pixels agree: an affine map lies between the two.
            array[views] = np.median(array[views & usable], axis=0)
    note = _change(scene.intrinsics_original[usable], shared["intrinsics_original"][usable])
    cameras = len(np.unique(camera))
    text = (
        f"{len(scene)} views share {cameras} camera{'s' * (cameras > 1)}, one for each photo size"
    )
    return _noted(scene, text + note, shared_cameras=camera, **shared)


def move_world(scene: Scene, view: int) -> Scene:
    """Make the camera frame of a view the world: transform all poses and points rigidly.

    A view without a finite camera has no frame; then the world stays, with a note.
    """
    to_view = scene.extrinsics[view]
    if not np.isfinite(to_view).all():
        name = shortened(scene.names[view])
        return _noted(scene, f"the world stays the model's, because {name} has no finite camera")
    extrinsics = geometry.compose_rigid(scene.extrinsics, geometry.invert_rigid(to_view))
    extrinsics[view] = np.eye(3, 4)
    points = scene.points
    if points is not None:
        moved = (p @ to_view[:, :3].T + to_view[:, 3] for p in points)
        points = np.stack([p.astype(points.dtype) for p in moved])
    return replace(scene, extrinsics=extrinsics, points=points)


def _change(own: NDArray[Any], shared: NDArray[Any]) -> str:
    """Return how far the cameras (N, 3, 3) of the views are from the shared ones."""
    if not len(own):
        return ""
    focal = own[:, [0, 1], [0, 1]] / shared[:, [0, 1], [0, 1]] - 1.0
    center = np.linalg.norm((own - shared)[:, :2, 2], axis=1)
    return (
        f"; their own focal lengths differ from it by up to {np.abs(focal).max():.1%}, their "
        f"principal points by up to {center.max():.3g} pixels of the photo"
    )


def _noted(scene: Scene, note: str, **changes: Any) -> Scene:
    return replace(scene, notes=(*scene.notes, note), **changes)
