"""Lie group Sim(3): exp by scipy's, logarithms, adjoints and Jacobians by their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from covis.runtime.collection import sim3
from covis.runtime.scene.geometry import Float64
from tests.runtime.collection.true_parts import some_motion


def tangents(count: int, seed: int, angle: float = 3.0) -> Float64:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 7))
    x[:, 3:6] *= (rng.uniform(0, angle, count) / np.linalg.norm(x[:, 3:6], axis=-1))[:, None]
    return x


def generator(x: Float64) -> Float64:
    out = np.zeros((4, 4))
    out[:3, :3] = [[x[6], -x[5], x[4]], [x[5], x[6], -x[3]], [-x[4], x[3], x[6]]]
    out[:3, 3] = x[:3]
    return out


SPECIAL = np.array(
    [
        np.zeros(7),
        [1, 2, 3, 0, 0, 0, 0],
        [1, 2, 3, 0, 0, 0, 2],
        [1, 2, 3, 1e-9, 0, 0, 1e-12],
        [1, 2, 3, 0, np.pi - 1e-7, 0, -1],
        [1, 2, 3, 0, 0, 1, 7],
        [1, 2, 3, 0, 0, 1, -7],
    ]
)


def test_the_exponential_is_that_of_the_generator() -> None:
    x = np.concatenate([tangents(20, 0), SPECIAL])
    expected = np.stack([expm(generator(row)) for row in x])
    np.testing.assert_allclose(sim3.exponential(x), expected, rtol=1e-11, atol=1e-11)


def test_logarithm_undoes_the_exponential() -> None:
    x = np.concatenate([tangents(50, 1), SPECIAL])
    np.testing.assert_allclose(sim3.logarithm(sim3.exponential(x)), x, rtol=1e-7, atol=1e-8)


def test_matrices_are_similarities() -> None:
    motions = [some_motion(seed, scale) for seed, scale in enumerate((1e-3, 1.0, 1e3))]
    m = sim3.matrices(motions)
    points = np.random.default_rng(0).normal(size=(5, 3))
    for matrix, motion in zip(m, motions, strict=True):
        np.testing.assert_allclose(points @ matrix[:3, :3].T + matrix[:3, 3], motion.points(points))
        assert sim3.similarity(matrix).scale == pytest.approx(motion.scale)
        np.testing.assert_allclose(sim3.similarity(matrix).rotation, motion.rotation, atol=1e-14)
    np.testing.assert_allclose(sim3.invert(m) @ m, np.tile(np.eye(4), (3, 1, 1)), atol=1e-9)


def test_the_adjoint_moves_a_tangent_through_a_motion() -> None:
    m, x = sim3.exponential(tangents(10, 2)), tangents(10, 3)
    moved = np.einsum("nij,nj->ni", sim3.adjoint(m), x)
    left = m @ sim3.exponential(x) @ sim3.invert(m)
    np.testing.assert_allclose(sim3.exponential(moved), left, rtol=1e-9, atol=1e-9)


def test_the_jacobian_is_the_derivative() -> None:
    x = np.concatenate([tangents(10, 4), SPECIAL[:4]])
    step = 1e-6
    for column in range(7):
        d = np.zeros(7)
        d[column] = step
        ahead = sim3.exponential(x + d) @ sim3.invert(sim3.exponential(x - d))
        derivative = sim3.logarithm(ahead) / (2 * step)
        np.testing.assert_allclose(
            sim3.left_jacobian(x)[:, :, column], derivative, rtol=1e-5, atol=1e-6
        )
