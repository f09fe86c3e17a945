"""Descriptors of photos: the similarity of an ordinary run, resumed, with faults named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covis.engines.errors import CovisError, ExitCode
from covis.engines.options import RunOptions, Sparsity
from covis.runtime.collection import descriptors as describing
from covis.runtime.collection.descriptors import describe, pooled
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.photos.selection import Selection, select_photos
from covis.runtime.pipeline import Pipeline, load
from tests.places import DEMO


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(DEMO, RunOptions(threads=1))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(7):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC).save(
            folder / f"IMG_{seed}.png"
        )
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def selected(photos: Path, skip_bad: bool = False) -> Selection:
    return select_photos(photos, PhotoOptions(skip_bad=skip_bad))


def test_their_cosines_are_the_similarity_of_a_run(
    pipeline: Pipeline, photos: Path, work: Path
) -> None:
    found = describe(pipeline, selected(photos), work, at_once=3)
    vectors = found.descriptors
    assert vectors.dtype == np.float32 and vectors.shape == (7, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    scene = pipeline(photos, sparsity=Sparsity("anchors", anchors=1, min_neighbours=0))
    assert scene.similarity is not None and found.selection.names == scene.names
    np.testing.assert_allclose(vectors @ vectors.T, scene.similarity, atol=1e-5)


def test_pooled_tokens() -> None:
    tokens = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    tokens[0, 0] *= 1000  # without the scaling of each token, it alone would decide
    units = tokens / np.linalg.norm(tokens, axis=2, keepdims=True)
    mean = units.mean(axis=1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(pooled(tokens), expected, atol=1e-6)
    np.testing.assert_allclose(pooled(tokens.astype(np.float16)), expected, atol=2e-3)
    assert not pooled(np.zeros((1, 3, 4), np.float32)).any()


def test_an_interrupted_pass_goes_on(
    pipeline: Pipeline, photos: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = describe(pipeline, selected(photos), work, at_once=3).descriptors
    (work / "descriptors-00001.npz").unlink()
    computed: list[int] = []
    load_photos = Selection.load

    def counted(self: Selection, rule: object) -> object:
        computed.extend(int(name[4]) for name in self.names)
        return load_photos(self, rule)  # type: ignore[arg-type]

    monkeypatch.setattr(Selection, "load", counted)
    steps: list[tuple[str, int, int]] = []
    again = describe(
        pipeline, selected(photos), work, at_once=3, progress=lambda *step: steps.append(step)
    )
    np.testing.assert_array_equal(again.descriptors, whole)
    assert computed == [2, 3], "only the slice that was missing"
    assert steps == [("descriptors", done, 7) for done in (0, 2, 4, 7)]


def test_changes_between_two_passes_are_noticed(
    pipeline: Pipeline, photos: Path, work: Path
) -> None:
    describe(pipeline, selected(photos), work, at_once=3)

    def refused(message: str) -> None:
        with pytest.raises(CovisError, match=message) as caught:
            describe(pipeline, selected(photos), work, at_once=3)
        assert caught.value.code == ExitCode.USER and "--restart" in str(caught.value)

    os.utime(photos / "IMG_5.png", ns=(1, 1))
    refused(r"IMG_5\.png: has changed since its descriptor was computed")
    (photos / "IMG_3.png").unlink()
    refused(r"the photos are others than when this collection was begun")


def test_another_bundle_is_noticed(
    pipeline: Pipeline, photos: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(pipeline, selected(photos), work)
    monkeypatch.setattr(type(pipeline.bundle), "digest", lambda self: "other")
    with pytest.raises(CovisError, match=r"descriptors-00000\.npz: was computed with another"):
        describe(pipeline, selected(photos), work)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_damaged_file_is_named(
    pipeline: Pipeline, photos: Path, work: Path, content: bytes
) -> None:
    (work / "descriptors-00000.npz").write_bytes(content)
    with pytest.raises(CovisError, match=r"descriptors-00000\.npz: is damaged .*; remove it"):
        describe(pipeline, selected(photos), work)


def test_bad_photos(pipeline: Pipeline, photos: Path, work: Path) -> None:
    for seed in (2, 3, 6):  # the whole of a slice, and one of another
        (photos / f"IMG_{seed}.png").write_bytes(b"no photo")
    with pytest.raises(CovisError, match=r"IMG_2\.png: .*--skip-bad"):
        describe(pipeline, selected(photos), work, at_once=3)
    names = ("IMG_0.png", "IMG_1.png", "IMG_4.png", "IMG_5.png")
    for _ in range(2):  # the second time from the files
        found = describe(pipeline, selected(photos, skip_bad=True), work, at_once=3)
        assert found.selection.names == names and len(found.descriptors) == 4
        notes = [note for note in found.selection.notes if "passed over" in note]
        assert [f"IMG_{seed}.png" in note for seed, note in zip((2, 3, 6), notes, strict=True)] == [
            True
        ] * 3


def test_no_good_photo(pipeline: Pipeline, photos: Path, work: Path) -> None:
    for path in photos.iterdir():
        path.write_bytes(b"no photo")
    with pytest.raises(CovisError, match="none of 7 photos can be decoded; the first: passed over"):
        describe(pipeline, selected(photos, skip_bad=True), work, at_once=3)


def test_a_folder_that_cannot_be_written(pipeline: Pipeline, photos: Path, work: Path) -> None:
    with pytest.raises(CovisError) as caught:
        describe(pipeline, selected(photos), work / "missing")
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert describing.PHOTOS_AT_ONCE >= 1
