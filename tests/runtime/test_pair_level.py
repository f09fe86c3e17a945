"""A caller's map of view pairs instead of saliency's."""

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
    ],
)
def test_what_is_no_map(
    pipeline: Pipeline, photos: Path, pair_level: Any, selector: Any, message: str
) -> None:
    with pytest.raises(CovisError, match=message) as caught:
        pipeline(photos, sparsity=replace(SPARSE, selector=selector), pair_level=pair_level)
    assert caught.value.code == 2 and "\n" not in str(caught.value)
