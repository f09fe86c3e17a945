"""Camera geometry: identities that hold for every rotation, pose and camera."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from covis.runtime.scene import geometry as g

SEEDS = st.integers(0, 2**32 - 1)


def random_pose(rng: np.random.Generator, *shape: int) -> g.Float64:
    rotation = g.quaternion_to_rotation(rng.normal(size=(*shape, 4)))
    return np.concatenate([rotation, rng.normal(scale=3.0, size=(*shape, 3, 1))], axis=-1)


def test_quarter_turn_about_z_moves_x_to_y() -> None:
    rotation = g.quaternion_to_rotation([0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-15)


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_quaternions_there_and_back(seed: int) -> None:
    q = np.random.default_rng(seed).normal(size=(7, 4))
    rotation = g.quaternion_to_rotation(q)
    np.testing.assert_allclose(
        rotation @ rotation.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (7, 3, 3)), atol=1e-13
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-13)
    unit = q / np.linalg.norm(q, axis=-1, keepdims=True)
    back = g.rotation_to_quaternion(rotation)
    assert (back[:, 3] >= 0).all()
    np.testing.assert_allclose(back, np.where(unit[:, 3:] < 0, -unit, unit), atol=1e-12)


def test_half_turns_keep_their_accuracy() -> None:
    half_turns = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.6, 0.8, 0, 1e-9]], float)
    rotation = g.quaternion_to_rotation(half_turns)
    again = g.quaternion_to_rotation(g.rotation_to_quaternion(rotation))
    np.testing.assert_allclose(again, rotation, atol=1e-14)


def test_zero_quaternion_is_nan_not_a_rotation() -> None:
    assert np.isnan(g.quaternion_to_rotation(np.zeros(4))).any()


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_rigid_motions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_pose(rng, 5), random_pose(rng, 5)
    identity = np.broadcast_to(np.eye(3, 4), (5, 3, 4))
    np.testing.assert_allclose(g.compose_rigid(a, g.invert_rigid(a)), identity, atol=1e-12)
    np.testing.assert_allclose(g.compose_rigid(g.relative_pose(a, b), a), b, atol=1e-12)
    centers = g.camera_centers(a)
    np.testing.assert_allclose((a[..., :3] @ centers[..., None] + a[..., 3:]), 0, atol=1e-12)


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_unproject_then_project_is_the_same_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    poses = random_pose(rng, 3)
    K = np.zeros((3, 3, 3))
    K[:, 0, 0], K[:, 1, 1], K[:, 2, 2] = rng.uniform(50, 2000, 3), rng.uniform(50, 2000, 3), 1
    K[:, 0, 1], K[:, :2, 2] = rng.normal(size=3), rng.uniform(0, 500, (3, 2))
    pixels = rng.uniform(0, 600, (3, 40, 2))
    depth = rng.uniform(0.1, 20, (3, 40))
    back, z = g.project(g.unproject(pixels, depth, K, poses), K, poses)
    np.testing.assert_allclose(back, pixels, atol=1e-6)
    np.testing.assert_allclose(z, depth, rtol=1e-9)


def test_pixel_centers() -> None:
    grid = g.pixel_centers(2, 3)
    assert grid.shape == (2, 3, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5] and grid[1, 2].tolist() == [2.5, 1.5]
