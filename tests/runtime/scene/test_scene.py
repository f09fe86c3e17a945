"""Scene: shapes, points from depth, selection by confidence."""

from __future__ import annotations

import numpy as np
import pytest

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError
from covis.runtime.scene import geometry
from tests.runtime.scene.random_scene import random_scene


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extrinsics", np.zeros((3, 4, 4))),
        ("intrinsics", np.zeros((2, 3, 3))),
        ("depth", np.zeros((3, 28, 41))),
        ("images", np.zeros((3, 28, 42, 3), np.uint8)),
        ("similarity", np.zeros((3, 2))),
        ("pair_levels", np.zeros((3, 3), np.int8)),
        ("pair_levels", np.zeros((2, 3, 4), np.int8)),
        ("pair_levels", np.zeros((0, 3, 3), np.int8)),
        ("valid", np.zeros((3, 28, 42), np.uint8)),
        ("paths", (None,)),
        ("shared_cameras", np.zeros(2, np.int64)),
    ],
)
def test_wrong_shapes_are_named(field: str, value: object) -> None:
    with pytest.raises(CovisError, match=rf"^Scene\.{field}: "):
        random_scene(**{field: value})


def test_the_map_that_all_sparse_layers_share() -> None:
    dense, own = np.full((3, 3), 2, np.int8), 2 * np.eye(3, dtype=np.int8)
    few = own.copy()
    few[:, 0] = 2

    def shared(maps: list[np.ndarray], layers: list[int]) -> np.ndarray | None:
        return random_scene(pair_levels=np.stack(maps), layer_map=np.array(layers)).pair_level

    np.testing.assert_array_equal(shared([dense], [0, 0]), dense)
    np.testing.assert_array_equal(shared([own], [0, 0]), own)
    np.testing.assert_array_equal(shared([dense, own], [0, 1, 0]), own)
    np.testing.assert_array_equal(shared([own, few], [1, 1]), few)  # no layer takes the other
    assert shared([own, few], [0, 1]) is None
    assert random_scene(pair_levels=None, layer_map=None).pair_level is None


def test_same_name_twice() -> None:
    with pytest.raises(CovisError, match="same name"):
        random_scene(names=("a", "b", "a"))


def test_points_reproject_onto_their_own_pixels() -> None:
    scene = random_scene()
    grid = geometry.pixel_centers(28, 42).reshape(-1, 2)
    world = scene.points_from_depth()
    for i in range(3):
        uv, z = geometry.project(world[i].reshape(-1, 3), scene.intrinsics[i], scene.extrinsics[i])
        np.testing.assert_allclose(uv, grid, atol=1e-4)
        np.testing.assert_allclose(z, scene.depth[i].ravel(), rtol=1e-5)


def test_intrinsics_in_original_pixels_see_the_same_points() -> None:
    scene = random_scene(rule=PixelRule("mapanything", 28, 42))
    s = scene.point_samples()
    from covis.runtime.photos.preprocess import transform_for

    for i, size in enumerate(scene.original_sizes):
        mine = s.view == i
        uv, _ = geometry.project(s.xyz[mine], scene.intrinsics_original[i], scene.extrinsics[i])
        t = transform_for(PixelRule("mapanything", 28, 42), *(int(n) for n in size))
        np.testing.assert_allclose(uv, t.pixels_to_original(s.pixel[mine]), atol=1e-6)


def test_point_cloud_is_valid_finite_and_coloured() -> None:
    scene = random_scene(rule=PixelRule("vggt_pad", 42, 42))
    assert not scene.valid.all()
    depth = scene.depth.copy()
    depth[0, 20, 5:8] = (np.nan, np.inf, -1)
    scene = random_scene(rule=PixelRule("vggt_pad", 42, 42), depth=depth)
    s = scene.point_samples()
    assert scene.valid[0, 20, 5:8].all() and len(s.xyz) == scene.valid.sum() - 3
    assert np.isfinite(s.xyz).all()
    v, u = (s.pixel[:, 1] - 0.5).astype(int), (s.pixel[:, 0] - 0.5).astype(int)
    assert scene.images is not None and scene.depth_conf is not None
    np.testing.assert_array_equal(s.rgb, scene.images[s.view, :, v, u])
    np.testing.assert_array_equal(s.conf, scene.depth_conf[s.view, v, u])
    as_float = random_scene(
        rule=PixelRule("vggt_pad", 42, 42), depth=depth, images=scene.images / np.float32(255)
    )
    np.testing.assert_array_equal(as_float.point_samples().rgb, s.rgb)


