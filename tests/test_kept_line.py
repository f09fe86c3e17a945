"""Line of `covis run` on the selection: what was chosen, why, and the share of attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from covis.commands.run import computed, plan
from covis.engines.options import Sparsity
from covis.runtime.scene.scene import SparsityReport

REPORT = SparsityReport(
    layers=(0, 1),
    kept_blocks=np.array([[0.2, 0.3], [0.1, 0.4]], np.float32),
    relative_blocks=0.375,
    kept_pairs=6,
    attention_work=0.625,
    selector="saliency",
    schedule="0-1:saliency=0.9, 2-3:dense",
)


@pytest.mark.parametrize(
    ("views", "line"),
    [
        (2, "dense (up to 50 views nothing is left out)"),
        (
            60,
            "light (more than 50 views, up to 250): layers 0-1 self, 2-8 anchors=10, 9-23 dense",
        ),
        (400, "anchors (more than 250 views): layers 0-1 self, 2-8 anchors=10, 9-23 anchors=25"),
    ],
)
def test_plan_of_auto_by_the_number_of_views(views: int, line: str) -> None:
    assert plan(Sparsity(), views, 24) == line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"selector": "dense"}, "dense"),
        ({"selector": "saliency", "tau": 0.5}, "saliency: layers 0-9 saliency=0.5, 10-11 dense"),
        ({"selector": "both", "layers": "0-1"},
         "both: layers 0-1 saliency=0.9+pooled=0.25, 2-11 dense"),
        ({"selector": "anchors", "schedule": "0:self, rest:anchors=7"},
         "anchors: layers 0 self, 1-11 anchors=7"),
    ],
)  # fmt: skip
def test_plan_of_what_was_asked_for_gives_no_reason(changes: Any, line: str) -> None:
    assert plan(Sparsity(**changes), 400, 12) == line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "saliency: layers 0-1 saliency=0.9, 2-3 dense; 62.5% of dense global attention, "
             "6 of 16 pairs of views"),
        ({"selector": "pooled", "schedule": "0-3:pooled=0.25", "attention_work": 0.25},
         "pooled: layers 0-3 pooled=0.25; 25.0% of dense global attention"),
        ({"selector": "light", "reason": "more than 3 views", "schedule": "0:self, 1-3:dense"},
         "light (more than 3 views): layers 0 self, 1-3 dense; 62.5% of dense global attention"),
        ({"selector": "dense", "reason": "up to 50 views nothing is left out",
          "schedule": "0-3:dense", "attention_work": 1.0},
         "dense (up to 50 views nothing is left out); 100.0% of dense global attention"),
    ],
)  # fmt: skip
def test_what_was_computed(changes: Any, line: str) -> None:
    assert computed(replace(REPORT, **changes), 4) == line


def test_no_sparse_layer() -> None:
    report = replace(REPORT, layers=(), schedule="0-3:dense", attention_work=1.0)
    assert computed(report, 4) == ("saliency: layers 0-3 dense; 100.0% of dense global attention")
