"""Rule of the frame-pair maps: which pairs of views a global layer computes.

Dense, self, saliency and anchor layers follow one rule with different numbers, so that one graph
computes the maps of a whole schedule, and its numbers are inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from covis.export.ops import DENSE


class PairRules(NamedTuple):
    """Numbers of R maps, as tensors; `covis.engines.pair_rules` derives them from `Sparsity`.

    Attributes:
        tau: float32 (R,), similarity from which a pair has level 2.
        tau_low: float32 (R,), similarity from which a pair has level 1.
        anchors: int64 (R,), number of anchors to which every view attends.
        min_neighbours: int64 (R,), number of most similar other views of each view.
        own_frame: bool (R,), every view attends to itself.
        reference: int64 (), index of the reference view, or -1.
        to_reference: bool (R,), every view attends to the reference view.
        from_reference: bool (R,), the reference view attends to every view.
    """

    tau: Tensor
    tau_low: Tensor
    anchors: Tensor
    min_neighbours: Tensor
    own_frame: Tensor
    reference: Tensor
    to_reference: Tensor
    from_reference: Tensor


def pair_levels(similarity: Tensor, anchor_rank: Tensor, rules: PairRules) -> Tensor:
    """Return the level of every ordered pair of views (i attends to j), by R rules.

    A pair has level 2 if its similarity reaches tau, or j is an anchor, or one of the
    `min_neighbours` most similar other views of i (of equal ones the lower index), or the pair is
    kept as a self-pair or a pair of the reference view. Other pairs have level 1 from tau_low
    upward, and 0 below. Similarities under 0 count as 0, so that tau = 0 keeps every pair.

    Args:
        similarity: Similarities of views (M, M).
        anchor_rank: Rank of each view among the anchors, int32 (M,), from 0; M for other views.
        rules: Numbers of the maps.

    Returns:
        int8 (R, M, M).
    """
    number = similarity.shape[0]
    views = torch.arange(number, device=similarity.device)
    itself = views[:, None] == views[None, :]
    found = similarity.clamp(min=0)[None]
    nearest = _neighbour_rank(similarity, itself)[None] < _each(rules.min_neighbours)
    to_reference = (views == rules.reference)[None, None, :] & _each(rules.to_reference)
    from_reference = (views == rules.reference)[None, :, None] & _each(rules.from_reference)
    full = (
        (found >= _each(rules.tau))
        | (anchor_rank[None, None, :] < _each(rules.anchors))
        | (nearest & ~itself)
        | (itself & _each(rules.own_frame))
        | to_reference
        | from_reference
    )
    low = found >= _each(torch.minimum(rules.tau, rules.tau_low))
    level = low.to(torch.int8)
    return torch.where(full, torch.full_like(level, DENSE), level)


def _each(numbers: Tensor) -> Tensor:
    """Give each map its number: (R,) -> (R, 1, 1)."""
    return numbers[:, None, None]


def _neighbour_rank(similarity: Tensor, itself: Tensor) -> Tensor:
    """Return the rank of view j among the other views by their similarity to view i, (M, M).

    The view itself has the last rank.
    """
    others = similarity.masked_fill(itself, -2.0)  # below every cosine
    order = torch.sort(others, dim=-1, descending=True, stable=True).indices
    ranks = torch.arange(similarity.shape[0], device=similarity.device).expand_as(order)
    return torch.zeros_like(order).scatter(-1, order, ranks)
