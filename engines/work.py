"""Share of dense global attention that a run computes, predicted without photos."""

from __future__ import annotations

import numpy as np

from covis.engines.options import Sparsity
from covis.engines.pair_rules import PairRules, pair_rules


def predicted_work(sparsity: Sparsity, depth: int, views: int, has_reference: bool) -> float | None:
    """Return the largest share of dense global attention that the options can compute.

    A view attends to at most anchors + neighbours + 1 views, fewer where these coincide. Pooled
    blocks count with their keep ratio.

    Args:
        sparsity: Options with a selector other than `auto`.
        depth: Number of global layers L.
        views: Number of views M.
        has_reference: The model has a reference view.

    Returns:
        The mean over all layers, in [0, 1]; None if a layer compares similarities with tau, so that
        its share depends on the photos.

    Raises:
        CovisError: The schedule or the layers do not fit the model.
    """
    rules = pair_rules(sparsity, depth, views, has_reference)
    shares = [_share(rules, index, views) for index in range(len(rules.tau))]
    by_layer = [shares[index] for index in rules.layer_map]
    known = [share for share in by_layer if share is not None]
    if len(known) < len(by_layer):
        return None
    return float(np.mean(np.array(known) * np.minimum(rules.keep_ratio, 1.0))) if known else 1.0


def _share(rules: PairRules, index: int, views: int) -> float | None:
    """Return the largest share of pairs in one map; None if it depends on the photos."""
    least = min(rules.tau[index], rules.tau_low[index])
    if least <= 0:
        return 1.0
    if least <= 1:
        return None
    keys = int(rules.anchors[index] + rules.min_neighbours[index] + rules.own_frame[index])
    # The reference view is the first anchor, if there is one.
    if rules.to_reference[index] and not rules.anchors[index]:
        keys += 1
    return min(keys / views, 1.0)
