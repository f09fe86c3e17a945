"""Scene of a rendered room, with true cameras and depth, and confidences of its own."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from covis.runtime.scene.scene import Scene
from covis.synthetic import RenderedScene, SceneSpec, build, camera_path, render

SIZE = (28, 42)


@lru_cache(maxsize=2)
def _rendered(views: int) -> RenderedScene:
    world = build(SceneSpec(1_000_003, "studio"))
    return render(world, camera_path(world, views), *SIZE, shadows=False)


def rendered_scene(views: int = 6, **changes: Any) -> Scene:
    """Return `views` views of 28 x 42 pixels; the world is the room's, in metres."""
    truth = _rendered(views)
    K = np.broadcast_to(truth.intrinsics, (views, 3, 3)).astype(np.float64)
    fields: dict[str, Any] = {
        "names": tuple(f"{i:03d}.png" for i in range(views)),
        "extrinsics": np.asarray(truth.extrinsics, np.float64),
        "intrinsics": K,
        "intrinsics_original": np.diag([2.0, 2.0, 1.0]) @ K,
        "image_size": SIZE,
        "original_sizes": np.tile(2 * np.array(SIZE), (views, 1)),
        "images": np.rint(truth.images * 255).astype(np.uint8),
        "depth": truth.depth.astype(np.float32),
        "depth_conf": np.random.default_rng(0).uniform(1, 9, (views, *SIZE)).astype(np.float32),
        "valid": np.random.default_rng(1).uniform(size=(views, *SIZE)) < 0.9,
        "metric": True,
    }
    return Scene(**{**fields, **changes})


def mapped(scene: Scene, folder: Path) -> Scene:
    """Return the same scene with its large arrays in files that are memory-mapped."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for name in ("images", "depth", "depth_conf", "valid"):
        np.save(folder / f"{name}.npy", getattr(scene, name))
        arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return replace(scene, **arrays)
