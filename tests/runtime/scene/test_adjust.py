"""Adjusted scenes: shared cameras, the world at the first view, masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError
from covis.runtime.photos.preprocess import transform_for
from covis.runtime.scene import geometry
from covis.runtime.scene.adjust import adjust, mask, move_world, share_cameras
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.scene import Scene
from tests.runtime.scene.random_scene import random_scene

RULE = PixelRule("mapanything", 28, 42)
LANDSCAPE, PORTRAIT = (300, 400), (400, 300)


def photos_of_one_camera(sizes: list[tuple[int, int]], **changes: Any) -> Scene:
    """Scene whose photos have these sizes, and cameras that differ a little from view to view."""
    scene = random_scene(views=len(sizes))
    focal = 350.0 * (1 + np.array([0.0, 0.02, -0.03, 0.01, 0.3]))[: len(sizes)]
    original = np.zeros((len(sizes), 3, 3))
    for i, (height, width) in enumerate(sizes):
        original[i] = [[focal[i], 0, width / 2 + i], [0, focal[i] + 5, height / 2 - i], [0, 0, 1]]
    transforms = [transform_for(RULE, *size) for size in sizes]
    model = [t.to_model(k) for t, k in zip(transforms, original, strict=True)]
    values: dict[str, Any] = {
        "original_sizes": np.array(sizes),
        "intrinsics_original": original,
        "intrinsics": np.stack(model),
        **changes,
    }
    return random_scene(views=len(sizes), depth=scene.depth, **values)


def test_photos_of_one_size_share_the_median_camera() -> None:
    before = photos_of_one_camera([LANDSCAPE] * 5)
    scene = share_cameras(before)
    np.testing.assert_array_equal(scene.camera_groups(), 0)
    np.testing.assert_allclose(scene.intrinsics_original[0, [0, 1], [0, 1]], [353.5, 358.5])
    np.testing.assert_allclose(scene.intrinsics_original[0, :2, 2], [202, 148])
    to_model = transform_for(RULE, *LANDSCAPE).to_model(scene.intrinsics_original)
    np.testing.assert_allclose(scene.intrinsics, to_model)
    assert (scene.intrinsics == scene.intrinsics[0]).all()
    np.testing.assert_array_equal(scene.extrinsics, before.extrinsics)
    np.testing.assert_array_equal(scene.depth, before.depth)
    assert scene.notes == (
        "5 views share 1 camera, one for each photo size; their own focal lengths differ from it "
        "by up to 28.7%, their principal points by up to 2.83 pixels of the photo",
    )


def test_points_lie_on_the_rays_of_the_shared_camera() -> None:
    scene = share_cameras(photos_of_one_camera([LANDSCAPE] * 3))
    s = scene.point_samples()
    for i in range(3):
        mine = s.view == i
        uv, z = geometry.project(s.xyz[mine], scene.intrinsics[0], scene.extrinsics[i])
        np.testing.assert_allclose(uv, s.pixel[mine], atol=1e-6)
        assert (z > 0).all()


def test_sideways_photos_have_a_camera_of_their_own() -> None:
    scene = share_cameras(photos_of_one_camera([LANDSCAPE, PORTRAIT, LANDSCAPE, PORTRAIT]))
    groups = scene.camera_groups()
    assert groups[0] == groups[2] != groups[1] == groups[3]
    for a, b in ((0, 2), (1, 3)):
        np.testing.assert_array_equal(scene.intrinsics[a], scene.intrinsics[b])
    assert not np.allclose(scene.intrinsics[0], scene.intrinsics[1])
    assert "4 views share 2 cameras" in scene.notes[0]


def test_a_view_without_a_focal_length_gets_the_shared_one() -> None:
    before = photos_of_one_camera([LANDSCAPE] * 3)
    intrinsics, original = before.intrinsics.copy(), before.intrinsics_original.copy()
    intrinsics[1], original[1] = np.inf, np.nan
    before = photos_of_one_camera(
        [LANDSCAPE] * 3, intrinsics=intrinsics, intrinsics_original=original
    )
    assert not before.usable_cameras()[1]
    scene = share_cameras(before)
    assert scene.usable_cameras().all()
    np.testing.assert_allclose(scene.intrinsics_original[1, 0, 0], 350 * 0.985)


def test_without_any_camera_nothing_is_shared() -> None:
    nothing = np.full((2, 3, 3), np.nan)
    scene = share_cameras(photos_of_one_camera([LANDSCAPE] * 2, intrinsics=nothing))
    assert not scene.usable_cameras().any()
    np.testing.assert_array_equal(scene.camera_groups(), [0, 1])


@pytest.mark.parametrize("own_points", [True, False])
def test_the_first_view_becomes_the_world(own_points: bool) -> None:
    before = random_scene(views=3)
    points = before.points_from_depth() if own_points else None
    before = random_scene(views=3, points=points)
    scene = move_world(before, view=0)
    np.testing.assert_array_equal(scene.extrinsics[0], np.eye(3, 4))
    for a in range(3):
        for b in range(3):
            np.testing.assert_allclose(
                geometry.relative_pose(scene.extrinsics[a], scene.extrinsics[b]),
                geometry.relative_pose(before.extrinsics[a], before.extrinsics[b]),
                atol=1e-12,
            )
    pixels = geometry.pixel_centers(*scene.image_size).reshape(-1, 2)
    for i in range(3):
        source = "points" if own_points else "depth"
        samples = scene.point_samples(source=source)  # type: ignore[arg-type]
        uv, _ = geometry.project(
            samples.xyz[samples.view == i], scene.intrinsics[i], scene.extrinsics[i]
        )
        np.testing.assert_allclose(uv, pixels[scene.valid[i].ravel()], atol=1e-3)
    assert scene.points is None or scene.points.dtype == np.float32


def test_a_first_view_without_a_camera_leaves_the_world() -> None:
    extrinsics = random_scene().extrinsics.copy()
    extrinsics[0] = np.nan
    before = random_scene(extrinsics=extrinsics)
    scene = move_world(before, view=0)
    np.testing.assert_array_equal(scene.extrinsics, before.extrinsics)
    assert scene.notes == ("the world stays the model's, because 000.jpg has no finite camera",)


def test_little_confidence_is_not_valid() -> None:
    before = random_scene()
    assert before.depth_conf is not None
    scene = mask(before, edges=False, min_conf=3.0)
    np.testing.assert_array_equal(scene.valid, before.valid & (before.depth_conf >= 3.0))
    share = 1 - scene.valid.sum() / before.valid.sum()
    assert scene.notes == (
        f"{share:.1%} of the valid pixels are left out: confidence below 3 (--min-conf)",
    )


def test_edges_are_not_valid() -> None:
    depth = np.full((3, 28, 42), 3.0, np.float32)
    depth[0, :, 20:] = 6.0
    before = random_scene(depth=depth)
    scene = mask(before, edges=True, min_conf=None)
    gone = before.valid & ~scene.valid
    assert gone[0, :, 19:21].sum() == gone.sum() == before.valid[0, :, 19:21].sum()
    assert "--no-mask-edges" in scene.notes[0]


def test_pixels_of_little_confidence_make_no_edge() -> None:
    """A pixel that is masked away is no neighbour, so that its surroundings stay."""
    depth = np.full((3, 28, 42), 3.0, np.float32)
    conf = np.full((3, 28, 42), 9.0, np.float32)
    depth[1, 10, 10], conf[1, 10, 10] = 30.0, 1.0
    before = random_scene(depth=depth, depth_conf=conf)
    scene = mask(before, edges=True, min_conf=2.0)
    assert int(before.valid.sum() - scene.valid.sum()) == 1


def test_nothing_to_mask_is_not_noted() -> None:
    before = random_scene(depth=np.full((3, 28, 42), 3.0, np.float32))
    assert mask(before, edges=True, min_conf=0.5) is before


@pytest.mark.parametrize(
    ("model", "edges", "min_conf"),
    [("vggt", False, None), ("pi3", True, 0.1), ("mapanything", True, None)],
)
def test_masks_are_those_of_the_models_own_code_unless_given(
    model: str, edges: bool, min_conf: float | None
) -> None:
    assert SceneOptions().masks(model) == (edges, min_conf)
    given = SceneOptions(mask_edges=not edges, min_conf=0.25)
    assert given.masks(model) == (not edges, 0.25)
    scene = adjust(random_scene(), SceneOptions(), model)
    assert scene.provenance["scene"] == {
        "shared_camera": False,
        "world": "model",
        "mask_edges": edges,
        "min_conf": min_conf,
    }


def test_all_at_once() -> None:
    options = SceneOptions(shared_camera=True, world="view0", mask_edges=True, min_conf=2.0)
    scene = adjust(photos_of_one_camera([LANDSCAPE] * 3), options, "vggt")
    np.testing.assert_array_equal(scene.camera_groups(), 0)
    np.testing.assert_array_equal(scene.extrinsics[0], np.eye(3, 4))
    assert len(scene.notes) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"world": "view1"}, "--world: 'view1' is unknown"),
        ({"min_conf": float("nan")}, "--min-conf: nan is not finite"),
        ({"min_conf": float("inf")}, "--min-conf: inf is not finite"),
    ],
)
def test_wrong_options(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CovisError, match=words):
        SceneOptions(**changes)
