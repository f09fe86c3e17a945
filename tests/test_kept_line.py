"""What `covis run` says of the selection, in the selector's own unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from covis.commands.run import kept_line
from covis.engines.options import Sparsity
from covis.runtime.scene.scene import SparsityReport


@pytest.mark.parametrize(
    ("selector", "line"),
    [
        ("saliency", "6 of 16 pairs kept (37.5%) in 2 sparse layers"),
        ("pooled", "25.0% of all blocks kept in 2 sparse layers"),
        ("both", "6 of 16 pairs kept (37.5%), 25.0% of all blocks kept in 2 sparse layers"),
    ],
)
def test_unit(selector: Any, line: str) -> None:
    report = SparsityReport(
        layers=(0, 1),
        kept_blocks=np.array([[0.2, 0.3], [0.1, 0.4]], np.float32),
        relative_blocks=0.375,
        kept_pairs=6,
    )
    assert kept_line(report, Sparsity(selector=selector), 4) == line


def test_no_sparse_layer() -> None:
    report = SparsityReport((), np.zeros((0, 2), np.float32), 1.0, 16)
    assert kept_line(report, Sparsity(selector="pooled"), 4) == (
        "16 of 16 pairs kept (100.0%) in 0 sparse layers"
    )
