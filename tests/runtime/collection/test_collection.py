"""Whole collections through the shipped model: cut, run, joined, interrupted, resumed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.engines.errors import CovisError, ExitCode, numerics_error
from covis.runtime.collection.collection import Collection, reconstruct_collection
from covis.runtime.collection.options import CollectionOptions
from covis.runtime.collection.run_part import PartRuns
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.photos.selection import select_photos
from covis.runtime.pipeline import Pipeline, load
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.scene import Scene
from covis.runtime.workers.options import WorkerOptions
from tests.places import DEMO

VIEWS, PART = 20, 8
ORDERED = CollectionOptions(part_views=PART, ordered=True, keep_parts=True)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(DEMO)


@contextmanager
def collected(
    pipeline: Pipeline, photos: Path, work: Path, options: CollectionOptions = ORDERED, **more: Any
) -> Iterator[Collection]:
    selection = select_photos(photos, more.pop("photo_options", None))
    with reconstruct_collection(pipeline, selection, work, PART, options, **more) as found:
        yield found


def same(one: Scene, other: Scene) -> None:
    assert one.names == other.names
    for name in ("extrinsics", "intrinsics", "depth", "depth_conf", "valid", "images"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_parts_become_one_scene(
    pipeline: Pipeline, collection_photos: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    with collected(pipeline, collection_photos, tmp_path / "parts", on_note=said.append) as found:
        (scene,) = found.scenes
        assert len(scene) == VIEWS and scene.usable_cameras().all()
        assert scene.names == tuple(f"view_{i:03d}.jpg" for i in range(VIEWS))
        assert scene.paths is not None and scene.paths[3] == collection_photos / "view_003.jpg"
        # The world is that of the first part: its first view, as the model sees it.
        np.testing.assert_allclose(scene.extrinsics[0], np.eye(3, 4), atol=0.05)
        record = scene.provenance["collection"]
        assert record["photos"] == VIEWS and sum(p["core"] for p in record["parts"]) == VIEWS
        assert all(p["views"] <= PART for p in record["parts"])
        assert all(link["shared_views"] >= 3 for link in record["links"])
        assert any("joined by" in note for note in found.notes)
    assert said[0].startswith(f"{VIEWS} photos in {len(record['parts'])} parts of ")


def test_an_interrupted_collection_goes_on_where_it_stopped(
    pipeline: Pipeline, collection_photos: Path, tmp_path: Path
) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "parts" and done == 2:
            raise KeyboardInterrupt

    work = tmp_path / "parts"
    with (
        pytest.raises(KeyboardInterrupt),
        collected(pipeline, collection_photos, work, progress=interrupt),
    ):
        pytest.fail("it was not interrupted")
    finished = sorted((work / "parts").iterdir())
    assert len(finished) == 2
    before = [folder.stat().st_mtime_ns for folder in finished]
    counted: list[tuple[int, int]] = []
    with (
        collected(
            pipeline,
            collection_photos,
            work,
            progress=lambda s, d, t: counted.append((d, t)) if s == "parts" else None,
        ) as resumed,
        collected(pipeline, collection_photos, tmp_path / "whole") as whole,
    ):
        same(resumed.scenes[0], whole.scenes[0])
        parts = len(whole.scenes[0].provenance["collection"]["parts"])
    assert counted[-1] == (parts - 2, parts - 2)
    assert [folder.stat().st_mtime_ns for folder in finished] == before


def test_workers_give_the_same_scene(
    pipeline: Pipeline, collection_photos: Path, tmp_path: Path
) -> None:
    run = dataclasses.replace(pipeline.options, threads=1)
    with (
        collected(load(DEMO, run), collection_photos, tmp_path / "one") as one,
        collected(
            load(DEMO, run), collection_photos, tmp_path / "two", workers=WorkerOptions(workers=2)
        ) as two,
    ):
        same(one.scenes[0], two.scenes[0])


def test_a_photo_that_changed_between_two_runs_is_named(
    pipeline: Pipeline, collection_photos: Path, tmp_path: Path
) -> None:
    photos, work = tmp_path / "photos", tmp_path / "parts"
    shutil.copytree(collection_photos, photos)
    with collected(pipeline, photos, work):
        pass
    photo = photos / "view_007.jpg"
    os.utime(photo, ns=(0, photo.stat().st_mtime_ns + 1))
    with (
        pytest.raises(CovisError, match=r"view_007\.jpg: has changed .*--restart"),
        collected(pipeline, photos, work),
    ):
        pytest.fail("the change was not noticed")
    (photos / "view_008.jpg").unlink()
    with (
        pytest.raises(CovisError, match=r"view_008\.jpg: is missing now"),
        collected(pipeline, photos, work),
    ):
        pytest.fail("the missing photo was not noticed")
    restart = dataclasses.replace(ORDERED, restart=True)
    with collected(pipeline, photos, work, restart) as found:
        assert len(found.scenes[0]) == VIEWS - 1


def test_a_part_without_finite_numbers_is_left_out_and_named(
    pipeline: Pipeline,
    collection_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Pipeline.__call__

    def failing(self: Pipeline, photos: Any, **options: Any) -> Scene:
        if photos.names[-1] == f"view_{VIEWS - 1:03d}.jpg":
            raise numerics_error("3 of 5 numbers are not finite", where="stage depth")
        return run(self, photos, **options)

    monkeypatch.setattr(Pipeline, "__call__", failing)
    with collected(pipeline, collection_photos, tmp_path / "parts") as found:
        (scene,) = found.scenes
        assert 1 <= VIEWS - len(scene) <= PART
        assert any("has no result: stage depth: 3 of 5" in note for note in found.notes)
        missing = next(note for note in found.notes if note.startswith("in no scene: "))
        assert f"view_{VIEWS - 1:03d}.jpg" in missing
        assert len(scene.provenance["collection"]["failed"]) == 1
    monkeypatch.setattr(
        Pipeline, "__call__", lambda *_, **__: (_ for _ in ()).throw(numerics_error("nan"))
    )
    with (
        pytest.raises(CovisError, match="no part has finite results; the first: nan") as failure,
        collected(pipeline, collection_photos, tmp_path / "none"),
    ):
        pytest.fail("no part has a result")
    assert failure.value.code == ExitCode.NUMERICS


def test_a_bad_photo_stops_the_run_or_is_passed_over(
    pipeline: Pipeline, collection_photos: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(collection_photos, photos)
    (photos / "view_005.jpg").write_bytes(b"no photo")
    with (
        pytest.raises(CovisError, match=r"view_005\.jpg.*--skip-bad"),
        collected(pipeline, photos, tmp_path / "parts"),
    ):
        pytest.fail("the photo was decoded")
    skip = PhotoOptions(skip_bad=True)
    with collected(pipeline, photos, tmp_path / "parts2", photo_options=skip) as found:
        assert len(found.scenes[0]) == VIEWS - 1
        assert any("passed over" in note and "view_005" in note for note in found.notes)


def test_cameras_are_shared_over_all_parts_and_the_world_is_the_first_view(
    pipeline: Pipeline, collection_photos: Path, tmp_path: Path
) -> None:
    options = SceneOptions(shared_camera=True, world="view0")
    unordered = dataclasses.replace(ORDERED, ordered=False)
    with collected(
        pipeline, collection_photos, tmp_path / "parts", unordered, scene_options=options
    ) as found:
        scene = found.scenes[0]
        assert len(np.unique(scene.camera_groups())) == 1
        np.testing.assert_array_equal(scene.extrinsics[0], np.eye(3, 4))


def test_photos_that_nothing_connects_are_no_scene(
    pipeline: Pipeline,
    collection_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("covis.runtime.collection.assemble._FEWEST_VIEWS", VIEWS + 1)
    with (
        pytest.raises(CovisError, match=f"no two of {VIEWS} photos belong together; give"),
        collected(pipeline, collection_photos, tmp_path / "parts"),
    ):
        pytest.fail("there is a scene")


def test_without_scipy_nothing_is_begun(
    pipeline: Pipeline,
    collection_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with (
        pytest.raises(CovisError, match=r"pip install 'covis\[collection\]'") as failure,
        collected(pipeline, collection_photos, tmp_path / "parts"),
    ):
        pytest.fail("it was begun")
    assert failure.value.code == ExitCode.ENVIRONMENT and not (tmp_path / "parts").exists()


def test_a_worker_refuses_another_bundle(pipeline: Pipeline) -> None:
    runs = PartRuns(
        DEMO, "0" * 64, pipeline.options, pipeline.bundle.manifest.sparsity, SceneOptions()
    )
    with pytest.raises(CovisError, match="not the bundle that this run started with"):
        runs()
