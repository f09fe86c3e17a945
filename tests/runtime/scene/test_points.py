"""Points of a scene, computed view by view."""

from __future__ import annotations

import numpy as np
import pytest

from covis.runtime.scene.points import PointSamples, joined, point_stream
from tests.runtime.scene.random_scene import random_scene


def same(found: PointSamples, expected: PointSamples) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


@pytest.mark.parametrize("limit", [1, 50, 3_000, 10**6])
def test_a_thinned_stream_is_the_thinned_cloud(limit: int) -> None:
    scene = random_scene()
    points = point_stream(scene, percentile=30.0)
    same(points.thin(limit), scene.point_samples(percentile=30.0).thin(limit))


def test_points_of_single_views_make_the_cloud() -> None:
    points = point_stream(random_scene(), stride=3)
    views = [points.view(view) for view in range(3)]
    assert points.counts.tolist() == [len(view.xyz) for view in views]
    same(joined(views), points.all())


def test_no_views_give_no_points() -> None:
    assert [len(column) for column in joined([])] == [0] * 5


def test_points_beyond_float32_are_left_out() -> None:
    depth = random_scene().depth.astype(np.float64)
    depth[1, 5:9] = 1e39
    points = point_stream(random_scene(depth=depth))
    valid = random_scene().valid
    lost = int(valid[1, 5:9].sum())
    # A pixel near the principal point may still have a small x or y, never a small depth.
    assert points.counts.sum() == valid.sum() - lost
    assert np.isfinite(points.all().xyz.astype(np.float32)).all()
