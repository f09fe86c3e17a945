"""Photos to a scene through a bundle, with and without the CPU kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
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
from tests.engines.mini_bundle import edit_graph

ALL = Sparsity(selector="saliency", tau=0.0, layers="all")
DIAGONAL = replace(ALL, tau=1.0, reference=False)


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
    assert scene.similarity is not None and scene.pair_levels is not None
    assert scene.pair_levels.shape == (1, 4, 4) and (scene.pair_levels == 2).all()
    assert scene.layer_map is not None and scene.layer_map.tolist() == [0, 0, 0, 0]
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


SPARSE = {
    "dense": Sparsity("dense"),
    "light": Sparsity("light", anchors=2),
    "saliency": replace(ALL, tau=0.95),
    "anchors": Sparsity("anchors", anchors=2, min_neighbours=0),
    "pooled": Sparsity("pooled", layers="all", keep_ratio=0.5),
    "both": Sparsity("both", tau=0.95, layers="all", keep_ratio=0.5),
    "schedule": Sparsity(
        "anchors", schedule="0:self, 1:saliency=0.95, 2:anchors=2, 3:anchors=3+pooled=0.5"
    ),
}


@pytest.mark.skipif(find_library(ORT_LIBRARY) is None, reason="the CPU kernel was not built")
@pytest.mark.parametrize("name", SPARSE)
def test_kernel_and_function_bodies_agree(tiny_bundle: Path, photos: Path, name: str) -> None:
    scenes = [
        load(tiny_bundle, RunOptions(kernel=kernel))(photos, sparsity=SPARSE[name])
        for kernel in (True, False)
    ]
    assert close(*scenes)
    assert scenes[0].sparsity is not None and scenes[1].sparsity is not None
    np.testing.assert_array_equal(scenes[0].sparsity.kept_blocks, scenes[1].sparsity.kept_blocks)
    np.testing.assert_array_equal(scenes[0].pair_levels, scenes[1].pair_levels)
    np.testing.assert_array_equal(scenes[0].anchors, scenes[1].anchors)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", SPARSE)
def test_one_view_and_two(pipeline: Pipeline, photos: Path, name: str, views: int) -> None:
    scene = pipeline(find(photos).photos[:views], sparsity=SPARSE[name])
    assert len(scene) == views and np.isfinite(scene.depth).all()
    assert scene.pair_levels is not None and scene.pair_levels.shape[1:] == (views, views)
    assert (scene.pair_levels.diagonal(axis1=1, axis2=2) == 2).all()
    if views == 1:
        assert scene.sparsity is not None and scene.sparsity.attention_work == 1


def test_a_schedule_as_a_scene_shows_it(pipeline: Pipeline, photos: Path) -> None:
    text = "0:self, 1-2:anchors=2, 3:dense"
    chosen = Sparsity("anchors", schedule=text, min_neighbours=0)
    scene = pipeline(photos, sparsity=chosen)
    report, levels, anchors = scene.sparsity, scene.pair_levels, scene.anchors
    assert report is not None and levels is not None and anchors is not None
    assert scene.layer_map is not None and scene.layer_map.tolist() == [0, 1, 1, 2]
    assert anchors[0] == 0 and len(set(anchors)) == 2, "the reference view is the first anchor"
    own = np.eye(4, dtype=bool)
    np.testing.assert_array_equal(levels[0], 2 * own)
    expected = own | np.isin(np.arange(4), anchors)
    np.testing.assert_array_equal(levels[1], 2 * expected)
    assert (levels[2] == 2).all()
    assert scene.pair_level is None, "two maps, and the scene has no single one"
    assert (report.selector, report.reason, report.layers) == ("anchors", "", (0, 1, 2))
    shares = [4 / 16, expected.mean(), expected.mean()]
    np.testing.assert_allclose(report.kept_blocks, np.repeat(shares, 2).reshape(3, 2))
    assert report.relative_blocks == pytest.approx(np.mean(shares))
    assert report.attention_work == pytest.approx((sum(shares) + 1) / 4)
    assert report.kept_pairs == expected.sum()


def test_a_smaller_budget_takes_the_first_anchors(pipeline: Pipeline, photos: Path) -> None:
    few, all_of_them = (
        pipeline(photos, sparsity=Sparsity("anchors", anchors=n)).anchors for n in (2, 4)
    )
    assert few is not None and all_of_them is not None
    assert few.tolist() == all_of_them[:2].tolist()
    assert sorted(all_of_them) == [0, 1, 2, 3]


def test_more_anchors_than_views_are_noted(tiny_bundle: Path, photos: Path) -> None:
    pipeline = load(tiny_bundle)
    scene = pipeline(photos, sparsity=Sparsity("anchors", anchors=25, layers="all"))
    assert pipeline.notes == ["25 anchors are more than the 4 views: every view is an anchor"]
    assert scene.anchors is not None and len(scene.anchors) == 4
    assert close(scene, pipeline(photos, sparsity=replace(ALL, selector="dense")))
    assert scene.sparsity is not None and scene.sparsity.attention_work == 1


@pytest.mark.parametrize(
    ("dense", "light", "selector", "reason"),
    [
        (50, 250, "dense", "up to 50 views nothing is left out"),
        (3, 4, "light", "more than 3 views, up to 4"),
        (2, 3, "anchors", "more than 3 views"),
    ],
)
def test_auto_follows_the_number_of_views(
    pipeline: Pipeline, photos: Path, dense: int, light: int, selector: str, reason: str
) -> None:
    auto = Sparsity(dense_up_to=dense, light_up_to=light, anchors=2, min_neighbours=0)
    scene = pipeline(photos, sparsity=auto)
    assert scene.sparsity is not None
    assert (scene.sparsity.selector, scene.sparsity.reason) == (selector, reason)
    assert scene.provenance["sparsity"]["selector"] == selector
    asked = pipeline(photos, sparsity=replace(auto, selector=selector))  # type: ignore[arg-type]
    assert close(scene, asked, 0)
    assert (scene.sparsity.attention_work < 1) == (selector != "dense")


def test_what_the_user_asks_for_wins_over_auto(tiny_bundle: Path, photos: Path) -> None:
    scene = covis.reconstruct(photos, tiny_bundle, tau=1.0, layers="all", reference=False)
    assert scene.sparsity is not None and scene.sparsity.selector == "saliency"
    assert scene.sparsity.kept_pairs == 4
    anchored = covis.reconstruct(photos, tiny_bundle, schedule="0-1:self, 2-3:anchors=1")
    assert anchored.sparsity is not None and anchored.sparsity.selector == "anchors"
    assert anchored.anchors is not None and anchored.anchors.tolist() == [0]


@pytest.mark.parametrize("schedule", ["0-4:self", "0-2:self"])
def test_a_schedule_that_does_not_fit_the_model(
    pipeline: Pipeline, photos: Path, schedule: str
) -> None:
    with pytest.raises(CovisError, match=r"--schedule: .*(no global layer 4|leaves out layer 3)"):
        pipeline(photos, sparsity=Sparsity("anchors", schedule=schedule))


@pytest.mark.parametrize("kernel", [True, False])
def test_similarities_that_are_not_finite_name_their_stage(
    tiny_copy: Path, photos: Path, kernel: bool
) -> None:
    """FarthestFirst and the pair rules read them, too, and the run ends with one line."""

    def spoil(model: onnx.ModelProto) -> None:
        nodes = list(model.graph.node)
        (place,) = (i for i, node in enumerate(nodes) if "similarity" in node.output)
        nodes[place].output[0] = "cosine"
        root = onnx.helper.make_node("Sqrt", ["opposite"], ["similarity"])
        opposite = onnx.helper.make_node("Neg", ["cosine"], ["opposite"])
        nodes[place + 1 : place + 1] = [opposite, root]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    edit_graph(tiny_copy, "saliency", spoil)
    with pytest.raises(CovisError, match=r"stage saliency, output similarity: .* are not finite"):
        load(tiny_copy, RunOptions(kernel=kernel))(photos, sparsity=Sparsity("anchors"))


def test_keeping_everything_is_dense(pipeline: Pipeline, photos: Path) -> None:
    dense = pipeline(photos, sparsity=replace(ALL, selector="dense"))
    assert close(pipeline(photos, sparsity=ALL), dense)
    pooled = replace(ALL, selector="pooled", keep_ratio=1.0)
    assert close(pipeline(photos, sparsity=pooled), dense)
    assert close(pipeline(photos, sparsity=replace(pooled, order="hilbert")), dense)


def test_options_reach_the_graphs_at_run_time(pipeline: Pipeline, photos: Path) -> None:
    dense = pipeline(photos, sparsity=replace(ALL, selector="dense"))
    alone = pipeline(photos, sparsity=DIAGONAL)
    assert alone.sparsity is not None and alone.pair_level is not None
    assert alone.sparsity.kept_pairs == 4
    assert (alone.pair_level == 2 * np.eye(4)).all()
    assert not close(alone, dense)
    with_reference = pipeline(photos, sparsity=replace(DIAGONAL, reference=True))
    assert with_reference.sparsity is not None and with_reference.sparsity.kept_pairs == 4 + 6
    neighbours = pipeline(photos, sparsity=replace(DIAGONAL, min_neighbours=1))
    assert neighbours.sparsity is not None and neighbours.sparsity.kept_pairs >= 8
    low = pipeline(photos, sparsity=replace(DIAGONAL, low_precision=True))
    assert low.pair_level is not None and set(np.unique(low.pair_level)) == {1, 2}
    none = pipeline(photos, sparsity=replace(DIAGONAL, layers="none"))
    assert close(none, dense)
    first = pipeline(photos, sparsity=replace(DIAGONAL, layers="0"))
    assert not close(first, dense) and not close(first, alone)


def test_attention_mass_is_measured_on_request(tiny_bundle: Path, photos: Path) -> None:
    pipeline = load(tiny_bundle, RunOptions(probes=50))
    dense = pipeline(photos, sparsity=ALL).sparsity
    assert dense is not None and dense.attention_mass is not None
    np.testing.assert_allclose(dense.attention_mass, 1.0, atol=1e-5)
    alone = pipeline(photos, sparsity=DIAGONAL).sparsity
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
