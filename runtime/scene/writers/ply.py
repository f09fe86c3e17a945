"""`points.ply`: point cloud in binary little endian, with colour and confidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.runtime.scene.points import PointSamples
from covis.runtime.scene.writers.folder import SceneFolder

_VERTEX = np.dtype(
    [("xyz", "<f4", 3), ("rgb", "u1", 3), ("confidence", "<f4")],
)


def write_ply(folder: SceneFolder) -> list[Path]:
    """Write points unprojected from depth, in the scene's world frame (OpenCV axes) and units.

    More points than the options allow are thinned evenly, in the order of views and pixel rows; in
    a scene from parts, they are merged first (see `SceneFolder.cloud`). If the options allow any
    number, all points are written as they are, view by view.
    """
    limit, points = folder.options.max_points, folder.points
    if limit:
        cloud = folder.cloud(limit)
        count, blocks = len(cloud.xyz), iter([cloud])
    else:
        count = int(points.counts.sum())
        blocks = (points.view(view) for view in folder.scene.walk())
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
        f"element vertex {count}",
        *properties,
        "end_header\n",
    ]
    path = folder.place / "points.ply"
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        for block in blocks:
            file.write(_vertices(block).tobytes())
    return [path]


def _vertices(points: PointSamples) -> NDArray[Any]:
    vertices = np.empty(len(points.xyz), _VERTEX)
    vertices["xyz"], vertices["rgb"], vertices["confidence"] = points.xyz, points.rgb, points.conf
    return vertices
