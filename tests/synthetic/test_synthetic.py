"""Synthetic scenes: depth, points and cameras agree; backends agree; co-visibility is true."""

from __future__ import annotations

import importlib
from pathlib import Path

import array_api_compat
import numpy as np
import numpy.typing as npt
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
    World,
    build,
    camera_path,
    demo_scene,
    look_at,
    render,
    write_photos,
)
from covis.synthetic.geometry import Groups, Primitives, Shape, nearest, surface

_render = importlib.import_module("covis.synthetic.render")


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


@pytest.mark.parametrize("family", FAMILIES)
def test_single_precision_shows_the_same_scene(family: str) -> None:
    torch = pytest.importorskip("torch")
    world = build(SceneSpec(12, family))  # type: ignore[arg-type]
    cameras = camera_path(world, 3, "walk")
    size = (cameras, 36, 48)
    exact = render(world, *size, supersample=2)
    single = render(world, *size, supersample=2, xp=torch, dtype=torch.float32)
    for name in ("depth", "points", "normals", "intrinsics", "extrinsics"):
        assert getattr(single, name).dtype == torch.float32
        difference = np.abs(getattr(single, name).numpy() - getattr(exact, name))
        assert np.mean(difference > 1e-3) < 2e-3
    assert single.images.dtype == torch.float32
    # Surfaces within rounding of the edge of a brick may show the joint.
    assert np.mean(np.abs(single.images.numpy() - exact.images) > 0.01) < 5e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pass_for_all_views_shows_the_same_scene(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    # On a GPU all rays meet all primitives; on a CPU only those of the rectangles in sight.
    for seed, path in ((13, "arc"), (14, "turn"), (15, "scatter")):
        world = build(SceneSpec(seed, family))  # type: ignore[arg-type]
        cameras = camera_path(world, 3, path)  # type: ignore[arg-type]
        by_view = render(world, cameras, 21, 28, supersample=2, shadows=False)
        with monkeypatch.context() as patch:
            patch.setattr(_render._Tracer, "_on_cpu", lambda self: False)
            at_once = render(world, cameras, 21, 28, supersample=2, shadows=False)
        np.testing.assert_allclose(at_once.depth, by_view.depth, atol=1e-9)
        np.testing.assert_allclose(at_once.normals, by_view.normals, atol=1e-9)
        assert np.mean(np.abs(at_once.images - by_view.images) > 1e-5) < 1e-3


def _distance_to_surfaces(world: World, places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the distance (N,) of places in the world to the nearest primitive, from outside."""
    p = world.primitives
    out = np.full(len(places), np.inf)
    for k in range(len(p.shape)):
        local = places - p.centre[k]
        c, s = np.cos(p.yaw[k]), np.sin(p.yaw[k])
        x, z = c * local[:, 0] - s * local[:, 2], s * local[:, 0] + c * local[:, 2]
        local = np.stack([x, local[:, 1], z], axis=-1)
        beyond: npt.NDArray[np.float64] = np.abs(local) - p.half[k]
        if p.shape[k] == Shape.ROOM:
            distance = -beyond.max(axis=1)
        elif p.shape[k] == Shape.SPHERE:
            distance = np.linalg.norm(local, axis=1) - p.half[k, 0]
        else:
            if p.shape[k] == Shape.CYLINDER:
                beyond = np.stack([np.hypot(x, z) - p.half[k, 0], beyond[:, 1]], axis=-1)
            outside = np.linalg.norm(np.maximum(beyond, 0.0), axis=1)
            distance = outside + np.minimum(beyond.max(axis=1), 0.0)
        out = np.minimum(out, distance)
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_no_camera_is_inside_or_near_a_surface(family: str) -> None:
    for seed in range(25):
        world = build(SceneSpec(seed, family))  # type: ignore[arg-type]
        for path in PATHS:
            pose = camera_path(world, 24, path).extrinsics
            places = -np.einsum("mji,mj->mi", pose[:, :, :3], pose[:, :, 3])
            assert np.min(_distance_to_surfaces(world, places)) > 0.15, (seed, path)


def test_no_wall_is_recognised_by_its_hue() -> None:
    # The mean colour of one wall over scenes: as far apart between scenes as between the walls of
    # one scene, so that a colour says nothing about the wall.
    for family in FAMILIES:
        colours = np.empty((40, 4, 3))
        for seed in range(40):
            world = build(SceneSpec(seed, family))
            faces = world.primitives.material[0][[0, 1, 4, 5]]
            tones = world.materials.palette[faces].mean(axis=1)
            colours[seed] = tones / tones.sum(axis=-1, keepdims=True)
        of_walls = np.max(colours.mean(axis=0).std(axis=0))
        of_scenes = np.min(colours.std(axis=0))
        assert of_walls < 0.6 * of_scenes


def test_objects_stand_close_together_in_a_large_hall() -> None:
    for seed in range(20):
        world = build(SceneSpec(seed, "objects"))
        room, rest = world.primitives.half[0], world.primitives.centre[1:]
        assert np.min(room[[0, 2]]) >= 4.5
        assert np.max(np.linalg.norm(rest[:, [0, 2]], axis=1)) < 1.0 < np.min(world.ring)
        assert len(rest) >= 5


def test_an_arc_is_a_close_orbit() -> None:
    for seed in range(20):
        world = build(SceneSpec(seed, "objects"))
        pose = camera_path(world, 8, "arc").extrinsics
        eye = -np.einsum("mji,mj->mi", pose[:, :, :3], pose[:, :, 3])
        turn = np.unwrap(np.arctan2(eye[:, 2], eye[:, 0]))
        assert 0.05 * np.pi < np.ptp(turn) < 0.55 * np.pi
        towards = world.focus - eye
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        assert (np.sum(pose[:, 2, :3] * towards, axis=1) > np.cos(0.35)).all()


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
    groups = Groups(xp, world.primitives, xp.float64, None).all
    for i, j in ((0, 4), (4, 0), (1, 3)):
        points = scene.points[i].reshape(-1, 3)
        rotation, translation = scene.extrinsics[j, :, :3], scene.extrinsics[j, :, 3]
        local = points @ rotation.T + translation
        pixel = local / local[:, 2:] @ scene.intrinsics[j].T
        inside = (local[:, 2] > 0) & (pixel[:, :2] >= 0).all(1) & (pixel[:, :2] < 40).all(1)
        eye = -rotation.T @ translation
        distance, _ = nearest(xp, groups, tuple(eye[:, None]), tuple((points - eye).T))
        visible = np.mean(inside & (distance > 1 - 1e-6))
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
    rays = tuple(origin.T), tuple(direction.T)
    groups = Groups(xp, primitives, xp.float64, None)
    distance, index = nearest(xp, groups.all, *rays)
    np.testing.assert_allclose(distance[:3], [2.0, 4.0, 2.0])
    assert distance[3] > 1000 and index.tolist()[:3] == [0, 1, 1]
    only, _ = nearest(xp, groups.single[:1], *rays)
    np.testing.assert_array_equal(only[:3] > 1000, [False, True, True])
    hits = surface(xp, primitives.columns(), distance, index, *rays)
    normal = np.stack(hits.normal, axis=-1)
    np.testing.assert_allclose(normal[:3], [[0, 0, -1], [0, 0, 1], [0, -1, 0]], atol=1e-12)
    face, _, _ = hits.coordinates(xp)
    assert face[:3].tolist() == [0, 0, 2]


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
