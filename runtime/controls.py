"""Control inputs: the small inputs of the graphs that carry the selector's options."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Manifest
from covis.engines.bundle.names import PROBE
from covis.engines.bundle.patch_order import patch_order
from covis.engines.op import keep_ratio_input
from covis.engines.options import Sparsity, parse_layers


def control_inputs(
    manifest: Manifest, sparsity: Sparsity, views: int, probes: int
) -> dict[str, NDArray[Any]]:
    """Return every control input of a run by name; see docs/explanation/design.md, section 3.

    Args:
        manifest: Manifest of the bundle.
        sparsity: Selector options of the run.
        views: Number of views, M.
        probes: Number of queries to measure the kept attention mass on, spread evenly over all
            tokens.
    """
    rule, model = manifest.pixel_rule, manifest.model
    chosen = parse_layers(sparsity.layers, model.global_layers)
    layers = np.zeros(model.global_layers, np.bool_)
    if sparsity.selector != "dense":
        layers[list(chosen)] = True
    reference = 0 if model.reference_view and sparsity.reference else -1
    rows, columns = rule.height // model.patch, rule.width // model.patch
    special = model.special_first + model.special_last
    tokens = views * (rows * columns + special) + model.trailing_tokens
    return {
        "tau": np.asarray(sparsity.tau, np.float32),
        "tau_low": np.asarray(sparsity.skip_below, np.float32),
        "min_neighbours": np.asarray(sparsity.min_neighbours, np.int64),
        "reference": np.asarray(reference, np.int64),
        "sparse_layers": layers,
        "keep_ratio": np.asarray(keep_ratio_input(sparsity.keep_ratio)),
        "cdf": np.asarray(sparsity.cdf, np.float32),
        # ONNX Runtime dies of a division by zero on empty tensors: one query is the least.
        PROBE: np.linspace(0, tokens - 1, min(max(probes, 1), tokens)).astype(np.int64),
        "patch_order": patch_order(sparsity.order, rows, columns),
    }
