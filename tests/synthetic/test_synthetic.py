"""Synthetic scenes: depth, points and cameras agree; backends agree; co-visibility is true."""

from __future__ import annotations

from pathlib import Path

import array_api_compat
import numpy as np
import pytest
from PIL import Image

from covis.engines.errors import CovisError
from covis.synthetic import (
    FAMILIES,
    HELD_OUT_SEEDS,
    PATHS,
    TRAINING_SEEDS_START,
    Cameras,
    RenderedScene,
    SceneSpec,
    build,
    camera_path,
    demo_scene,
    look_at,
    render,
    write_photos,
)
from covis.synthetic.geometry import Primitives, Shape, intersect


def _scene(family: str, path: str, views: int = 4, seed: int = 7) -> RenderedScene:
    world = build(SceneSpec(seed, family))  # type: ignore[arg-type]
    return render(world, camera_path(world, views, path), 30, 40)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", PATHS)
def test_points_project_onto_their_own_pixels_at_their_depth(family: str, path: str) -> None:
    scene = _scene(family, path)
    assert np.isfinite(scene.depth).all() and (scene.depth > 0.05).all()
    local = np.einsum("mij,mhwj->mhwi", scene.extrinsics[:, :, :3], scene.points)
    local += scene.extrinsics[:, None, None, :, 3]
    np.testing.assert_allclose(local[..., 2], scene.depth, rtol=0, atol=1e-9)
    pixel = np.einsum("mij,mhwj->mhwi", scene.intrinsics, local / local[..., 2:])
    rows, columns = np.mgrid[:30, :40]
    np.testing.assert_allclose(
        pixel[..., 0], np.broadcast_to(columns + 0.5, (4, 30, 40)), atol=1e-6
    )
    np.testing.assert_allclose(pixel[..., 1], np.broadcast_to(rows + 0.5, (4, 30, 40)), atol=1e-6)
    rotation = scene.extrinsics[:, :, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), [np.eye(3)] * 4, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-12)
    centre = -np.einsum("mji,mj->mi", rotation, scene.extrinsics[:, :, 3])
    towards = np.sum((centre[:, None, None] - scene.points) * scene.normals, axis=-1)
    assert (towards > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_in_range_and_textured(family: str) -> None:
    images = _scene(family, "walk").images
    assert images.dtype == np.float32 and images.shape == (4, 3, 30, 40)
    assert images.min() >= 0 and images.max() <= 1
    assert (images.std(axis=(2, 3)).max(axis=1) > 0.05).all()


def test_numpy_and_torch_agree() -> None:
    torch = pytest.importorskip("torch")
    world = build(SceneSpec(11, "room"))
    cameras = camera_path(world, 3, "orbit")
    a = render(world, cameras, 28, 28, supersample=2)
    b = render(world, cameras, 28, 28, supersample=2, xp=torch)
    np.testing.assert_allclose(a.depth, b.depth.numpy(), atol=1e-9)
    np.testing.assert_allclose(a.points, b.points.numpy(), atol=1e-9)
    np.testing.assert_allclose(a.covisibility, b.covisibility.numpy(), atol=2e-3)
    # A ray within rounding of an edge may take the other side of it.
    assert np.mean(np.abs(a.images - b.images.numpy()) > 1e-5) < 1e-3


def test_a_seed_is_a_scene() -> None:
    first, again, other = (
        _scene("room", "orbit"),
        _scene("room", "orbit"),
        _scene("room", "orbit", seed=8),
    )
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.extrinsics, again.extrinsics)
    assert np.abs(first.images - other.images).mean() > 0.02
    assert HELD_OUT_SEEDS.stop <= TRAINING_SEEDS_START


def test_a_camera_sees_itself_and_not_what_is_behind_it() -> None:
    world = build(SceneSpec(3, "studio"))
    eye = np.array([1.5, -1.4, 0.0])
    poses = np.stack([look_at(eye, np.zeros(3)), look_at(eye, 2 * eye), look_at(eye, np.zeros(3))])
    seen = render(world, Cameras(poses, np.full(3, 1.0)), 32, 32).covisibility
    np.testing.assert_array_equal(np.diag(seen), 1.0)
    assert seen[0, 2] == seen[2, 0] == 1.0
    assert seen[0, 1] == seen[1, 0] == 0.0


