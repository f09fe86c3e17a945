"""Drift: 0 for equal results whatever their gauge, the right size for a known change, never NaN."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from covis.engines.errors import CovisError
from covis.evaluation.compare.scenes import scene_errors
from covis.evaluation.metrics.drift import Drift, drift, scene_drift
from tests.runtime.scene.random_scene import random_scene

Array = NDArray[Any]
VIEWS = 4


def rotation(axis: tuple[float, float, float], degrees: float) -> Array:
    """Rotation about an axis, by Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = np.radians(degrees)
    turn: Array = np.eye(3) + np.sin(a) * cross + (1 - np.cos(a)) * cross @ cross
    return turn


def result(views: int = VIEWS, seed: int = 0) -> tuple[Array, Array]:
    """Cameras (M, 3, 4) and depths (M, 5, 6) in [2, 4] at random."""
    rng = np.random.default_rng(seed)
    turns = [rotation(tuple(rng.normal(size=3)), rng.uniform(0, 180)) for _ in range(views)]
    cameras = np.concatenate([np.stack(turns), rng.normal(size=(views, 3, 1))], axis=2)
    return cameras, rng.uniform(2, 4, (views, 5, 6))


def measure(cameras: Array, depth: Array, reference: tuple[Array, Array], **more: Any) -> Drift:
    return drift(
        cameras, depth, reference_extrinsics=reference[0], reference_depth=reference[1], **more
    )


