"""`scene.glb`: point cloud and frusta of the cameras, for any glTF viewer."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np

from covis.engines.system.signals import signals_deferred
from covis.runtime.scene import geometry
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.folder import SceneFolder

MAX_POINTS = 1_000_000  # browsers turn no more smoothly; the PLY has all points

# glTF is y up, looking along -z; the scene is OpenCV's y down, along +z: a half turn about x.
_TO_GLTF = np.diag([1.0, -1.0, -1.0])
# Corners 0 to 3 and the centre 4, drawn in one stroke over all eight edges.
_STROKE = (0, 1, 2, 3, 0, 4, 1, 2, 4, 3)


def write_glb(folder: SceneFolder) -> list[Path]:
    """Write points in the photos' colours, and frusta from red (view 0) to violet (last view).

    At most a million points, evenly sampled. Axes are turned to glTF's; lengths are the scene's.
    """
    with signals_deferred():
        import trimesh
        from trimesh.path.entities import Line

    scene = folder.scene
    xyz, rgb, *_ = folder.samples.thin(MAX_POINTS)
    gltf = trimesh.Scene()
    if len(xyz):
        gltf.add_geometry(trimesh.PointCloud(xyz @ _TO_GLTF, colors=rgb), geom_name="points")
    corners = frusta(scene, xyz)
    lines = []
    for i in range(len(scene)):
        line = Line(np.array(_STROKE) + 5 * i)
        hue = 0.8 * i / max(len(scene) - 1, 1)
        line.color = [*(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 1.0, 0.9)), 255]
        lines.append(line)
    path3d = trimesh.path.Path3D(
        entities=lines, vertices=corners.reshape(-1, 3) @ _TO_GLTF, process=False
    )
    gltf.add_geometry(path3d, geom_name="cameras")
    path = folder.place / "scene.glb"
    path.write_bytes(gltf.export(file_type="glb"))
    return [path]


def frusta(scene: Scene, xyz: Float64) -> Float64:
    """Return the world points (M, 5, 3) of each image's four corners and of the camera centre.

    The image plane is at a depth that makes a frustum about a twentieth of the scene's size.
    """
    centers = scene.camera_centers()
    everything = np.concatenate([centers, xyz[:: max(len(xyz) // 10_000, 1)]])
    low, high = np.percentile(everything, [5, 95], axis=0)
    size = float(np.linalg.norm(high - low)) or 1.0
    H, W = scene.image_size
    pixels = np.array([[0, 0], [W, 0], [W, H], [0, H]], np.float64)
    focal = scene.intrinsics[:, [0, 1], [0, 1]].astype(np.float64)
    half_diagonal = np.hypot(W / 2 / focal[:, 0], H / 2 / focal[:, 1])
    depth = 0.05 * size / np.maximum(half_diagonal, 1.0)
    corners = geometry.unproject(
        np.broadcast_to(pixels, (len(scene), 4, 2)),
        np.repeat(depth[:, None], 4, axis=1),
        scene.intrinsics,
        scene.extrinsics,
    )
    return np.concatenate([corners, centers[:, None]], axis=1)
