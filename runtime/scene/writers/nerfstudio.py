"""`transforms.json`: cameras as nerfstudio and Instant-NGP read them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from covis.runtime.scene import geometry
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.ply import write_ply


def write_nerfstudio(scene: Scene, folder: Path, conf_percentile: float) -> list[Path]:
    """Camera-to-world matrices with OpenGL axes (y up, looking along -z), in original pixels.

    Files are named relative to the folder where their place is known, else as `images/NAME`.
    The point cloud in `points.ply` is referred to, for splatting, and written if it is not there.
    """
    poses = np.tile(np.eye(4), (len(scene), 1, 1))
    poses[:, :3] = geometry.invert_rigid(scene.extrinsics)
    poses[:, :3, 1:3] *= -1  # the camera's y and z axes; the world stays as it is
    frames = []
    for i in range(len(scene)):
        K = scene.intrinsics_original[i].astype(float)
        height, width = (int(n) for n in scene.original_sizes[i])
        frames.append(
            {
                "file_path": _file_path(scene, i, folder),
                "transform_matrix": poses[i].tolist(),
                "fl_x": K[0, 0],
                "fl_y": K[1, 1],
                "cx": K[0, 2],
                "cy": K[1, 2],
                "w": width,
                "h": height,
            }
        )
    written: list[Path] = []
    if not (folder / "points.ply").exists():
        written += write_ply(scene, folder, conf_percentile)
    content: dict[str, Any] = {
        "camera_model": "OPENCV",
        "ply_file_path": "points.ply",
        "frames": frames,
    }
    path = folder / "transforms.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return [path, *written]


def _file_path(scene: Scene, view: int, folder: Path) -> str:
    photo = scene.paths[view] if scene.paths is not None else None
    if photo is None:
        return f"images/{scene.names[view]}"
    # `folder` is the final folder's sibling until it is renamed: relative paths hold for both.
    return Path(os.path.relpath(photo, folder)).as_posix()
