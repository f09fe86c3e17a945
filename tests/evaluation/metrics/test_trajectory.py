"""ATE and RPE: independent of similarities, by hand, and where they are not defined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covis.evaluation.metrics.trajectory import absolute_error, align, relative_error
from covis.runtime.scene.geometry import camera_centers
from tests.evaluation.geometry import Float64, cameras, moved, rotation, similarities

SEEDS = st.integers(0, 2**32 - 1)
Motion = tuple[Float64, Float64, float]


@given(SEEDS, similarities())
@settings(max_examples=30, deadline=None)
def test_trajectory_errors_ignore_similarities_of_the_prediction(seed: int, motion: Motion) -> None:
    rng = np.random.default_rng(seed)
    true = cameras(rng, 8)
    predicted = true + 0.1 * rng.normal(size=true.shape)
    predicted[:, :, :3] = [rotation(rng, 0.05) @ camera[:, :3] for camera in true]
    other = moved(predicted, *motion)
    for measure in (absolute_error, relative_error):
        np.testing.assert_allclose(measure(other, true), measure(predicted, true), rtol=1e-6)
        np.testing.assert_allclose(measure(moved(true, *motion), true), 0, atol=1e-6)


def test_ate_by_hand() -> None:
    """A square of side 2 whose corners are pulled out and in by 0.1: nothing can mend it."""
    corners = np.array([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0.0]])
    true = np.tile(np.eye(3, 4), (4, 1, 1))
    true[:, :, 3] = -corners
    predicted = true.copy()
    predicted[:, 2, 3] += [0.1, -0.1, 0.1, -0.1]
    scale = align(predicted, true).scale
    # The offset is orthogonal to every similarity's first order: only the scale shrinks a little.
    assert scale == pytest.approx(8 / (8 + 0.04))
    expected = np.sqrt(((1 - scale) ** 2 * 8 + scale**2 * 0.04) / 4)
    assert absolute_error(predicted, true) == pytest.approx(expected)


def test_rpe_by_hand() -> None:
    """Centres on a line at 0, 1, 2, 3; one camera turned by 6 degrees about the vertical."""
    true = np.tile(np.eye(3, 4), (4, 1, 1))
    true[:, 2, 3] = [0, -1, -2, -3]
    predicted = true.copy()
    a = np.radians(6)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    predicted[1] = turn @ true[1]
    step, angle = relative_error(predicted, true)
    # Steps 0-1 and 1-2 are turned; of 1-2 the direction too, in the frame of the turned camera.
    assert angle == pytest.approx(np.sqrt(2 * 36 / 3))
    assert step == pytest.approx(np.sqrt((2 * np.sin(a / 2)) ** 2 / 3))


def test_what_is_not_defined() -> None:
    rng = np.random.default_rng(5)
    two = cameras(rng, 2)
    assert np.isnan(absolute_error(two, two)) and np.isnan(relative_error(two, two)).all()
    lost = cameras(rng, 5)
    true = lost.copy()
    lost[1] = np.nan
    assert np.isinf(absolute_error(lost, true)) and np.isinf(relative_error(lost, true)).all()
    still = np.tile(np.eye(3, 4), (5, 1, 1))
    spread = camera_centers(true) - camera_centers(true).mean(axis=0)
    rms = np.sqrt((spread**2).sum(axis=1).mean())
    assert absolute_error(still, true) == pytest.approx(rms)
