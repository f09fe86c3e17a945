"""`scene.glb` as pygltflib and trimesh read it: positions, and linear colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pygltflib
import trimesh

from tests.runtime.scene.globe import RADIUS, colours
from tests.runtime.scene.readers.written import Written


def read(gltf: pygltflib.GLTF2, index: int) -> Any:
    """Return an accessor's values, by the specification of glTF 2.0."""
    accessor = gltf.accessors[index]
    view = gltf.bufferViews[accessor.bufferView]
    kind = {5121: "<u1", 5123: "<u2", 5126: "<f4"}[accessor.componentType]
    width = {"VEC3": 3, "VEC4": 4}[accessor.type]
    start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
    values = np.frombuffer(gltf.binary_blob(), kind, accessor.count * width, start)
    return values.reshape(-1, width)


def test_colours_are_linear_and_16_bit(written: Written) -> None:
    gltf = pygltflib.GLTF2().load(str(written.place / "scene.glb"))
    points, cameras = (mesh.primitives[0] for mesh in gltf.meshes)
    xyz = read(gltf, points.attributes.POSITION).astype(float) * [1, -1, -1]
    np.testing.assert_allclose(np.linalg.norm(xyz, axis=1), RADIUS, atol=1e-5)
    for primitive in (points, cameras):
        accessor = gltf.accessors[primitive.attributes.COLOR_0]
        assert accessor.componentType == pygltflib.UNSIGNED_SHORT and accessor.normalized
        assert "KHR_materials_unlit" in gltf.materials[primitive.material].extensions
    linear = read(gltf, points.attributes.COLOR_0)
    assert (linear[:, 3] == 65535).all()
    # Displays encode linear light as sRGB; what they show must be the photos' colours.
    shown = srgb(linear[:, :3] / 65535) * 255
    assert np.abs(shown - colours(xyz)).mean() < 1.5
    assert np.abs(linear[:, :3] / 257 - colours(xyz)).mean() > 20  # what was written before
    # The frustum of the first view is red, 0.9 bright in sRGB.
    first = srgb(read(gltf, cameras.attributes.COLOR_0)[0, :3] / 65535)
    np.testing.assert_allclose(first, [0.9, 0, 0], atol=0.003)


def srgb(linear: Any) -> Any:
    low, high = 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, low, high)


def test_one_scene_does_not_change_the_library(written: Written) -> None:
    """The materials that are marked as not lit are ours alone, not trimesh's own default."""
    cloud = trimesh.Scene(trimesh.PointCloud(np.eye(3), colors=np.full((3, 3), 7, np.uint8)))
    assert b"KHR_materials_unlit" not in cloud.export(file_type="glb")
