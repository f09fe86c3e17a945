"""The share of attention predicted without photos bounds the share of every set of photos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from covis.engines.options import Sparsity
from covis.engines.work import predicted_work
from covis.evaluation.sweep.predict import attention_work

CASES: dict[str, dict[str, Any]] = {
    "light": {"selector": "light"},
    "anchors": {"selector": "anchors", "anchors": 6},
    "no own frame": {"selector": "anchors", "anchors": 6, "own_frame": False},
    "similar": {"selector": "anchors", "anchors": 5, "anchor_choice": "similar"},
    "schedule": {"selector": "anchors", "schedule": "0-3:self, 4:dense, rest:anchors=9+pooled=0.5"},
    "low precision": {"selector": "anchors", "low_precision": True},
}


@pytest.mark.parametrize("has_reference", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_no_photos_need_more(name: str, has_reference: bool) -> None:
    sparsity = Sparsity(**CASES[name])
    most = predicted_work(sparsity, 8, 40, has_reference)
    assert most is not None
    for seed in range(3):
        features = np.random.default_rng(seed).standard_normal((40, 12))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        found = attention_work(features @ features.T, sparsity, 8, has_reference)
        assert 0.5 * most < found <= most + 1e-6


def test_by_hand() -> None:
    """Layer 0 within frames, 1-2 with 2 anchors, 3-7 with 5, each with 4 neighbours and itself."""
    sparsity = Sparsity(selector="anchors", anchors=5)
    assert predicted_work(sparsity, 8, 50, True) == pytest.approx((1 + 2 * 7 + 5 * 10) / 50 / 8)
    assert predicted_work(sparsity, 8, 3, True) == pytest.approx((1 / 3 + 7) / 8)
    assert predicted_work(Sparsity(selector="dense"), 8, 50, True) == 1.0
    pooled = Sparsity(selector="pooled", keep_ratio=0.25, layers="0-3")
    assert predicted_work(pooled, 8, 50, False) == pytest.approx(0.625)


def test_what_depends_on_the_photos_is_not_predicted() -> None:
    assert predicted_work(Sparsity(selector="saliency"), 8, 50, True) is None
    assert predicted_work(Sparsity(selector="saliency", tau=0.0), 8, 50, True) == 1.0
    full = Sparsity(selector="saliency", low_precision=True)
    assert predicted_work(full, 8, 50, True) == 1.0
