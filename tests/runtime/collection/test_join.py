"""Joining two parts: exact, against noise, wrong points and wrong views, and where it cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from covis.engines.errors import CovisError
from covis.runtime.collection.join import Junction, relative_similarity
from covis.runtime.collection.stored_part import StoredPart
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.similarity import Similarity
from tests.evaluation.geometry import rotation
from tests.runtime.collection.true_parts import H, W, difference, in_world, some_motion, true_part

ROWS = np.arange(3)


def joined(first: StoredPart, second: StoredPart, views: int = 3) -> Junction:
    rows = np.arange(views)
    return relative_similarity(first, second, rows, rows)


def noisy(part: StoredPart, relative: float, seed: int) -> StoredPart:
    factor = 1 + relative * np.random.default_rng(seed).normal(size=part.depth.shape)
    return replace(part, depth=(part.depth * factor).astype(np.float32))


def with_wrong_points(part: StoredPart, share: float, seed: int) -> StoredPart:
    """Replace the depth of a share of the pixels by anything from a fifth to five times it."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(part.depth.shape) < share
    factor = np.where(wrong, 5.0 ** rng.uniform(-1, 1, part.depth.shape), 1.0)
    return replace(part, depth=(part.depth * factor).astype(np.float32))


def with_wrong_view(part: StoredPart, view: int, seed: int) -> StoredPart:
    """Move one camera and its depth elsewhere."""
    rng = np.random.default_rng(seed)
    extrinsics, depth = part.extrinsics.copy(), np.array(part.depth)
    extrinsics[view, :, :3] = rotation(rng, 0.8) @ extrinsics[view, :, :3]
    extrinsics[view, :, 3] += rng.normal(size=3)
    depth[view] *= 1.6
    return replace(part, extrinsics=extrinsics, depth=depth)


def assert_close(found: Similarity, true: Similarity, relative: float, degrees: float) -> None:
    log_scale, angle, shift = difference(found, true)
    assert log_scale < relative
    assert angle < degrees
    assert float(np.linalg.norm(shift)) < 3 * relative  # the points are 3 away


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("views", [1, 3])
def test_exact_parts_are_joined_exactly(scale: float, views: int) -> None:
    second = true_part(3)
    true = some_motion(1, scale)
    found = joined(in_world(second, true), second, views)
    assert found.sound, found.reason
    assert_close(found.similarity, true, 1e-6, 1e-4)
    assert found.inliers == 1.0
    assert found.residual < 1e-6
    assert found.rotation_deg < 1e-5
    assert found.points > 500 * views


def test_exchanged_parts_give_the_inverse() -> None:
    second = noisy(true_part(3), 0.03, 1)
    first = in_world(noisy(true_part(3), 0.03, 2), some_motion(2))
    there, back = joined(first, second), joined(second, first)
    assert_close(back.similarity, there.similarity.inverse(), 1e-6, 1e-4)


def test_noise_of_depth_and_cameras_averages_out_without_bias_of_the_scale() -> None:
    scales: list[float] = []
    for seed in range(12):
        true = some_motion(seed, 2.0)
        base = true_part(3, seed)
        first = in_world(noisy(base, 0.05, 100 + seed), true)
        rng = np.random.default_rng(seed)
        turned = base.extrinsics.copy()
        for camera in turned:
            camera[:] = rotation(rng, np.radians(0.3)) @ camera
        second = noisy(replace(base, extrinsics=turned), 0.05, 200 + seed)
        found = joined(first, second)
        assert found.sound, found.reason
        assert_close(found.similarity, true, 0.01, 0.8)
        assert 0.02 < found.residual < 0.06
        scales.append(float(np.log(found.similarity.scale / 2.0)))
    # Of a least-squares scale, 5 % of noise would take about the same share in every one of them.
    assert abs(np.mean(scales)) < 0.001


@pytest.mark.parametrize("share", [0.2, 0.4])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_wrong_points_do_no_harm(share: float, noise: float) -> None:
    second = true_part(3)
    true = some_motion(3)
    first = noisy(with_wrong_points(in_world(second, true), share, 5), noise, 6)
    found = joined(first, second)
    assert found.sound, found.reason
    tolerance = 1e-5 if noise == 0.0 else 0.006
    assert_close(found.similarity, true, tolerance, 60 * tolerance)
    # A few of the wrong ones are right by chance.
    assert 1 - share - 0.05 < found.inliers < 1 - share + 0.1


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_one_wrong_view_of_three_does_no_harm(wrong: int) -> None:
    second = noisy(true_part(3), 0.01, 1)
    true = some_motion(4)
    found = joined(with_wrong_view(in_world(second, true), wrong, 8), second)
    assert found.sound, found.reason
    assert_close(found.similarity, true, 0.004, 0.3)
    assert found.inliers == pytest.approx(2 / 3, abs=0.08)


