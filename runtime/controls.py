"""The small inputs of the graphs that carry the selector's options."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.bundle.manifest import Manifest
from covis.engines.bundle.patch_order import patch_order
from covis.engines.errors import user_error
from covis.engines.options import Sparsity, parse_layers


def control_inputs(
    manifest: Manifest, sparsity: Sparsity, views: int, probes: int
) -> dict[str, NDArray[Any]]:
    """Every control input of docs/explanation/design.md section 3, by name, for one run.

    Args:
        manifest: of the bundle.
        sparsity: the options of this run.
        views: M.
        probes: queries to measure the kept attention mass on, spread evenly over all tokens.
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
        "keep_ratio": _not_below(sparsity.keep_ratio),
        "cdf": np.asarray(sparsity.cdf, np.float32),
        # ONNX Runtime dies of a division by zero on empty tensors: one query is the least.
        "probe": np.linspace(0, tokens - 1, min(max(probes, 1), tokens)).astype(np.int64),
        "patch_order": patch_order(sparsity.order, rows, columns),
    }


def _not_below(ratio: float) -> NDArray[np.float32]:
    """The float32 at or above a decimal: 0.9 of 10 blocks are 9, but 0.9f x 10 rounds down to 8."""
    rounded = np.float32(ratio)
    if float(rounded) < ratio:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return np.asarray(rounded)


def stage_names(manifest: Manifest, sparsity: Sparsity) -> tuple[str, ...]:
    """The stages that a run goes through, in order: one of the two aggregators.

    Raises:
        CovisError: the bundle lacks the aggregator that the selector needs.
    """
    pooled = sparsity.selector in ("pooled", "both")
    unused = "aggregator" if pooled else "aggregator_pooled"
    names = tuple(stage.name for stage in manifest.stages if stage.name != unused)
    if not {"aggregator", "aggregator_pooled"} & set(names):
        raise user_error(
            f"{sparsity.selector!r} needs an aggregator that this bundle does not hold",
            where="--selector",
            hint="choose another selector or export the bundle again",
        )
    return names
