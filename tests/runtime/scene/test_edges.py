"""Edges of surfaces: where depth jumps and normals turn, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from covis.runtime.scene.edges import surface_edges
from covis.runtime.scene.geometry import pixel_centers

SIZE = 20, 30


def edges(depth: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Edges of the depth map of a camera of focal length 25."""
    slope = (pixel_centers(*SIZE) - (SIZE[1] / 2, SIZE[0] / 2)) / 25.0
    points = depth[..., None] * np.concatenate([slope, np.ones((*SIZE, 1))], axis=-1)
    every = np.ones(SIZE, bool)
    return surface_edges(points.astype(np.float32), depth, every if valid is None else valid)


def step(near: float, far: float) -> np.ndarray:
    return np.where(np.arange(SIZE[1]) < 12, near, far) * np.ones(SIZE)


@pytest.mark.parametrize(("far", "found"), [(4.0, False), (4.1, False), (4.2, True), (9.0, True)])
def test_a_step_is_an_edge_on_both_sides(far: float, found: bool) -> None:
    """Steps of 2.5 % are none, of 5 % are."""
    expected = np.zeros(SIZE, bool)
    expected[:, 11:13] = found
    np.testing.assert_array_equal(edges(step(4.0, far)), expected)


def test_the_jump_counts_as_a_share_of_the_depth() -> None:
    for scale in (0.01, 1.0, 1000.0):
        np.testing.assert_array_equal(edges(scale * step(4.0, 4.2)), edges(step(4.0, 4.2)))


def test_a_slanted_plane_has_no_edge() -> None:
    """Its depth changes by up to 6 % from pixel to pixel, but its normals are all the same."""
    slope = (np.arange(SIZE[1]) + 0.5 - SIZE[1] / 2) / 25.0
    depth = np.ones(SIZE) / (0.6 - 0.9 * slope)
    assert (np.diff(depth, axis=1) / depth[:, 1:]).max() > 0.05
    assert not edges(depth).any()


def test_pixels_without_a_point_are_no_neighbours() -> None:
    """Neither masked depth nor NaN, infinity, zero or negative depth makes an edge beside it."""
    depth = np.full(SIZE, 4.0)
    valid = np.ones(SIZE, bool)
    depth[5, 5], valid[5, 5] = 40.0, False
    depth[10, 5:9] = (np.nan, np.inf, 0.0, -3.0)
    assert not edges(depth, valid).any()


def test_a_lone_point_before_a_wall_is_an_edge_with_its_surroundings() -> None:
    depth = np.full(SIZE, 4.0)
    depth[10, 15] = 2.0
    expected = np.zeros(SIZE, bool)
    expected[9:12, 14:17] = True
    np.testing.assert_array_equal(edges(depth), expected)


def test_nothing_valid() -> None:
    assert not edges(step(4.0, 9.0), np.zeros(SIZE, bool)).any()
    assert not edges(np.full(SIZE, np.nan)).any()
