"""A caller's map of view pairs or anchors instead of the selector's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import covis
from covis.engines.errors import CovisError
from covis.engines.options import Sparsity
from covis.runtime.pipeline import Pipeline, load

SPARSE = Sparsity(selector="saliency", tau=0.999, layers="all", reference=False)


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return load(tiny_bundle)


def test_the_map_found_by_saliency_given_back_changes_nothing(
    pipeline: Pipeline, photos: Path
) -> None:
    found = pipeline(photos, sparsity=replace(SPARSE, tau=0.97))
    assert found.pair_level is not None
    again = pipeline(photos, sparsity=SPARSE, pair_level=found.pair_level)
    np.testing.assert_array_equal(again.pair_level, found.pair_level)
    np.testing.assert_array_equal(again.depth, found.depth)
    np.testing.assert_array_equal(again.extrinsics, found.extrinsics)
    assert again.provenance["pair_level"] == "given by the caller"
    assert "pair_level" not in found.provenance


def test_the_map_decides_alone(pipeline: Pipeline, photos: Path) -> None:
    """All pairs are dense whatever tau is; a chain is one-sided and counted as it is."""
    dense = pipeline(photos, sparsity=replace(SPARSE, selector="dense"))
    full = pipeline(photos, sparsity=SPARSE, pair_level=np.full((4, 4), 2))
    np.testing.assert_allclose(full.extrinsics, dense.extrinsics, atol=1e-5)
    chain = 2 * (np.eye(4, dtype=np.int64) + np.eye(4, k=1, dtype=np.int64))
    scene = covis.reconstruct(
        photos, pipeline.bundle.path, sparsity=replace(SPARSE, selector="both"), pair_level=chain
    )
    assert scene.sparsity is not None and scene.sparsity.kept_pairs == 7
    assert not np.allclose(scene.extrinsics, dense.extrinsics, atol=1e-5)


def test_the_map_is_that_of_the_sparse_layers_alone(pipeline: Pipeline, photos: Path) -> None:
    """Even where tau = 0 would make saliency's own map that of a dense layer."""
    first = replace(SPARSE, tau=0.0, layers="0")
    scene = pipeline(photos, sparsity=first, pair_level=2 * np.eye(4, dtype=np.int8))
    assert scene.layer_map is not None and scene.layer_map.tolist() == [0, 1, 1, 1]
    assert scene.pair_levels is not None and (scene.pair_levels[1] == 2).all()
    np.testing.assert_array_equal(scene.pair_levels[0], 2 * np.eye(4))
    np.testing.assert_array_equal(scene.pair_level, 2 * np.eye(4))
    alone = pipeline(photos, sparsity=replace(first, tau=1.0))
    np.testing.assert_array_equal(scene.depth, alone.depth)


@pytest.mark.parametrize(
    ("pair_level", "selector", "message"),
    [
        (np.full((3, 3), 2), "saliency", r"has shape \(3, 3\); give \(4, 4\) for these views"),
        (np.full((4, 4), 3), "saliency", "something else than the integers 0, 1 and 2"),
        (np.full((4, 4), 2.0), "saliency", "something else than the integers"),
        (np.ones((4, 4), bool), "saliency", r"a mask of bools is `2 \* mask`"),
        (np.full((4, 4), 1), "both", "self-pair .*set its diagonal to 2"),
        (np.full((4, 4), 2), "dense", "the selector 'dense' takes no pairs"),
        (np.full((4, 4), 2), "pooled", "the selector 'pooled' takes no pairs"),
        (np.full((4, 4), 2), "anchors", "the selector 'anchors' takes no pairs"),
        (np.full((4, 4), 2), "light", "the selector 'light' takes no pairs"),
    ],
)
def test_what_is_no_map(
    pipeline: Pipeline, photos: Path, pair_level: Any, selector: Any, message: str
) -> None:
    with pytest.raises(CovisError, match=message) as caught:
        pipeline(photos, sparsity=replace(SPARSE, selector=selector), pair_level=pair_level)
    assert caught.value.code == 2 and "\n" not in str(caught.value)


ANCHORS = Sparsity(selector="anchors", anchors=2, layers="all", min_neighbours=0)


def test_anchors_found_by_k_center_given_back_change_nothing(
    pipeline: Pipeline, photos: Path
) -> None:
    found = pipeline(photos, sparsity=ANCHORS)
    assert found.anchors is not None
    again = pipeline(photos, sparsity=ANCHORS, anchor_order=found.anchors)
    np.testing.assert_array_equal(again.anchors, found.anchors)
    np.testing.assert_array_equal(again.pair_levels, found.pair_levels)
    np.testing.assert_array_equal(again.extrinsics, found.extrinsics)
    assert again.provenance["anchor_order"] == "given by the caller"
    assert "anchor_order" not in found.provenance


def test_a_caller_s_anchors_are_the_ones_that_views_attend_to(
    pipeline: Pipeline, photos: Path
) -> None:
    """Every view attends to views 3 and 1, and to itself; missing ones are the farthest."""
    sparsity = replace(ANCHORS, reference=False)
    scene = covis.reconstruct(
        photos, pipeline.bundle.path, sparsity=sparsity, anchor_order=[3, 1, 0, 2]
    )
    np.testing.assert_array_equal(scene.anchors, [3, 1])
    expected = 2 * np.eye(4, dtype=np.int8)
    expected[:, [1, 3]] = 2
    np.testing.assert_array_equal(scene.pair_level, expected)
    first = pipeline(photos, sparsity=sparsity, anchor_order=[2])
    assert first.anchors is not None and first.anchors[0] == 2 and len(set(first.anchors)) == 2


@pytest.mark.parametrize(
    ("order", "changes", "message"),
    [
        ([0, 4], {}, "names a view outside 0 to 3; count the views from 0"),
        ([-1], {}, "names a view outside 0 to 3"),
        ([1, 1], {}, "names a view twice"),
        ([0.0, 1.0], {}, "is no list of integers"),
        ([[0, 1]], {}, "is no list of integers"),
        ([0], {"selector": "dense"}, "the selector 'dense' takes no anchors"),
        ([0], {"selector": "auto", "layers": "default"}, "the selector 'dense' takes no anchors"),
        ([0], {"anchor_choice": "similar"}, "views share no anchors"),
    ],
)
def test_what_is_no_list_of_anchors(
    pipeline: Pipeline, photos: Path, order: Any, changes: Any, message: str
) -> None:
    with pytest.raises(CovisError, match=message) as caught:
        pipeline(photos, sparsity=replace(ANCHORS, **changes), anchor_order=order)
    assert caught.value.code == 2 and "\n" not in str(caught.value)
