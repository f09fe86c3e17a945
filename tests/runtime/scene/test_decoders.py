"""Decoders on known outputs of each model: right cameras, and none where the outputs have none."""

from __future__ import annotations

import numpy as np
import pytest

from covis.engines.errors import CovisError
from covis.runtime.scene import from_heads as decode
from covis.runtime.scene import geometry
from covis.runtime.scene.scene import Scene

SIZE = 14, 28


def vggt_values(views: int = 2) -> dict[str, np.ndarray]:
    """Outputs of a VGGT bundle without a point head: cameras one unit apart, a plane at depth 2."""
    pose = np.zeros((views, 9), np.float32)
    pose[:, 0] = -np.arange(views)
    pose[:, 6:] = 1.0
    depth = np.full((views, *SIZE), 2.0, np.float32)
    return {"pose_enc": pose, "depth": depth, "depth_conf": np.ones_like(depth)}


def scene_of(model: str, values: dict[str, np.ndarray], size: tuple[int, int] = SIZE) -> Scene:
    """Decoded outputs as a scene of photos that have the model's own size."""
    fields = decode._DECODERS[model](values, size)
    views = len(fields["depth"])
    fields.pop("fit", None)
    valid = np.broadcast_to(fields.pop("mask", np.True_), (views, *size)).copy()
    return Scene(
        names=tuple(f"view {i}" for i in range(views)),
        image_size=size,
        original_sizes=np.tile(size, (views, 1)),
        intrinsics_original=fields["intrinsics"],
        valid=valid,
        **fields,
    )


def test_vggt_without_a_point_head_has_points_from_depth_alone() -> None:
    scene = scene_of("vggt", vggt_values())
    assert scene.points is None
    assert scene.points_conf is None
    xyz, _, _ = scene.point_cloud()
    assert len(xyz) == 2 * SIZE[0] * SIZE[1]
    np.testing.assert_allclose(xyz[:, 2], 2.0)
    with pytest.raises(CovisError, match="no points of its own"):
        scene.point_cloud(source="points")


def pi3_values(views: int = 2) -> dict[str, np.ndarray]:
    """Outputs of pi^3: cameras of focal length 20 at the origin, a plane at depth 2."""
    slope = (geometry.pixel_centers(*SIZE) - (SIZE[1] / 2, SIZE[0] / 2)) / 20.0
    local = 2.0 * np.concatenate([slope, np.ones((*SIZE, 1))], axis=-1)
    return {
        "local_points": np.tile(local.astype(np.float32), (views, 1, 1, 1)),
        "rotation9": np.tile(np.eye(3, dtype=np.float32).reshape(9), (views, 1)),
        "translation": np.zeros((views, 3), np.float32),
        "conf": np.zeros((views, *SIZE, 1), np.float32),
    }


def mapanything_values(
    center: tuple[float, float], focal: float = 20.0, views: int = 2
) -> dict[str, np.ndarray]:
    """Outputs of MapAnything: cameras one metre apart along x, three metres from a sphere."""
    slope = (geometry.pixel_centers(*SIZE) - center) / focal
    rays = np.concatenate([slope, np.ones((*SIZE, 1))], axis=-1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    quaternion = np.tile(np.float32([0, 0, 0, 2]), (views, 1))  # of any length
    translation = np.float32([[i, 0, 0] for i in range(views)])
    return {
        "ray_directions": np.tile(rays.astype(np.float32), (views, 1, 1, 1)),
        "depth_along_ray": np.full((views, *SIZE, 1), 3.0, np.float32),
        "cam_quats": quaternion,
        "cam_trans": translation,
        "conf": np.ones((views, *SIZE), np.float32),
        "non_ambiguous_mask_logits": np.ones((views, *SIZE), np.float32),
    }


def test_depth_and_rays_of_a_shifted_camera_give_the_same_points() -> None:
    """The points lie on the model's own rays only if the principal point is where they have it."""
    scene = scene_of("mapanything", mapanything_values((19.0, 4.5)))
    np.testing.assert_allclose(scene.intrinsics[:, :2, 2], [[19.0, 4.5]] * 2, atol=1e-4)
    np.testing.assert_allclose(scene.intrinsics[:, [0, 1], [0, 1]], 20.0, rtol=1e-5)
    np.testing.assert_allclose(scene.points_from_depth(), scene.points, atol=1e-5)


def test_a_camera_without_rotation_is_no_camera() -> None:
    """A quaternion of zeros, or nine zeros, turn by no rotation; other views keep their cameras."""
    vggt, pi3, mapanything = vggt_values(), pi3_values(), mapanything_values((14.0, 7.0))
    vggt["pose_enc"][1, 3:7] = 0.0
    pi3["rotation9"][1] = 0.0
    mapanything["cam_quats"][1] = 0.0
    for model, values in (("vggt", vggt), ("pi3", pi3), ("mapanything", mapanything)):
        scene = scene_of(model, values)
        np.testing.assert_array_equal(scene.usable_cameras(), [True, False])
        assert set(scene.point_samples().view) == {0}


@pytest.mark.parametrize("degrees", [0.0, 181.0, 400.0])
def test_a_field_of_view_of_no_pinhole_camera(degrees: float) -> None:
    """Its points would be mirrored, or at one place."""
    values = vggt_values()
    values["pose_enc"][0, 7] = np.radians(degrees)
    np.testing.assert_array_equal(scene_of("vggt", values).usable_cameras(), [False, True])


@pytest.mark.parametrize("logit", [-1e4, -800.0, 0.0, 800.0])
def test_confidence_of_any_logit_is_a_probability(logit: float) -> None:
    """Where no point is sure, all of them count in the camera, which is exact."""
    values = pi3_values()
    values["conf"][:] = logit
    scene = scene_of("pi3", values)
    assert scene.depth_conf is not None
    expected = 0.5 if logit == 0 else float(logit > 0)
    np.testing.assert_array_equal(scene.depth_conf, np.float32(expected))
    np.testing.assert_allclose(scene.intrinsics[:, 0, 0], 20.0, rtol=1e-6)


@pytest.mark.parametrize("model", ["vggt", "pi3", "mapanything"])
def test_a_single_view(model: str) -> None:
    values = {
        "vggt": vggt_values(1),
        "pi3": pi3_values(1),
        "mapanything": mapanything_values((14.0, 7.0), views=1),
    }
    scene = scene_of(model, values[model])
    np.testing.assert_allclose(scene.extrinsics[0], np.eye(3, 4), atol=1e-7)
    assert len(scene.point_samples().xyz) == SIZE[0] * SIZE[1]


def test_points_behind_the_camera_are_in_no_cloud() -> None:
    vggt, mapanything = vggt_values(), mapanything_values((14.0, 7.0))
    vggt["depth"][0, 3, 4:7] = (-1.0, 0.0, np.nan)
    mapanything["ray_directions"][0, 3, 4:7, 2] *= -1.0
    for model, values in (("vggt", vggt), ("mapanything", mapanything)):
        scene = scene_of(model, values)
        samples = scene.point_samples()
        assert len(samples.xyz) == 2 * SIZE[0] * SIZE[1] - 3
        assert not ((samples.view == 0) & (samples.pixel[:, 1] == 3.5)
                    & np.isin(samples.pixel[:, 0], (4.5, 5.5, 6.5))).any()  # fmt: skip
