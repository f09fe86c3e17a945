"""`scene.glb`: point cloud and frusta of the cameras, for any glTF viewer."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

_UNSIGNED_SHORT = 5123  # glTF's componentType
_UNLIT = "KHR_materials_unlit"


def _linear_of_srgb() -> NDArray[np.uint16]:
    """Return 16-bit linear values of the 256 sRGB values (IEC 61966-2-1)."""
    c = np.arange(256) / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return np.rint(linear * 65_535.0).astype(np.uint16)


_LINEAR = _linear_of_srgb()


def write_glb(folder: SceneFolder) -> list[Path]:
    """Write points in the photos' colours, and frusta from red (view 0) to violet (last view).

    At most a million points, evenly sampled. Axes are turned to glTF's; lengths are the scene's.
    Colours are linear, in 16 bits, and not lit.
    """
    with signals_deferred():
        import trimesh
        from trimesh.exchange.gltf import export_glb
        from trimesh.path.entities import Line

    scene = folder.scene
    xyz, rgb, *_ = folder.cloud(MAX_POINTS)
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
    path.write_bytes(export_glb(gltf, buffer_postprocessor=_linear_colours))
    return [path]


def _linear_colours(buffers: Any, tree: dict[str, Any]) -> None:
    """Replace 8-bit sRGB vertex colours by 16-bit linear ones, and mark the materials as not lit.

    glTF 2.0, section 3.7.2.1: COLOR_0 is linear. trimesh writes the bytes of its colours there.
    """
    accessors, stored = list(tree["accessors"].values()), list(buffers)
    primitives = [primitive for mesh in tree["meshes"] for primitive in mesh["primitives"]]
    for index in {primitive["attributes"]["COLOR_0"] for primitive in primitives}:
        accessor = accessors[index]
        key = stored[accessor["bufferView"]]
        rgba = np.frombuffer(buffers[key], np.uint8).reshape(-1, 4)
        linear = _LINEAR[rgba]
        linear[:, 3] = 65_535
        buffers[key] = linear.tobytes()
        accessor["componentType"] = _UNSIGNED_SHORT
        accessor["min"], accessor["max"] = linear.min(axis=0).tolist(), linear.max(axis=0).tolist()
    tree["materials"] = [{**one, "extensions": {_UNLIT: {}}} for one in tree["materials"]]
    tree["extensionsUsed"] = [_UNLIT]


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
