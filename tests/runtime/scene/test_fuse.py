"""Points that lie on each other are merged."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from covis.engines.errors import CovisError
from covis.runtime.scene import percentiles
from covis.runtime.scene.fuse import fuse, voxel_size
from covis.runtime.scene.points import PointSamples, point_stream
from covis.runtime.scene.scene import Scene
from tests.runtime.scene.random_scene import random_scene
from tests.runtime.scene.rendered import mapped, rendered_scene


def by_definition(scene: Scene, limit: int) -> list[tuple[int, float, float]]:
    """Return view and pixel of the best point of each voxel, point by point."""
    points = scene.point_samples()
    middle, size = np.median(scene.camera_centers(), axis=0), voxel_size(scene)
    while True:
        best: dict[tuple[int, ...], int] = {}
        for i, xyz in enumerate(points.xyz):
            # Voxels of every size have a corner in the middle.
            voxel = tuple(np.floor((xyz - middle) / size).astype(int).tolist())
            if voxel not in best or points.conf[i] > points.conf[best[voxel]]:
                best[voxel] = i
        if len(best) <= 2 * limit:
            break
        size *= 2
    kept = np.array(sorted(best.values()))
    if len(kept) > limit:
        kept = kept[np.linspace(0, len(kept) - 1, limit).astype(int)]
    return [(int(points.view[i]), *points.pixel[i].tolist()) for i in kept]


def listed(points: PointSamples) -> list[tuple[int, float, float]]:
    return [(int(v), *p) for v, p in zip(points.view, points.pixel.tolist(), strict=True)]


@pytest.mark.parametrize("limit", [4, 100, 900, 100_000])
def test_the_most_confident_point_of_each_voxel_is_kept(limit: int) -> None:
    scene = rendered_scene(4)
    found = fuse(point_stream(scene), limit)
    assert len(found.xyz) <= limit
    assert listed(found) == by_definition(scene, limit)


def test_one_point_is_the_most_confident_of_all() -> None:
    points = point_stream(rendered_scene(4))
    assert fuse(points, 1).conf.tolist() == [points.all().conf.max()]


def test_merged_points_are_points_of_the_scene() -> None:
    scene = rendered_scene(4)
    found, everything = fuse(point_stream(scene), 500), scene.point_samples()
    index = {key: i for i, key in enumerate(listed(everything))}
    same = everything.take(np.array([index[key] for key in listed(found)]))
    for mine, theirs in zip(found, same, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_a_surface_that_is_seen_twice_is_kept_once() -> None:
    one = rendered_scene(1)
    maps = ("extrinsics", "intrinsics", "intrinsics_original", "original_sizes", "images", "depth")
    double = {name: np.repeat(getattr(one, name), 2, axis=0) for name in (*maps, "valid")}
    conf = np.ones_like(double["depth"]) * np.array([1, 2], np.float32)[:, None, None]
    scene = replace(one, names=("a", "b"), depth_conf=conf, **double)
    twice = fuse(point_stream(scene), 10**6)
    once = fuse(point_stream(replace(one, depth_conf=None)), 10**6)
    assert len(once.xyz) > 500
    assert set(twice.view.tolist()) == {1} and len(twice.xyz) == len(once.xyz)


def test_points_at_the_end_of_the_world_do_no_harm() -> None:
    depth = random_scene().depth.copy()
    depth[:, ::4] = 1e30
    found = fuse(point_stream(random_scene(depth=depth)), 10**6)
    near = np.abs(found.xyz).max(axis=1) < 1e3
    assert near.sum() > 500 and np.isfinite(found.xyz).all()


def test_a_scene_without_points_or_cameras_gives_none() -> None:
    empty = random_scene(valid=np.zeros((3, 28, 42), bool))
    lost = random_scene(extrinsics=np.full((3, 3, 4), np.nan))
    for scene in (empty, lost):
        assert fuse(point_stream(scene), 10).xyz.shape == (0, 3)


def test_the_limit_is_positive() -> None:
    with pytest.raises(CovisError, match="0 is less than 1"):
        fuse(point_stream(random_scene()), 0)


def test_memory_does_not_grow_with_the_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """47,040 pixels of 40 views, a limit of 1,000: all points would take 2.4 MB."""
    monkeypatch.setattr(percentiles, "MOST_VALUES", 1_000)
    peaks = []
    for views in (10, 40):
        scene = mapped(
            random_scene(views, similarity=None, pair_levels=None), tmp_path / f"{views}"
        )
        points = point_stream(scene)
        tracemalloc.start()
        found = fuse(points, 1_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert 250 <= len(found.xyz) <= 1_000
    assert peaks[1] < 1.2 * peaks[0] < 1_500_000
