"""Models' raw outputs in the project's conventions: poses, focal lengths, depth, points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation

from covis.export.models.stages import stages
from covis.runtime.scene import from_heads as decode
from covis.runtime.scene import geometry
from covis.runtime.scene.scene import Scene
from tests.export.models.parity import recorded_model
from tests.export.onnx_chain import controls
from tests.golden_data import golden, golden_json

CONFIGS = ["vggt_a1", "pi3_a1", "mapanything_a1", "mapanything_a2"]


def recorded_scene(config: str) -> tuple[Scene, dict[str, Any]]:
    """A recorded case through the torch stages and the decoder, as a scene."""
    name = config.split("_", maxsplit=1)[0]
    model = recorded_model(name, config)
    images = load_file(golden(golden_json(f"{config}.json")["cases"][1]["file"]))["images"][0]
    views, _, height, width = images.shape
    values: dict[str, Any] = {"images": images}
    for key, value in controls(model, views, height // 14 * (width // 14)).items():
        values[key] = torch.from_numpy(value)
    with torch.inference_mode():
        for stage in stages(model, height, width):
            if stage.name == "aggregator_pooled":
                continue
            outputs = stage.module(*(values[port.name] for port in stage.inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            values.update(zip((port.name for port in stage.outputs), outputs, strict=True))
    arrays = {key: value.numpy() for key, value in values.items()}
    fields = decode._DECODERS[name](arrays, (height, width))
    mask = fields.pop("mask", np.ones((views, height, width), bool))
    fields.pop("fit", None)
    scene = Scene(
        names=tuple(f"view {i}" for i in range(views)),
        image_size=(height, width),
        original_sizes=np.tile([height, width], (views, 1)),
        intrinsics_original=fields["intrinsics"],
        valid=mask,
        **fields,
    )
    return scene, arrays


@pytest.mark.parametrize("config", CONFIGS)
def test_points_reproject_onto_their_own_pixels(config: str) -> None:
    scene, _ = recorded_scene(config)
    centres = geometry.pixel_centers(*scene.image_size).reshape(-1, 2)
    depth = scene.depth.reshape(len(scene), -1).astype(np.float64)
    # In float64, as the writers do it: random rays make cameras of almost 180 degrees, where the
    # last digit of a float32 world point is more than a thousandth of a pixel.
    camera = scene.intrinsics, scene.extrinsics
    points = geometry.unproject(
        np.broadcast_to(centres, (len(scene), *centres.shape)), depth, *camera
    )
    pixels, seen_depth = geometry.project(points, *camera)
    sized = np.abs(depth) > 1e-6
    assert sized.mean() > 0.99
    assert np.abs(pixels - centres)[sized].max() < 1e-3
    np.testing.assert_allclose(seen_depth, depth, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("config", ["pi3_a1", "mapanything_a1", "mapanything_a2"])
def test_world_points_are_the_local_points_moved_by_the_pose(config: str) -> None:
    scene, values = recorded_scene(config)
    local = values.get("local_points")
    if local is None:
        local = values["ray_directions"] * values["depth_along_ray"]
    assert scene.points is not None
    flat = scene.points.reshape(len(scene), -1, 3).astype(np.float64)
    rotation, translation = scene.extrinsics[:, :, :3], scene.extrinsics[:, :, 3]
    back = flat @ rotation.transpose(0, 2, 1) + translation[:, None]
    np.testing.assert_allclose(back, local.reshape(flat.shape), atol=1e-4)
    np.testing.assert_array_equal(scene.depth, local[..., 2])


@pytest.mark.parametrize("config", CONFIGS)
def test_rotations_are_rotations(config: str) -> None:
    rotation = recorded_scene(config)[0].extrinsics[:, :, :3]
    product = rotation @ rotation.transpose(0, 2, 1)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=9, max_size=9))
def test_nearest_rotation_of_anything_is_a_rotation_or_none(numbers: list[float]) -> None:
    rotation = decode.nearest_rotation(np.array(numbers).reshape(1, 3, 3))[0]
    if np.isnan(rotation).any():
        assert np.isnan(rotation).all()
        return
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((3, 3)),
        np.ones((3, 3)),
        np.diag([1.0, 1.0, -1.0]),
        -np.eye(3),
        np.eye(3)[[1, 0, 2]],
    ],
    ids=["zero", "rank one", "mirror", "inversion", "swap"],
)
def test_matrices_without_a_nearest_rotation_give_none(matrix: np.ndarray) -> None:
    good = Rotation.random(rng=2).as_matrix()
    rotation = decode.nearest_rotation(np.stack([matrix, good]))
    assert np.isnan(rotation[0]).all()
    np.testing.assert_allclose(rotation[1], good)


def test_nearest_rotation_is_the_nearest() -> None:
    """No rotation of a dense sample is nearer to the matrix with unit rows."""
    rng = np.random.default_rng(0)
    noisy = Rotation.random(rng=1).as_matrix() + 0.2 * rng.normal(size=(3, 3))
    rows = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    ours = decode.nearest_rotation(noisy[None])[0]
    around = Rotation.from_matrix(ours) * Rotation.from_rotvec(rng.normal(size=(2000, 3)) * 0.05)
    others = np.linalg.norm(around.as_matrix() - rows, axis=(1, 2))
    assert np.linalg.norm(ours - rows) <= others.min()
