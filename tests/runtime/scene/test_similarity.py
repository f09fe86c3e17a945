"""Similarity transforms: Umeyama's is exact and optimal, weights count, inverses undo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covis.runtime.scene.similarity import Similarity, umeyama
from tests.evaluation.geometry import Float64, cameras, rotation, similarities

SEEDS = st.integers(0, 2**32 - 1)
Motion = tuple[Float64, Float64, float]


@given(SEEDS, similarities())
@settings(max_examples=30, deadline=None)
def test_a_similarity_comes_back(seed: int, motion: Motion) -> None:
    points = np.random.default_rng(seed).normal(size=(20, 3))
    r, t, scale = motion
    found = umeyama(points, scale * points @ r.T + t)
    assert found.scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(found.rotation, r, atol=1e-9)
    np.testing.assert_allclose(found.translation, t, atol=1e-7)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_no_neighbouring_similarity_is_better(seed: int) -> None:
    """Also where the best orthogonal matrix is a reflection, which is not allowed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(12, 3))
    y = x * [1, 1, -1] + 0.3 * rng.normal(size=(12, 3))
    weights = rng.uniform(0.1, 1, 12)
    best = umeyama(x, y, weights)
    assert np.linalg.det(best.rotation) == pytest.approx(1.0)

    def cost(scale: float, r: Float64, t: Float64) -> float:
        return float((weights[:, None] * (scale * x @ r.T + t - y) ** 2).sum())

    least = cost(best.scale, best.rotation, best.translation)
    for _ in range(20):
        turned = rotation(rng, 1e-3) @ best.rotation
        shifted = best.translation + 1e-3 * rng.normal(size=3)
        assert cost(best.scale, turned, best.translation) > least
        assert cost(best.scale, best.rotation, shifted) > least
        assert cost(best.scale * (1 + 1e-3 * rng.choice([-1, 1])), best.rotation,
                    best.translation) > least  # fmt: skip


def test_weights_count_points_and_zero_leaves_them_out() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    counts = np.array([1, 2, 3, 1, 0, 1, 4, 2])
    found = umeyama(x, y, 0.5 * counts)
    repeated = umeyama(np.repeat(x, counts, axis=0), np.repeat(y, counts, axis=0))
    assert found.scale == pytest.approx(repeated.scale, rel=1e-12)
    np.testing.assert_allclose(found.rotation, repeated.rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, repeated.translation, atol=1e-12)


def test_without_scale_the_motion_is_rigid() -> None:
    rng = np.random.default_rng(0)
    x, r = rng.normal(size=(30, 3)), rotation(rng)
    found = umeyama(x, 2 * x @ r.T, with_scale=False)
    assert found.scale == 1.0
    np.testing.assert_allclose(found.rotation, r, atol=1e-12)


def test_a_source_in_one_place_keeps_its_scale() -> None:
    target = np.random.default_rng(2).normal(size=(5, 3))
    found = umeyama(np.ones((5, 3)), target)
    assert found.scale == 1.0
    np.testing.assert_allclose(found.points(np.ones(3)), target.mean(axis=0), atol=1e-12)


def test_moved_cameras_see_the_moved_points_alike() -> None:
    rng = np.random.default_rng(4)
    e, points = cameras(rng, 5), rng.normal(size=(7, 3))
    motion = umeyama(points, rng.normal(size=(7, 3)))
    before = np.einsum("mij,nj->mni", e[:, :, :3], points) + e[:, None, :, 3]
    new = motion.cameras(e)
    after = np.einsum("mij,nj->mni", new[:, :, :3], motion.points(points)) + new[:, None, :, 3]
    np.testing.assert_allclose(after, motion.scale * before, atol=1e-12)
    twice = motion.after(motion)
    np.testing.assert_allclose(twice.points(points), motion.points(motion.points(points)))


@given(SEEDS, similarities())
@settings(max_examples=20, deadline=None)
def test_the_inverse_undoes(seed: int, motion: Motion) -> None:
    r, t, scale = motion
    there = Similarity(scale, r, t)
    points = np.random.default_rng(seed).normal(size=(6, 3))
    back = there.inverse().points(there.points(points))
    np.testing.assert_allclose(back, points, atol=1e-12 * (1 + np.abs(t).max() / scale))
    none = there.inverse().after(there)
    assert none.scale == pytest.approx(1.0)
    np.testing.assert_allclose(none.rotation, np.eye(3), atol=1e-12)
