"""`transforms.json`: cameras for nerfstudio and Instant-NGP."""

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
    """Write camera-to-world matrices with OpenGL axes (y up, looking along -z), original pixels.

    Photos from files are named relative to the folder, others `images/NAME`. The file refers to the
    point cloud `points.ply`, for splatting, which is written if it is missing.
    """
    poses = np.tile(np.eye(4), (len(scene), 1, 1))
    poses[:, :3] = geometry.invert_rigid(scene.extrinsics)
    poses[:, :3, 1:3] *= -1  # flips the camera's y and z axes; the world stays as it is
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
    # `folder` is a sibling of the final folder until it is renamed, so relative paths fit both.
    return Path(os.path.relpath(photo, folder)).as_posix()
