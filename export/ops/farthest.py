"""FarthestFirst as a torch op: the order in which views are farthest from those already taken."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from covis.export.ops.attributes import torch_schema
from covis.export.ops.check import check_farthest, runs_eagerly
from covis.export.ops.cuda import dispatch

LARGEST = 3.0e38  # a similarity beyond it, or NaN, counts as 0


def farthest_first(similarity: Tensor, given: Tensor, count: Tensor | int) -> Tensor:
    """Return the step at which each view is taken by a farthest-first traversal.

    The contract, with the exact rules, is plugins/farthest_first/README.md. Each step takes the
    view whose largest similarity to the views taken so far is smallest, the first step the view of
    the largest mean similarity.

    Args:
        similarity: float32 (M, M), K of each ordered pair of views; K and its transpose are
            averaged.
        given: int64 (M,) view to take at each step, or -1 where the op chooses.
        count: Number of steps, limited to 0 to M; int64 (), or a Python number.

    Returns:
        int32 (M,): the step, from 0, at which a view was taken, and M for a view that was not
        taken. The first n views are the same for every count >= n.

    Raises:
        CovisError: a tensor that the contract forbids; the text has its value.
    """
    if not isinstance(count, Tensor):
        count = torch.tensor(count, dtype=torch.int64)
    if runs_eagerly(similarity):
        check_farthest(similarity, given, count)
        return _compute(similarity, given, count)
    rank: Tensor = _op(similarity, given, count)
    return rank


@torch.library.custom_op(
    "covis::farthest_first",
    mutates_args=(),
    schema=torch_schema(("similarity", "given", "count"), {}),
)
def _op(similarity: Tensor, given: Tensor, count: Tensor) -> Tensor:
    return _compute(similarity, given, count)


@_op.register_fake
def _(similarity: Tensor, _given: Tensor, _count: Tensor) -> Tensor:
    return similarity.new_empty((similarity.shape[0],), dtype=torch.int32)


def _compute(similarity: Tensor, given: Tensor, count: Tensor) -> Tensor:
    rank = dispatch.farthest_first(similarity, given, count)
    if rank is not None:
        return rank
    steps = min(max(int(count), 0), similarity.shape[0])
    return _traverse(similarity.detach(), given.to(similarity.device), steps)


def _traverse(similarity: Tensor, given: Tensor, steps: int) -> Tensor:
    views = similarity.shape[0]
    index = torch.arange(views, device=similarity.device)
    rank = torch.full_like(index, views, dtype=torch.int32)
    score = _finite((similarity.mean(1) + similarity.mean(0)) / 2)
    for step in range(steps):
        view = _next(score, given[step])
        pair = similarity.index_select(0, view)[0] + similarity.index_select(1, view)[:, 0]
        distance = (1 - _finite(pair / 2)).masked_fill(index == view, -math.inf)
        score = distance if step == 0 else torch.minimum(score, distance)
        rank.index_fill_(0, view, step)
    return rank


def _next(score: Tensor, given: Tensor) -> Tensor:
    """Return the given view where it can be taken, else the first of the best score: int64 (1,).

    The score (M,) of views already taken is -inf. Nothing is read on the host, because that would
    wait for a GPU at every step.
    """
    inside = (given >= 0) & (given < score.shape[0])
    wanted = torch.where(inside, given, 0).reshape(1)
    free = score[wanted] > -math.inf
    return torch.where(inside & free, wanted, score.argmax())


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.abs() < LARGEST, x, 0.0)
