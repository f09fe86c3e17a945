"""Control inputs: the small inputs of the graphs that carry the selector's options."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Manifest
from covis.engines.bundle.names import PROBE
from covis.engines.bundle.patch_order import patch_order
from covis.engines.options import Sparsity
from covis.engines.pair_rules import pair_rules


def control_inputs(
    manifest: Manifest, sparsity: Sparsity, views: int, probes: int
) -> dict[str, NDArray[Any]]:
    """Return every control input of a run by name; see docs/explanation/design.md, section 3.

    Args:
        manifest: Manifest of the bundle.
        sparsity: Selector options of the run, with a selector other than `auto`.
        views: Number of views, M.
        probes: Number of queries to measure the kept attention mass on, spread evenly over all
            tokens.
    """
    rule, model = manifest.pixel_rule, manifest.model
    rows, columns = rule.height // model.patch, rule.width // model.patch
    special = model.special_first + model.special_last
    tokens = views * (rows * columns + special) + model.trailing_tokens
    rules = pair_rules(sparsity, model.global_layers, views, model.reference_view)
    return {
        **rules.inputs(),
        # ONNX Runtime dies of a division by zero on empty tensors: one query is the least.
        PROBE: np.linspace(0, tokens - 1, min(max(probes, 1), tokens)).astype(np.int64),
        "patch_order": patch_order(sparsity.order, rows, columns),
    }
