"""`transforms.json`: cameras for nerfstudio and Instant-NGP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from covis.runtime.scene import geometry
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.folder import IMAGES, SceneFolder

POINTS = "points.ply"


def write_nerfstudio(folder: SceneFolder) -> list[Path]:
    """Write camera-to-world matrices with OpenGL axes, in pixels of the files in `images/`.

    All paths are relative to the folder. `ply_file_path` is the cloud that splatting starts from.
    Masks and depth images are named where they stand in the folder, so they are written before.
    """
    poses = opengl_poses(folder.scene)
    content: dict[str, Any] = {"camera_model": "OPENCV", "ply_file_path": POINTS}
    if "depth" in folder.facts:
        content["depth_unit_scale_factor"] = folder.facts["depth"]["unit"]
    content["frames"] = [_frame(folder, view, pose) for view, pose in enumerate(poses)]
    path = folder.place / "transforms.json"
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
    return [path]


def opengl_poses(scene: Scene) -> Float64:
    """Return camera-to-world matrices (M, 4, 4) of cameras with y up that look along -z."""
    poses = np.tile(np.eye(4), (len(scene), 1, 1))
    poses[:, :3] = geometry.invert_rigid(scene.extrinsics)
    poses[:, :3, 1:3] *= -1  # flips the camera's y and z axes; the world stays as it is
    return poses


def _frame(folder: SceneFolder, view: int, pose: Float64) -> dict[str, Any]:
    K = folder.frames.intrinsics[view]
    height, width = folder.frames.sizes[view].tolist()
    frame = {
        "file_path": f"{IMAGES}/{folder.frames.names[view]}",
        "transform_matrix": pose.tolist(),
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "w": width,
        "h": height,
    }
    for key, name in (
        ("mask_path", folder.mask_name(view)),
        ("depth_file_path", folder.depth_name(view)),
    ):
        if (folder.place / name).is_file():
            frame[key] = name
    return frame
