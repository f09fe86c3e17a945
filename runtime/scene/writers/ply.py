"""`points.ply`: point cloud in binary little endian, with colour and confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from covis.runtime.scene.writers.folder import SceneFolder

_VERTEX = np.dtype(
    [("xyz", "<f4", 3), ("rgb", "u1", 3), ("confidence", "<f4")],
)


def write_ply(folder: SceneFolder) -> list[Path]:
    """Write points unprojected from depth, in the scene's world frame (OpenCV axes) and units.

    More points than the options allow are thinned evenly, in the order of views and pixel rows.
    """
    limit, samples = folder.options.max_points, folder.samples
    xyz, rgb, conf, *_ = samples.thin(limit) if limit else samples
    vertices = np.empty(len(xyz), _VERTEX)
    vertices["xyz"], vertices["rgb"], vertices["confidence"] = xyz, rgb, conf
    properties = [
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {colour}" for colour in ("red", "green", "blue")),
        "property float confidence",
    ]
    unit = "metres" if folder.scene.metric else "of the scene's own scale"
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment covis; OpenCV axes (x right, y down, z forward); units {unit}",
        f"element vertex {len(vertices)}",
        *properties,
        "end_header\n",
    ]
    path = folder.place / "points.ply"
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(vertices.tobytes())
    return [path]
