"""`points.ply`: point cloud in binary little endian, with colour and confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from covis.runtime.scene.scene import Scene

_VERTEX = np.dtype(
    [("xyz", "<f4", 3), ("rgb", "u1", 3), ("confidence", "<f4")],
)


def write_ply(scene: Scene, folder: Path, conf_percentile: float) -> list[Path]:
    """Write points unprojected from depth, in the scene's world frame (OpenCV axes) and units."""
    xyz, rgb, conf = scene.point_cloud(percentile=conf_percentile)
    vertices = np.empty(len(xyz), _VERTEX)
    vertices["xyz"], vertices["rgb"], vertices["confidence"] = xyz, rgb, conf
    properties = [
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {colour}" for colour in ("red", "green", "blue")),
        "property float confidence",
    ]
    unit = "metres" if scene.metric else "of the scene's own scale"
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment covis; OpenCV axes (x right, y down, z forward); units {unit}",
        f"element vertex {len(vertices)}",
        *properties,
        "end_header\n",
    ]
    path = folder / "points.ply"
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(vertices.tobytes())
    return [path]
