"""Photos to a scene through a bundle, with and without the CPU kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import covis
from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError
from covis.engines.options import RunOptions, Sparsity
from covis.engines.system.native import ORT_LIBRARY, find_library
from covis.runtime.backends.backend import OnnxRuntimeBackend
from covis.runtime.photos.find import find
from covis.runtime.pipeline import Pipeline, load
from covis.runtime.scene.scene import Scene

ALL = Sparsity(selector="saliency", tau=0.0, layers="all")


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return load(tiny_bundle)


def close(a: Scene, b: Scene, tolerance: float = 1e-4) -> bool:
    """Require that two runs differ only by the order of summation."""
    pairs = [(a.depth, b.depth), (a.points, b.points), (a.extrinsics, b.extrinsics)]
    return all(np.abs(x - y).max() <= tolerance * np.abs(y).max() for x, y in pairs)  # type: ignore[operator]


def test_scene_has_every_part(pipeline: Pipeline, photos: Path) -> None:
    scene = pipeline(photos)
    assert scene.names == tuple(path.name for path in find(photos).photos)
    assert scene.extrinsics.shape == (4, 3, 4)
    rotation = scene.extrinsics[:, :, :3]
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.eye(3)[None].repeat(4, 0), atol=1e-6
    )
    assert scene.depth.shape == (4, 56, 84)
    assert scene.similarity is not None and scene.pair_level is not None
    np.testing.assert_allclose(np.diag(scene.similarity), 1.0, atol=1e-5)
    assert scene.provenance["bundle"] == pipeline.bundle.digest()
    assert scene.provenance["sparsity"]["tau"] == 0.9
    assert not scene.metric


def test_one_array_is_not_a_list_of_photos(pipeline: Pipeline) -> None:
    """Its rows would pass as grey photos."""
    with pytest.raises(CovisError, match="photos: one array is one photo; give a list of photos"):
        pipeline(np.zeros((56, 84, 3), np.uint8))  # type: ignore[arg-type]


def test_chunks_do_not_change_the_result(tiny_bundle: Path, photos: Path) -> None:
    one, three = (load(tiny_bundle, RunOptions(chunk=n))(photos) for n in (1, 3))
    assert close(one, three)


@pytest.mark.skipif(find_library(ORT_LIBRARY) is None, reason="the CPU kernel was not built")
@pytest.mark.parametrize("selector", ["dense", "saliency", "pooled", "both"])
def test_kernel_and_function_bodies_agree(tiny_bundle: Path, photos: Path, selector: str) -> None:
    sparsity = Sparsity(selector=selector, tau=0.95, layers="all", keep_ratio=0.5)  # type: ignore[arg-type]
    scenes = [
        load(tiny_bundle, RunOptions(kernel=kernel))(photos, sparsity=sparsity)
        for kernel in (True, False)
    ]
    assert close(*scenes)
    assert scenes[0].sparsity is not None and scenes[1].sparsity is not None
    np.testing.assert_array_equal(scenes[0].sparsity.kept_blocks, scenes[1].sparsity.kept_blocks)


def test_keeping_everything_is_dense(pipeline: Pipeline, photos: Path) -> None:
    dense = pipeline(photos, sparsity=replace(ALL, selector="dense"))
    assert close(pipeline(photos, sparsity=ALL), dense)
    pooled = replace(ALL, selector="pooled", keep_ratio=1.0)
    assert close(pipeline(photos, sparsity=pooled), dense)
    assert close(pipeline(photos, sparsity=replace(pooled, order="hilbert")), dense)


def test_options_reach_the_graphs_at_run_time(pipeline: Pipeline, photos: Path) -> None:
    dense = pipeline(photos, sparsity=replace(ALL, selector="dense"))
    diagonal = Sparsity(tau=1.0, layers="all", reference=False)
    alone = pipeline(photos, sparsity=diagonal)
    assert alone.sparsity is not None and alone.pair_level is not None
    assert alone.sparsity.kept_pairs == 4
    assert (alone.pair_level == 2 * np.eye(4)).all()
    assert not close(alone, dense)
    with_reference = pipeline(photos, sparsity=replace(diagonal, reference=True))
    assert with_reference.sparsity is not None and with_reference.sparsity.kept_pairs == 4 + 6
    neighbours = pipeline(photos, sparsity=replace(diagonal, min_neighbours=1))
    assert neighbours.sparsity is not None and neighbours.sparsity.kept_pairs >= 8
    low = pipeline(photos, sparsity=replace(diagonal, low_precision=True))
    assert low.pair_level is not None and set(np.unique(low.pair_level)) == {1, 2}
    none = pipeline(photos, sparsity=replace(diagonal, layers="none"))
    assert close(none, dense)
    first = pipeline(photos, sparsity=replace(diagonal, layers="0"))
    assert not close(first, dense) and not close(first, alone)


def test_attention_mass_is_measured_on_request(tiny_bundle: Path, photos: Path) -> None:
    pipeline = load(tiny_bundle, RunOptions(probes=50))
    dense = pipeline(photos, sparsity=ALL).sparsity
    assert dense is not None and dense.attention_mass is not None
    np.testing.assert_allclose(dense.attention_mass, 1.0, atol=1e-5)
    alone = pipeline(photos, sparsity=Sparsity(tau=1.0, layers="all", reference=False)).sparsity
    assert alone is not None and alone.attention_mass is not None
    assert alone.attention_mass.shape == (4, 2)
    assert (alone.attention_mass < 0.95).all() and (alone.attention_mass > 0.05).all()
    pooled = Sparsity(selector="pooled", layers="1-2", keep_ratio=0.5)
    report = pipeline(photos, sparsity=pooled).sparsity
    assert report is not None and report.layers == (1, 2)
    assert report.kept_blocks.shape == (2, 2)
    assert load(tiny_bundle)(photos).sparsity.attention_mass is None  # type: ignore[union-attr]


def test_reconstruct_takes_single_changes(tiny_bundle: Path, photos: Path) -> None:
    scene = covis.reconstruct(find(photos).photos[:1], tiny_bundle, tau=0.5, selector="dense")
    assert len(scene) == 1
    with pytest.raises(CovisError, match="tau"):
        covis.reconstruct(photos, tiny_bundle, tau=2.0)


def test_arrays_and_pil_images_serve_as_photos(pipeline: Pipeline, photos: Path) -> None:
    from PIL import Image

    opened = [Image.open(path) for path in find(photos).photos]
    arrays = [np.asarray(image) for image in opened]
    from_files = pipeline(photos)
    assert close(pipeline(arrays), from_files, 0)
    assert close(pipeline(opened), from_files, 0)


def test_progress_names_every_stage(tiny_bundle: Path, photos: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    load(tiny_bundle, RunOptions(chunk=3))(photos, progress=lambda *x: calls.append(x))
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    assert stages == ["images", "encoder", "saliency", "aggregator", "camera", "depth", "points"]
    assert [done for stage, done, _ in calls if stage == "depth"] == [0, 3, 4]


def test_overflow_is_named_with_its_stage_and_photo(tiny_bundle: Path, photos: Path) -> None:
    from covis.runtime.stage_io import check_finite

    pipeline = load(tiny_bundle)
    stage = pipeline.bundle.manifest.stage("depth")
    images = pipeline.load_photos(photos)
    depth = np.ones((4, 56, 84), np.float32)
    depth[2, 5, 6] = np.nan
    with pytest.raises(CovisError, match=r"stage depth, output depth, photo view_002") as caught:
        check_finite(stage, "depth", depth, images)
    assert caught.value.code == 4


def test_second_run_loads_nothing_again(pipeline: Pipeline, photos: Path) -> None:
    pipeline(photos)
    backend = pipeline.backend
    assert isinstance(backend, OnnxRuntimeBackend)
    before = dict(backend.sessions)
    pipeline(photos)
    assert pipeline.backend is backend
    assert {k: id(v) for k, v in before.items()} == {k: id(v) for k, v in backend.sessions.items()}


def test_bundle_digest_is_of_the_manifest(tiny_bundle: Path) -> None:
    import hashlib

    digest = hashlib.sha256((tiny_bundle / "manifest.json").read_bytes()).hexdigest()
    assert open_bundle(tiny_bundle).digest() == digest
