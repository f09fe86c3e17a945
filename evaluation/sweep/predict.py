"""Work of a setting before it is run: the maps of view pairs, computed from the similarity alone.

The same rules as the saliency stage (`covis.export.selection.pair_rules` and the op FarthestFirst),
in NumPy, so that a search needs one run for the similarity and none for the work of each setting.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.options import Sparsity
from covis.engines.pair_rules import PairRules, pair_rules


def attention_work(
    similarity: NDArray[Any], sparsity: Sparsity, depth: int, has_reference: bool
) -> float:
    """Return the share of dense global attention that a setting computes, over all layers.

    Exact for regimes of view pairs. For pooled regimes it is the keep ratio of the pairs' blocks,
    which the selection of blocks follows closely.

    Args:
        similarity: (M, M) similarity of the views.
        sparsity: Selector options, with a selector other than `auto`.
        depth: Number of global layers L.
        has_reference: The model has a reference view, which is view 0.

    Raises:
        CovisError: The schedule or the layers do not fit the model.
    """
    rules = pair_rules(sparsity, depth, len(similarity), has_reference)
    shares = (pair_levels(similarity, rules) > 0).mean(axis=(1, 2))
    return float((shares[rules.layer_map] * rules.keep_ratio).mean()) if depth else 1.0


def pair_levels(similarity: NDArray[Any], rules: PairRules) -> NDArray[np.int8]:
    """Return the level of every ordered pair of views in each map, (R, M, M)."""
    views = np.arange(len(similarity))
    itself = views[:, None] == views[None, :]
    found = np.maximum(similarity.astype(np.float32), 0.0)[None]
    rank = farthest_first(similarity, rules.anchor_order, int(np.max(rules.anchors)))
    full = (
        (found >= _each(rules.tau))
        | (rank[None, None, :] < _each(rules.anchors))
        | ((_neighbour_rank(similarity, itself)[None] < _each(rules.min_neighbours)) & ~itself)
        | (itself & _each(rules.own_frame))
        | ((views == rules.reference)[None, None, :] & _each(rules.to_reference))
        | ((views == rules.reference)[None, :, None] & _each(rules.from_reference))
    )
    low = found >= _each(np.minimum(rules.tau, rules.tau_low))
    levels: NDArray[np.int8] = np.where(full, 2, low).astype(np.int8)
    return levels


def farthest_first(
    similarity: NDArray[Any], given: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return the step at which a farthest-first traversal takes each view; M for the others, (M,).

    Args:
        similarity: (M, M) finite similarities; K and its transpose are averaged.
        given: (M,) view to take at each step, or -1 for the farthest one.
        count: Number of steps, limited to M.
    """
    views = len(similarity)
    average = (similarity + similarity.T).astype(np.float32) / 2
    score = average.mean(axis=1)
    rank = np.full(views, views, np.int64)
    for step in range(min(count, views)):
        free = rank == views
        view = int(given[step])
        if not (0 <= view < views and free[view]):
            view = int(np.argmax(np.where(free, score, -np.inf)))
        distance = 1 - average[view]
        score = distance if step == 0 else np.minimum(score, distance)
        rank[view] = step
    return rank


def _each(numbers: NDArray[Any]) -> NDArray[Any]:
    """Give each map its number: (R,) -> (R, 1, 1)."""
    return numbers[:, None, None]


def _neighbour_rank(similarity: NDArray[Any], itself: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rank of view j among the other views by their similarity to view i, (M, M)."""
    others = np.where(itself, -2.0, similarity)  # below every cosine
    order = np.argsort(-others, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(order))[None, :], axis=1)
    return ranks