@pytest.mark.parametrize("views", [1, 2, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", [False, True])
def test_equal_results_have_exactly_no_drift(views: int, dtype: Any, metric: bool) -> None:
    cameras, depth = (a.astype(dtype) for a in result(views))
    found = measure(cameras, depth, (cameras.copy(), depth.copy()), metric=metric)
    assert found.pose_deg == found.depth_rel == found.depth_rel_p99 == 0.0
    assert found.scale == 1.0 and found.non_finite == 0
    assert found.within(0.0, 0.0) and found.over(1e-9, 1e-9) == 0.0


def moved(cameras: Array, depth: Array, scale: float) -> tuple[Array, Array]:
    """The same result in another world: rotated, shifted, scaled."""
    turn, shift = rotation((1, 2, 3), 77), np.array([3.0, -2.0, 9.0])
    r = cameras[:, :, :3] @ turn.T
    t = scale * cameras[:, :, 3] - r @ shift
    return np.concatenate([r, t[:, :, None]], axis=2), scale * depth


@pytest.mark.parametrize("scale", [1.0, 2.5, 1e-4])
def test_the_gauge_is_no_drift(scale: float) -> None:
    reference = result()
    found = measure(*moved(*reference, scale), reference)
    assert found.pose_deg < 1e-5 and found.depth_rel < 1e-9
    assert found.scale == pytest.approx(1 / scale)


def test_the_scale_of_a_metric_result_is_drift() -> None:
    reference = result()
    found = measure(*moved(*reference, 1.03), reference, metric=True)
    assert found.scale == 1.0 and found.rotation_deg < 1e-5
    assert found.depth_rel == pytest.approx(0.03)
    assert found.shift_deg > 0.1


@pytest.mark.parametrize("angle", [1e-5, 0.05, 0.5, 20.0, 179.0])
def test_a_turned_camera(angle: float) -> None:
    cameras, depth = result()
    turned = cameras.copy()
    turned[2] = rotation((0, 0, 1), angle) @ turned[2]  # about its own centre
    found = measure(turned, depth, (cameras, depth))
    assert found.rotation_deg == pytest.approx(angle, rel=1e-6)
    assert found.rotation_deg_mean == pytest.approx(angle / 2)  # half of the six pairs
    assert found.rotation_view == 2 and found.depth_rel == 0.0
    assert found.pose_deg == max(found.rotation_deg, found.shift_deg)


def test_a_shifted_camera_is_an_angle_at_the_median_depth() -> None:
    cameras, _ = result()
    depth = np.full((VIEWS, 5, 6), 2.0)
    shifted = cameras.copy()
    shifted[1, :, 3] += [0.02, 0.0, 0.0]
    found = measure(shifted, depth, (cameras, depth))
    assert found.rotation_deg == 0.0
    assert found.pose_deg == found.shift_deg == pytest.approx(np.degrees(np.arctan(0.01)))


def test_depth_drift_is_the_mean_of_the_worst_view() -> None:
    cameras, depth = result(5)
    changed = depth.copy()
    changed[3] *= 1.07
    changed[1, 0, 0] *= 1e6  # one pixel of 30 counts as 1, however far off it is
    found = measure(cameras, changed, (cameras, depth))
    assert found.scale == 1.0
    assert found.depth_rel == pytest.approx(0.07) and found.depth_view == 3
    assert found.depth_rel_mean == pytest.approx((0.07 + 1 / 30) / 5)
    half = depth.copy()
    half[0, :2] *= 3  # 12 of 30 pixels, which a median would not show
    assert measure(cameras, half, (cameras, depth)).depth_rel == pytest.approx(12 / 30)


def test_only_valid_pixels_with_a_depth_are_judged() -> None:
    cameras, depth = result()
    reference = depth.copy()
    reference[0, 0, 0], reference[0, 0, 1] = 0.0, np.nan
    changed = depth.copy()
    changed[1, 2:] *= 7
    valid = np.ones(depth.shape, bool)
    valid[1, 2:] = False
    found = measure(cameras, changed, (cameras, reference), valid=valid)
    assert found.depth_rel == 0.0 and found.within(0.0, 0.0)


def test_what_is_not_finite_is_reported_and_never_accepted() -> None:
    cameras, depth = result()
    broken = cameras.copy()
    broken[1] = np.nan
    found = measure(broken, depth, (cameras, depth))
    assert (found.rotation_deg, found.shift_deg, found.non_finite) == (180.0, 90.0, 1)
    holes = depth.copy()
    holes[2, 0, :3] = np.nan, np.inf, -np.inf
    with_holes = measure(cameras, holes, (cameras, depth))
    assert with_holes.non_finite == 3 and with_holes.depth_rel == pytest.approx(3 / 30)
    alone = measure(broken[1:2], depth[1:2], (cameras[1:2], depth[1:2]))  # no pair shows it
    assert alone.non_finite == 1
    for each in (found, with_holes, alone):
        assert not each.within(1e9, 1e9) and each.over(1e9, 1e9) == np.inf


def test_without_a_pixel_to_judge_by_there_is_no_verdict() -> None:
    cameras, depth = result()
    found = measure(cameras, depth, (cameras, depth), valid=np.zeros(depth.shape, bool))
    assert np.isnan(found.depth_rel) and not found.within(1e9, 1e9)
    assert found.over(1e9, 1e9) == np.inf


def test_a_depth_of_another_sign_is_wholly_wrong() -> None:
    cameras, depth = result()
    assert measure(cameras, -depth, (cameras, depth)).depth_rel == 1.0


def test_other_shapes_are_refused() -> None:
    cameras, depth = result()
    with pytest.raises(ValueError, match="against"):
        measure(cameras, depth, (cameras[1:], depth[1:]))


def test_scenes_are_compared_where_the_reference_is_valid() -> None:
    scene = random_scene(4)
    assert scene_drift(scene, scene).within(0.0, 0.0)
    blind = replace(scene, valid=np.zeros_like(scene.valid), depth=2 * scene.depth[::-1])
    assert scene_drift(blind, scene).depth_rel > 0.1
    with pytest.raises(CovisError, match="not of the same photos"):
        scene_drift(scene, random_scene(5))


def test_the_report_names_views_and_is_json() -> None:
    scene = random_scene(3)
    depth = scene.depth.copy()
    depth[1] *= 1.5
    found = scene_errors(replace(scene, depth=depth), scene).as_dict()
    assert found["depth_view"] == scene.names[1] and found["focal_rel"] == 0.0
    nothing = replace(scene, valid=np.zeros_like(scene.valid))
    text = json.dumps(scene_errors(scene, nothing).as_dict(), allow_nan=False)
    assert json.loads(text)["depth_rel"] is None
