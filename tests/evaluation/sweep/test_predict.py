"""The maps and the work that a search predicts are those of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from covis.commands.demo import demo_bundle
from covis.engines.options import RunOptions, Sparsity
from covis.engines.pair_rules import pair_rules
from covis.evaluation.sweep.predict import attention_work, farthest_first, pair_levels
from covis.runtime.pipeline import Pipeline, load
from covis.synthetic.photos import demo_scene, write_photos

VIEWS = 9
SETTINGS = (
    Sparsity("dense"),
    Sparsity("saliency", tau=0.9, layers="all"),
    Sparsity("saliency", tau=0.8, min_neighbours=2, reference=False),
    Sparsity("saliency", tau=0.95, tau_low=0.7),
    Sparsity("anchors", anchors=3),
    Sparsity("anchors", anchors=4, own_frame=False, layers="all"),
    Sparsity("anchors", anchors=2, min_neighbours=0, low_precision=True),
    Sparsity("anchors", anchors=3, anchor_choice="uniform"),
    Sparsity("anchors", anchors=3, anchor_choice="random", anchor_seed=4),
    Sparsity("anchors", anchors=3, anchor_choice="similar", reference=False),
    Sparsity("anchors", anchors=VIEWS + 5, min_neighbours=1),
    Sparsity("light", anchors=5, min_neighbours=1),
    Sparsity("anchors", schedule="0:self, 1-3:saliency=0.9, 4-5:anchors=2, 6-7:anchors=4"),
)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(demo_bundle(), RunOptions(threads=1, chunk=VIEWS))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "photos"
    write_photos(folder, demo_scene(VIEWS, 112, 112))
    return folder


@pytest.mark.parametrize("sparsity", SETTINGS, ids=range(len(SETTINGS)))
def test_maps_and_work_are_those_of_the_run(
    pipeline: Pipeline, photos: Path, sparsity: Sparsity
) -> None:
    scene = pipeline(photos, sparsity=sparsity)
    model = pipeline.bundle.manifest.model
    assert scene.similarity is not None and scene.pair_levels is not None and scene.sparsity
    rules = pair_rules(sparsity, model.global_layers, VIEWS, model.reference_view)
    np.testing.assert_array_equal(pair_levels(scene.similarity, rules), scene.pair_levels)
    work = attention_work(scene.similarity, sparsity, model.global_layers, model.reference_view)
    assert work == pytest.approx(scene.sparsity.attention_work, abs=1e-6)
    if scene.anchors is not None:
        most = int(rules.anchors.max())
        rank = farthest_first(scene.similarity, rules.anchor_order, most)
        assert (
            np.argsort(rank, kind="stable")[: min(most, VIEWS)].tolist() == scene.anchors.tolist()
        )


def test_the_farthest_view_comes_first() -> None:
    """Views on a line: the middle one is most similar to all, then come the ends."""
    place = np.array([0.0, 1.0, 2.0, 3.5, 9.0])
    similarity = 1 - np.abs(place[:, None] - place[None, :]) / 9
    free = np.full(5, -1, np.int64)
    assert farthest_first(similarity, free, 5).tolist() == [2, 4, 0, 3, 1]
    assert farthest_first(similarity, free, 2).tolist() == [5, 5, 0, 5, 1]
    assert farthest_first(similarity, np.array([3, 3, -1, 9, -1]), 9).tolist() == [2, 4, 3, 0, 1]


def test_similarities_of_equal_views_take_the_lowest_index() -> None:
    alike = np.ones((5, 5), np.float32)
    assert farthest_first(alike, np.full(5, -1, np.int64), 3).tolist() == [0, 1, 2, 5, 5]
    rules = pair_rules(Sparsity("anchors", anchors=1, layers="all", min_neighbours=2), 2, 5, False)
    kept = pair_levels(alike, rules)[0] > 0
    expected = [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 3], [0, 1, 4]]
    assert [np.flatnonzero(row).tolist() for row in kept] == expected


def test_a_model_without_global_layers_computes_everything() -> None:
    assert attention_work(np.eye(3, dtype=np.float32), Sparsity("dense"), 0, True) == 1.0
