"""Pair errors and AUC against loops, by hand, and under similarities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covis.evaluation.metrics.pose import auc, auc_of_histogram, histogram, pair_errors, undirected
from tests.evaluation.geometry import Float64, cameras, moved, rotation, similarities

SEEDS = st.integers(0, 2**32 - 1)


def oracle_errors(predicted: Float64, true: Float64) -> tuple[list[float], list[float]]:
    """One pair after the other, with 4 x 4 matrices and arccos."""

    def square(e: Float64) -> Float64:
        return np.vstack([e, [0, 0, 0, 1]])

    angles, directions = [], []
    for i in range(len(true)):
        for j in range(i + 1, len(true)):
            p = square(predicted[i]) @ np.linalg.inv(square(predicted[j]))
            t = square(true[i]) @ np.linalg.inv(square(true[j]))
            cosine = (np.trace(p[:3, :3].T @ t[:3, :3]) - 1) / 2
            angles.append(math.degrees(math.acos(np.clip(cosine, -1, 1))))
            dot = p[:3, 3] @ t[:3, 3] / np.linalg.norm(p[:3, 3]) / np.linalg.norm(t[:3, 3])
            directions.append(math.degrees(math.acos(np.clip(dot, -1, 1))))
    return angles, directions


def oracle_auc(errors: Float64, threshold: int) -> float:
    """The mean over whole degrees k of the share below k; the last bin holds its end too."""
    below = [sum(e < k for e in errors) for k in range(1, threshold)]
    below.append(sum(e <= threshold for e in errors))
    return sum(below) / len(errors) / threshold


@given(SEEDS, st.integers(2, 7))
@settings(max_examples=30, deadline=None)
def test_pair_errors_are_those_of_a_loop(seed: int, views: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, true = cameras(rng, views), cameras(rng, views)
    found, expected = pair_errors(predicted, true), oracle_errors(predicted, true)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(SEEDS, similarities())
@settings(max_examples=30, deadline=None)
def test_pair_errors_ignore_similarities(
    seed: int, similarity: tuple[Float64, Float64, float]
) -> None:
    rng = np.random.default_rng(seed)
    predicted, true = cameras(rng, 5), cameras(rng, 5)
    before = pair_errors(predicted, true)
    np.testing.assert_allclose(pair_errors(moved(predicted, *similarity), true), before, atol=1e-6)
    np.testing.assert_allclose(pair_errors(predicted, moved(true, *similarity)), before, atol=1e-6)
    own = pair_errors(moved(true, *similarity), true)
    assert max(e.max() for e in own) < 1e-6


@pytest.mark.parametrize("degrees", [0.001, 0.5, 3.0, 90.0, 179.0])
def test_a_turned_camera_has_its_angle(degrees: float) -> None:
    rng = np.random.default_rng(3)
    true = cameras(rng, 2)
    predicted = true.copy()
    predicted[1] = rotation(rng, math.radians(degrees)) @ true[1]
    angle, _ = pair_errors(predicted, true)
    assert angle[0] == pytest.approx(degrees, abs=1e-9 if degrees < 100 else 1e-5)


@given(st.lists(st.floats(0, 40), min_size=1, max_size=60), st.sampled_from([5, 15, 30]))
@settings(deadline=None)
def test_auc_is_that_of_a_loop(errors: list[float], threshold: int) -> None:
    values = np.array(errors)
    assert auc(values, threshold) == pytest.approx(oracle_auc(values, threshold), abs=1e-12)


def test_what_perfect_is_worth() -> None:
    """Bins of a degree: all that is better than one degree is perfect, and 1.0 is reached."""
    true = cameras(np.random.default_rng(0), 9)
    worst = np.maximum(*pair_errors(true, true))
    for threshold in (30, 15, 5):
        assert auc(worst, threshold) == 1.0
        assert auc(np.full(7, 0.999), threshold) == 1.0
        assert auc(np.full(7, 1.0), threshold) == pytest.approx(1 - 1 / threshold)
        assert auc(np.full(7, float(threshold)), threshold) == pytest.approx(1 / threshold)
        assert auc(np.full(7, threshold + 1e-6), threshold) == 0.0


def test_histograms_of_scenes_add_up() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0, 40, 10), rng.uniform(0, 40, 31)
    pooled = histogram(a, 15) + histogram(b, 15)
    assert auc_of_histogram(pooled, 41) == auc(np.concatenate([a, b]), 15)


def test_the_published_angle_ignores_the_sign() -> None:
    assert undirected([0.0, 30.0, 90.0, 120.0, 180.0]).tolist() == [0.0, 30.0, 90.0, 60.0, 0.0]


def test_cameras_at_one_place_and_lost_ones() -> None:
    rng = np.random.default_rng(2)
    true = cameras(rng, 4)
    alike = np.broadcast_to(cameras(rng, 1), true.shape)
    _, direction = pair_errors(alike, true)
    assert direction.tolist() == [90.0] * 6  # nothing was said of any direction

    still = true.copy()
    still[1, :, 3] = still[1, :, :3] @ still[0, :, :3].T @ still[0, :, 3]  # same centre as 0
    _, direction = pair_errors(still, still)
    assert direction.max() < 1e-6
    _, direction = pair_errors(true, still)
    assert direction[0] == 0.0 and direction[1:].max() > 1.0

    lost = true.copy()
    lost[2, 0, 3] = np.nan
    angle, direction = pair_errors(lost, true)
    hit = np.array([False, True, False, True, False, True])  # pairs 02, 12, 23
    assert (angle[hit] == 180).all() and (direction[hit] == 180).all()
    assert angle[~hit].max() < 1e-6 and direction[~hit].max() < 1e-6
