"""One scene from placed parts."""

from __future__ import annotations

import json
import resource
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError
from covis.runtime.collection.merge import merge
from covis.runtime.collection.parts import Cut, Part
from covis.runtime.collection.stored_part import StoredPart, finished_part, load_part
from covis.runtime.scene import geometry, percentiles
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.similarity import Similarity
from covis.runtime.scene.writers import OutputOptions, write
from tests.runtime.scene.random_scene import random_scene
from tests.runtime.scene.rendered import rendered_scene

QUARTER = geometry.quaternion_to_rotation([0.1, -0.3, 0.2, 0.9])
PLACES = (Similarity.identity(), Similarity(2.5, QUARTER, np.array([1.0, -2.0, 0.5])))
FIRST = Part(np.array([3, 0, 1, 2]), np.array([False, True, True, True]))
SECOND = Part(np.array([4, 3, 2, 5]), np.array([True, True, False, True]))


def part_of(scene: Scene, part: Part, placement: Similarity, folder: Path) -> StoredPart:
    """Store a part whose own world is the scene's before `placement`."""
    own = scene.select(part.views)
    back = placement.inverse()
    depth = (own.depth * back.scale).astype(np.float32)
    finished_part(replace(own, extrinsics=back.cameras(own.extrinsics), depth=depth), {}).store(
        folder
    )
    return load_part(folder)


def cut_of(*parts: Part) -> Cut:
    return Cut(parts, (), np.zeros(len(parts), np.int64))


def merged(scene: Scene, folder: Path, views: Sequence[int] = range(6)) -> Scene:
    parts = [
        part_of(scene, part, place, folder / str(number))
        for number, (part, place) in enumerate(zip((FIRST, SECOND), PLACES, strict=True))
    ]
    return merge(parts, cut_of(FIRST, SECOND), PLACES, np.array(views), folder / "merged")


def in_memory(scene: Scene) -> Scene:
    names = ("images", "depth", "depth_conf", "valid")
    return replace(scene, **{name: np.array(getattr(scene, name)) for name in names})


def test_parts_of_a_scene_become_the_scene(tmp_path: Path) -> None:
    scene = rendered_scene()
    found = merged(scene, tmp_path)
    assert found.names == scene.names and found.metric and found.from_parts
    np.testing.assert_array_equal(found.original_sizes, scene.original_sizes)
    np.testing.assert_allclose(found.extrinsics, scene.extrinsics, atol=1e-12)
    np.testing.assert_array_equal(found.intrinsics, scene.intrinsics)
    np.testing.assert_array_equal(found.intrinsics_original, scene.intrinsics_original)
    np.testing.assert_array_equal(found.images, scene.images)
    np.testing.assert_array_equal(found.valid, scene.valid)
    np.testing.assert_array_equal(found.depth_conf[found.valid], scene.depth_conf[scene.valid])  # type: ignore[index]
    np.testing.assert_allclose(found.depth[found.valid], scene.depth[scene.valid], rtol=1e-6)
    np.testing.assert_allclose(found.point_cloud()[0], scene.point_cloud()[0], atol=1e-5)
    assert all(isinstance(getattr(found, n), np.memmap) for n in ("images", "depth", "valid"))


def test_a_scene_has_only_its_views_in_its_order(tmp_path: Path) -> None:
    scene = rendered_scene()
    found = merged(scene, tmp_path, [5, 0, 3])
    assert found.names == ("005.png", "000.png", "003.png")
    np.testing.assert_allclose(found.extrinsics, scene.extrinsics[[5, 0, 3]], atol=1e-12)
    np.testing.assert_array_equal(found.images, scene.images[[5, 0, 3]])  # type: ignore[index]


def broken(scene: Scene, *views: int) -> Scene:
    K = scene.intrinsics.copy()
    K[list(views), 0, 0] = np.inf
    return replace(scene, intrinsics=K)


def test_a_view_without_a_camera_in_its_part_is_taken_from_another(tmp_path: Path) -> None:
    scene = rendered_scene()
    parts = [
        part_of(broken(scene, 2, 0), FIRST, PLACES[0], tmp_path / "0"),
        part_of(scene, SECOND, PLACES[1], tmp_path / "1"),
    ]
    found = merge(parts, cut_of(FIRST, SECOND), PLACES, np.arange(6), tmp_path / "merged")
    np.testing.assert_array_equal(found.usable_cameras(), np.arange(6) != 0)
    assert np.isnan(found.extrinsics[0]).all() and found.names == scene.names
    np.testing.assert_allclose(found.extrinsics[1:], scene.extrinsics[1:], atol=1e-12)
    np.testing.assert_allclose(found.depth[2][found.valid[2]], scene.depth[2][scene.valid[2]])
    write(found, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "scene.json").read_text())
    assert summary["left_out"] == {"views": ["000.png"], "points": 0}
    assert summary["views"] == list(scene.names[1:])


