"""Distances between clouds against brute force; ICP and normals on known shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covis.evaluation.metrics.clouds import closest_points, compare, kd_tree, normals, thinned
from tests.evaluation.geometry import Float64, rotation

pytest.importorskip("scipy", reason="point clouds need the extra `eval`")


def plane(rng: np.random.Generator, count: int, z: float = 0.0) -> Float64:
    """Points of the square [0, 1]^2 at height z."""
    return np.concatenate([rng.uniform(0, 1, (count, 2)), np.full((count, 1), z)], axis=1)


def oracle(predicted: Float64, true: Float64) -> tuple[Float64, Float64]:
    distances = np.linalg.norm(predicted[:, None] - true[None], axis=2)
    return distances.min(axis=1), distances.min(axis=0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_distances_are_those_of_brute_force(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, true = rng.normal(size=(n, 3)), rng.normal(size=(k, 3))
    forth, back = oracle(predicted, true)
    found = compare(predicted, true)
    assert found.accuracy == pytest.approx(forth.mean())
    assert found.accuracy_median == pytest.approx(np.median(forth))
    assert found.completeness == pytest.approx(back.mean())
    assert found.completeness_median == pytest.approx(np.median(back))
    assert found.chamfer == pytest.approx((forth.mean() + back.mean()) / 2)
    sampled = compare(predicted, true, queries=n // 2 + 1)
    assert sampled.completeness <= back.max() + 1e-12  # to the whole cloud, not to a part of it
    cut = compare(predicted, true, max_distance=0.5)
    near = forth[forth < 0.5]
    expected = near.mean() if len(near) else float("nan")
    assert cut.accuracy == pytest.approx(expected, nan_ok=True)


def test_masks_choose_who_is_judged() -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.normal(size=(50, 3)), rng.normal(size=(40, 3))
    forth, back = oracle(predicted, true)
    found = compare(predicted, true, judged=lambda p: p[:, 0] > 0, demanded=lambda p: p[:, 1] > 0)
    assert found.accuracy == pytest.approx(forth[predicted[:, 0] > 0].mean())
    assert found.completeness == pytest.approx(back[true[:, 1] > 0].mean())
    nobody = compare(predicted, true, judged=lambda p: np.zeros(len(p), bool))
    assert np.isnan(nobody.accuracy) and not np.isnan(nobody.completeness)
    assert np.isnan(vars(compare(predicted[:0], true))["chamfer"])


def test_normals_of_planes_and_a_sphere() -> None:
    rng = np.random.default_rng(1)
    r = rotation(rng)
    turned = plane(rng, 400) @ r.T
    found = normals(turned, kd_tree(turned))
    np.testing.assert_allclose(np.abs(found @ r[:, 2]), 1.0, atol=1e-9)
    ball = rng.normal(size=(4000, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    assert np.abs(np.sum(normals(ball, kd_tree(ball)) * ball, axis=1)).min() > 0.97
    assert normals(ball[:2], kd_tree(ball[:2])).shape == (2, 3)


def test_normal_consistency_is_the_cosine_between_planes() -> None:
    rng = np.random.default_rng(2)
    flat = plane(rng, 2000) - [0.5, 0.5, 0]
    a = np.radians(25)
    tilted = flat @ np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])
    assert compare(tilted, flat).normals == pytest.approx(np.cos(a), abs=0.01)
    assert compare(flat, flat).normals == pytest.approx(1.0)


def test_parallel_planes_have_their_distance() -> None:
    rng = np.random.default_rng(3)
    flat = plane(rng, 3000)
    lifted = flat + np.array([0, 0, 0.2])
    found = compare(lifted, flat)
    assert found.accuracy == found.completeness == pytest.approx(0.2)


@pytest.mark.parametrize("outliers", [0, 40])
def test_icp_brings_a_box_home(outliers: int) -> None:
    """Without the order of the points, and with outliers that the distance leaves out."""
    rng = np.random.default_rng(4)
    box = np.concatenate([plane(rng, 1500), plane(rng, 1500)[:, [2, 0, 1]] * [1, 0.8, 0.6],
                          plane(rng, 1500)[:, [0, 2, 1]] * [1, 1, 0.6]])  # fmt: skip
    r, t = rotation(rng, np.radians(2)), np.array([0.02, -0.015, 0.01])
    far = rng.uniform(3, 4, (outliers, 3))
    predicted = np.concatenate([rng.permutation(box), far]) @ r.T + t
    motion = closest_points(predicted, box, max_distance=0.2, rounds=60)
    np.testing.assert_allclose(motion.rotation, r.T, atol=1e-3)
    np.testing.assert_allclose(motion.points(predicted[0]) @ np.eye(3),
                               (predicted[0] - t) @ r, atol=1e-3)  # fmt: skip
    assert motion.scale == 1.0
    nothing = closest_points(predicted + 100, box, max_distance=0.2)
    np.testing.assert_array_equal(nothing.rotation, np.eye(3))


def test_thinning_keeps_order_and_repeats() -> None:
    points = np.arange(300.0).reshape(100, 3)
    assert thinned(points, 100) is points
    few = thinned(points, 10)
    assert len(few) == 10 and (np.diff(few[:, 0]) > 0).all()
    np.testing.assert_array_equal(few, thinned(points, 10))