def test_covisibility_of_a_turn_is_that_of_the_plane_at_infinity() -> None:
    # A pure rotation has no parallax: the share of view 0 that view 1 sees follows from the
    # homography K R K^-1 alone, whatever the scene.
    world = build(SceneSpec(4, "room"))
    eye = np.array([1.3, -1.4, 1.0])
    poses = np.stack(
        [look_at(eye, eye + np.array([np.sin(a), 0.0, np.cos(a)])) for a in (0.0, 0.5)]
    )
    scene = render(world, Cameras(poses, np.full(2, 1.0)), 40, 40)
    k = scene.intrinsics[0]
    rows, columns = np.mgrid[:40, :40] + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(k).T
    moved = rays @ (poses[1, :, :3] @ poses[0, :, :3].T).T @ k.T
    x, y = moved[..., 0] / moved[..., 2], moved[..., 1] / moved[..., 2]
    expected = np.mean((moved[..., 2] > 0) & (x >= 0) & (x < 40) & (y >= 0) & (y < 40))
    assert scene.covisibility[0, 1] == pytest.approx(expected, abs=0.01)
    assert 0.2 < expected < 0.8


def test_opposite_sides_of_a_loop_do_not_see_each_other() -> None:
    world = build(SceneSpec(5, "loop"))
    seen = render(world, camera_path(world, 16, "loop"), 24, 32).covisibility
    opposite = seen[np.arange(16), (np.arange(16) + 8) % 16]
    assert (opposite == 0).all()
    neighbours = seen[np.arange(16), (np.arange(16) + 1) % 16]
    assert np.median(neighbours) > 0.1


def test_occlusion_is_found_by_casting_a_ray_at_every_point() -> None:
    world = build(SceneSpec(6, "room"))
    scene = render(world, camera_path(world, 5, "orbit"), 40, 40)
    xp = array_api_compat.array_namespace(scene.depth)
    tables = world.primitives.arrays()
    for i, j in ((0, 4), (4, 0), (1, 3)):
        points = scene.points[i].reshape(-1, 3)
        rotation, translation = scene.extrinsics[j, :, :3], scene.extrinsics[j, :, 3]
        local = points @ rotation.T + translation
        pixel = local / local[:, 2:] @ scene.intrinsics[j].T
        inside = (local[:, 2] > 0) & (pixel[:, :2] >= 0).all(1) & (pixel[:, :2] < 40).all(1)
        eye = np.broadcast_to(-rotation.T @ translation, points.shape)
        hit = intersect(xp, world.primitives, tables, eye, points - eye)
        visible = np.mean(inside & (hit.distance > 1 - 1e-6))
        assert scene.covisibility[i, j] == pytest.approx(visible, abs=0.03)


def test_cylinder_and_sphere_distances() -> None:
    primitives = Primitives(
        np.array([Shape.SPHERE, Shape.CYLINDER]),
        np.array([[0.0, 0.0, 5.0], [0.0, 0.0, -5.0]]),
        np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 1.0]]),
        np.array([0.3, 0.0]),
        np.zeros((2, 6), np.int64),
    )
    origin = np.array([[0.0, 0, 0], [0, 0, 0], [0, -4, -5], [0, -2.5, 0]])
    direction = np.array([[0.0, 0, 2], [0, 0, -1], [0, 1, 0], [0, 0, -1]])
    xp = array_api_compat.array_namespace(origin)
    hits = intersect(xp, primitives, primitives.arrays(), origin, direction)
    np.testing.assert_allclose(hits.distance, [2.0, 4.0, 2.0, np.inf])
    np.testing.assert_allclose(hits.normal[:3], [[0, 0, -1], [0, 0, 1], [0, -1, 0]], atol=1e-12)
    assert hits.face[:3].tolist() == [0, 0, 2]


def test_demo_photos_are_written_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    scene = demo_scene(3, 24, 32)
    paths = write_photos(folder, scene, image_format="png")
    assert [p.name for p in paths] == ["view_000.png", "view_001.png", "view_002.png"]
    pixels = np.asarray(Image.open(paths[1]), dtype=np.float64) / 255
    np.testing.assert_allclose(pixels.transpose(2, 0, 1), scene.images[1], atol=0.51 / 255)
    (folder / "view_000.jpg").mkdir()
    with pytest.raises(CovisError, match="cannot write photos"):
        write_photos(folder, scene)


def test_wrong_requests_are_named() -> None:
    with pytest.raises(CovisError, match="no such family"):
        SceneSpec(1, "cave")  # type: ignore[arg-type]
    with pytest.raises(CovisError, match="not negative"):
        SceneSpec(-1)
    world = build(SceneSpec(1))
    with pytest.raises(CovisError, match="no such camera path"):
        camera_path(world, 0)
    with pytest.raises(CovisError, match="positive"):
        render(world, camera_path(world, 1), 0, 8)