def test_confidence_filters() -> None:
    scene = random_scene()
    assert scene.depth_conf is not None
    everything = scene.point_cloud()[2]
    kept = scene.point_cloud(percentile=30)[2]
    assert len(kept) == pytest.approx(0.7 * len(everything), abs=2)
    assert kept.min() >= np.percentile(everything, 30) - 1e-6
    assert scene.point_cloud(min_conf=5)[2].min() >= 5
    assert len(scene.point_cloud(min_conf=100)[0]) == 0
    assert len(scene.point_cloud(stride=2)[0]) == 3 * 14 * 21
    with pytest.raises(CovisError, match=r"--conf-percentile: 101 is not in"):
        scene.point_cloud(percentile=101)
    with pytest.raises(CovisError, match="stride"):
        scene.point_cloud(stride=0)
    with pytest.raises(CovisError, match="source: 'cloud' is unknown"):
        scene.point_cloud(source="cloud")  # type: ignore[arg-type]


def test_points_of_the_models_own_head() -> None:
    with pytest.raises(CovisError, match="no points of its own"):
        random_scene().point_cloud(source="points")
    points = np.random.default_rng(1).normal(size=(3, 28, 42, 3)).astype(np.float32)
    points[1, 2, 3] = np.nan
    xyz, _, conf = random_scene(points=points).point_cloud(source="points")
    assert len(xyz) == 3 * 28 * 42 - 1
    np.testing.assert_array_equal(xyz[:42], points[0, 0])
    assert (conf == 1).all()


def test_unusable_cameras_give_no_points() -> None:
    scene = random_scene()
    K = scene.intrinsics.copy()
    K[1, 0, 0] = np.inf
    scene = random_scene(intrinsics=K)
    assert scene.usable_cameras().tolist() == [True, False, True]
    assert set(scene.point_samples().view) == {0, 2}
    assert np.isnan(scene.points_from_depth()[1]).all()


def test_select_takes_the_same_views_everywhere() -> None:
    scene = random_scene(views=4)
    part = scene.select(np.array([2, 0]))
    assert part.names == ("002.jpg", "000.jpg")
    np.testing.assert_array_equal(part.depth, scene.depth[[2, 0]])
    assert scene.similarity is not None and part.similarity is not None
    assert part.similarity[0, 1] == scene.similarity[2, 0]
    assert part.provenance == scene.provenance


def test_camera_centers() -> None:
    scene = random_scene()
    expected = -np.einsum("mji,mj->mi", scene.extrinsics[..., :3], scene.extrinsics[..., 3])
    np.testing.assert_allclose(scene.camera_centers(), expected)


def test_a_confidence_that_is_no_number_is_refused() -> None:
    """No point would reach it, and the cloud would be empty without a word."""
    with pytest.raises(CovisError, match="min_conf: is not a number"):
        random_scene().point_cloud(min_conf=float("nan"))


def test_views_have_a_camera_each_unless_they_share_one() -> None:
    np.testing.assert_array_equal(random_scene().camera_groups(), [0, 1, 2])
    same = np.array([0, 1, 0, 3])
    scene = random_scene(views=4)
    cameras = {
        name: getattr(scene, name)[same]
        for name in ("intrinsics", "intrinsics_original", "original_sizes")
    }
    shared = random_scene(views=4, shared_cameras=np.array([3, 5, 3, 9]), **cameras)
    np.testing.assert_array_equal(shared.camera_groups(), [0, 1, 0, 2])
    np.testing.assert_array_equal(shared.select(np.array([3, 2, 0])).camera_groups(), [1, 0, 0])


@pytest.mark.parametrize("part", ["intrinsics", "intrinsics_original", "original_sizes"])
def test_views_of_one_camera_do_not_differ_in_it(part: str) -> None:
    """The writers would give all of them the camera of the first."""
    scene = random_scene(views=2)
    cameras = {
        name: getattr(scene, name)[[0, 0]]
        for name in ("intrinsics", "intrinsics_original", "original_sizes")
        if name != part
    }
    with pytest.raises(CovisError, match=f"shared_cameras: puts views together .* in {part}$"):
        random_scene(views=2, shared_cameras=np.zeros(2, np.int64), **cameras)