def test_a_wrong_view_with_more_pixels_has_no_more_votes() -> None:
    second = true_part(3)
    valid = second.valid.copy()
    valid[1:, :, W // 4 :] = False
    second = replace(second, valid=valid)
    true = some_motion(4)
    found = joined(with_wrong_view(in_world(second, true), 0, 8), second)
    assert found.sound, found.reason
    assert_close(found.similarity, true, 1e-3, 0.1)


def test_confident_points_decide() -> None:
    """Half of the pixels are wrong, the same way in all views, but have little confidence."""
    second = true_part(3)
    assert second.depth_conf is not None
    true = some_motion(5)
    first = in_world(second, true)
    depth, conf = np.array(first.depth), np.array(second.depth_conf)
    depth[:, :, : W // 2] *= 1.5
    conf[:, :, : W // 2] = 0.05
    found = joined(replace(first, depth=depth, depth_conf=conf), second)
    assert found.sound, found.reason
    assert_close(found.similarity, true, 0.01, 0.5)


def test_a_plane_is_enough() -> None:
    second = noisy(true_part(3, flat=True), 0.01, 1)
    true = some_motion(6)
    found = joined(in_world(noisy(true_part(3, flat=True), 0.01, 2), true), second)
    assert found.sound, found.reason
    assert_close(found.similarity, true, 0.003, 0.3)


def test_parallel_cameras_are_enough() -> None:
    second = true_part(3)
    extrinsics = second.extrinsics.copy()
    extrinsics[:, :, :3] = np.eye(3)
    extrinsics[:, :, 3] = [[0, 0, 0], [-0.1, 0, 0], [-0.2, 0, 0]]
    second = replace(second, extrinsics=extrinsics)
    true = some_motion(7)
    found = joined(noisy(in_world(second, true), 0.02, 3), second)
    assert found.sound, found.reason
    assert_close(found.similarity, true, 0.005, 0.3)


def test_a_view_without_depth_still_fixes_the_rotation() -> None:
    """Two pixels of one view fix the scale alone; the cameras of all three fix the rest."""
    second = true_part(3)
    valid = np.zeros_like(second.valid)
    valid[0, 10, 10:12] = True
    second = replace(second, valid=valid)
    true = some_motion(8)
    found = joined(in_world(second, true), second)
    assert_close(found.similarity, true, 1e-5, 1e-3)
    assert not found.sound
    assert found.reason == "2 shared points, and 100 are needed"


def test_unusable_cameras_take_no_part() -> None:
    second = true_part(3)
    true = some_motion(9)
    first = in_world(second, true)
    usable = np.array([True, False, True])
    extrinsics = np.where(usable[:, None, None], first.extrinsics, 0.0)
    found = joined(replace(first, usable=usable, extrinsics=extrinsics), second)
    assert found.sound, found.reason
    assert_close(found.similarity, true, 1e-6, 1e-4)


def nothing_valid(part: StoredPart) -> StoredPart:
    return replace(part, valid=np.zeros_like(part.valid))


def nothing_usable(part: StoredPart) -> StoredPart:
    return replace(part, usable=np.zeros_like(part.usable))


def test_what_cannot_be_joined_says_why() -> None:
    part = true_part(3)
    none = relative_similarity(part, part, [], [])
    assert (none.sound, none.points) == (False, 0)
    assert none.reason == "no shared view has a camera in both parts"
    assert joined(part, nothing_usable(part)).reason == none.reason
    assert "no depth that is valid in both" in joined(part, nothing_valid(part)).reason
    other = joined(part, true_part(3, seed=5))
    assert not other.sound
    assert "agree" in other.reason


def test_random_depth_is_not_sound() -> None:
    part = true_part(3)
    depth = np.random.default_rng(0).uniform(0.5, 8, part.depth.shape).astype(np.float32)
    found = joined(part, replace(part, depth=depth))
    assert not found.sound
    assert "of the shared points agree" in found.reason


def test_images_of_two_sizes_are_refused() -> None:
    part = true_part(2)
    with pytest.raises(CovisError, match="images of"):
        joined(part, replace(part, image_size=(H, W + 1)), 2)


def test_the_same_parts_give_the_same_bits() -> None:
    second = noisy(true_part(3), 0.05, 1)
    first = with_wrong_points(in_world(second, some_motion(2)), 0.3, 2)
    once, again = joined(first, second), joined(first, second)
    assert once.similarity.scale == again.similarity.scale
    np.testing.assert_array_equal(once.similarity.translation, again.similarity.translation)


def test_the_middle_of_the_points_and_their_extent() -> None:
    part = true_part(3)
    found = joined(part, part)
    points: list[Float64] = []
    v, u = np.mgrid[:H, :W] + 0.5
    for e, k, depth in zip(part.extrinsics, part.intrinsics, part.depth, strict=True):
        rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], -1)
        points.append((rays * depth[..., None] - e[:, 3]).reshape(-1, 3) @ e[:, :3])
    xyz = np.concatenate(points)
    middle = xyz.mean(axis=0)
    np.testing.assert_allclose(found.centre, middle, atol=0.1)
    rms = np.sqrt(((xyz - middle) ** 2).sum(axis=1).mean())
    assert found.radius == pytest.approx(rms, rel=0.05)