def test_a_part_without_any_camera_leaves_what_others_have(tmp_path: Path) -> None:
    scene = rendered_scene()
    parts = [
        part_of(scene, FIRST, PLACES[0], tmp_path / "0"),
        part_of(broken(scene, *range(6)), SECOND, PLACES[1], tmp_path / "1"),
    ]
    found = merge(parts, cut_of(FIRST, SECOND), PLACES, np.arange(6), tmp_path / "merged")
    np.testing.assert_array_equal(found.usable_cameras(), np.arange(6) < 4)


def test_a_missing_part_leaves_the_views_that_others_share(tmp_path: Path) -> None:
    scene = rendered_scene()
    parts = [part_of(scene, FIRST, PLACES[1], tmp_path / "0")]
    found = merge(parts, cut_of(FIRST), PLACES[1:], np.arange(4), tmp_path / "merged")
    np.testing.assert_allclose(found.extrinsics, scene.extrinsics[:4], atol=1e-12)
    for unknown in (4, 100):
        with pytest.raises(ValueError, match=f"view {unknown} is in none"):
            merge(parts, cut_of(FIRST), PLACES[1:], np.array([0, unknown]), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_model_without_confidence(tmp_path: Path) -> None:
    found = merged(rendered_scene(depth_conf=None, metric=False), tmp_path)
    assert found.depth_conf is None and not found.metric
    assert not (tmp_path / "merged" / "depth_conf.npy").exists()


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    parts = [part_of(rendered_scene(), FIRST, PLACES[0], tmp_path / "0")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(CovisError, match="cannot be written") as caught:
            merge(parts, cut_of(FIRST), PLACES, np.arange(4), tmp_path / "merged")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


@pytest.mark.parametrize("from_parts", [True, False])
def test_files_of_a_mapped_scene_are_those_of_the_same_scene_in_memory(
    tmp_path: Path, from_parts: bool
) -> None:
    scene = replace(
        merged(broken(rendered_scene(), 5), tmp_path),
        from_parts=from_parts,
        similarity=None if from_parts else np.eye(6, dtype=np.float32),
        provenance={"collection": {"parts": 2, "dropped": [["a", 0.5]]}},
    )
    options = OutputOptions(max_points=1_500)
    found = write(scene, tmp_path / "mapped", options)
    expected = write(in_memory(scene), tmp_path / "memory", options)
    names = [path.relative_to(tmp_path / "mapped").as_posix() for path in found.files]
    assert names == [path.relative_to(tmp_path / "memory").as_posix() for path in expected.files]
    assert ("saliency.png" in names) != from_parts
    for name in names:
        mine, theirs = tmp_path / "mapped" / name, tmp_path / "memory" / name
        if name != "scene.npz":  # which has the time of its files
            assert mine.read_bytes() == theirs.read_bytes(), name
    with np.load(tmp_path / "mapped/scene.npz") as a, np.load(tmp_path / "memory/scene.npz") as b:
        assert a.files == b.files
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])
    summary = json.loads((tmp_path / "mapped" / "scene.json").read_text())
    assert summary["provenance"]["collection"] == {"parts": 2, "dropped": [["a", 0.5]]}
    assert not list((tmp_path / "merged").glob(".covis-*"))


def test_every_point_is_written_where_any_number_is_allowed(tmp_path: Path) -> None:
    scene = merged(rendered_scene(), tmp_path)
    header = {}
    for limit in (0, 10**6):
        folder = tmp_path / f"out{limit}"
        write(scene, folder, OutputOptions(("ply",), 20.0, limit))
        header[limit] = (folder / "points.ply").read_bytes().split(b"end_header")[0]
    everything = len(scene.point_samples(percentile=20.0).xyz)
    assert f"element vertex {everything}\n".encode() in header[0]
    assert header[0] != header[10**6]


def test_memory_of_merging_and_writing_does_not_grow_with_the_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view has 56 kB of maps, and 5 kB of lines in the files' tables; 60 are added."""
    monkeypatch.setattr(percentiles, "MOST_VALUES", 1_000)
    formats = ("images", "masks", "depth", "ply", "npz", "colmap", "nerfstudio")
    options, rule = OutputOptions(formats, max_points=500), PixelRule("vggt_crop", 56, 84)
    merging, writing = [], []
    for views in (20, 80):
        scene = random_scene(views, rule=rule, similarity=None, pair_levels=None, layer_map=None)
        parts = [Part(own, np.ones(10, bool)) for own in np.arange(views).reshape(-1, 10)]
        folder = tmp_path / str(views)
        stored = [part_of(scene, part, PLACES[1], folder / f"{n}") for n, part in enumerate(parts)]
        tracemalloc.start()
        placed = merge(
            stored, cut_of(*parts), PLACES[1:] * len(parts), np.arange(views), folder / "merged"
        )
        merging.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        write(placed, folder / "out", options)
        writing.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert merging[1] - merging[0] < 60 * 2_000
    assert writing[1] - writing[0] < 60 * 8_000
