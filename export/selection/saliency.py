"""The saliency stage: patch tokens -> co-visibility of view pairs -> frame-pair level map.

It is a graph of its own, so that it can be inspected, cached and replaced. Pairs are ordered and
include the self pairs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from covis.export.ops import DENSE
from covis.export.stage import VIEWS, Port, StageModule

Pooling = Literal["descriptor", "best-match"]
_GRID = 8  # best-match compares at most 8 x 8 averaged tokens of a view: (64 M)^2 similarities


def descriptor_similarity(tokens: Tensor) -> Tensor:
    """Return the cosine similarity of whole views.

    Pooling: every patch token is scaled to unit length, the mean over a view's patches is its
    descriptor, and the descriptors are scaled to unit length again. Without the first scaling, the
    few tokens of very large norm would determine the descriptor alone.

    Args:
        tokens: Patch tokens of the encoder (M, P, C).

    Returns:
        (M, M) in [-1, 1], symmetric, ones on the diagonal.
    """
    views = normalize(normalize(tokens, dim=-1).mean(dim=1), dim=-1)
    return views @ views.transpose(0, 1)


def best_match_similarity(tokens: Tensor, pool: Tensor) -> Tensor:
    """Return the mean over a view's tokens of the best cosine similarity in the other view.

    K[i, j] is the share of view i that is found again anywhere in view j; it is not symmetric.
    Tokens are first averaged over cells of a coarse grid, because the comparison allocates (M P')^2
    numbers: 160 MB at 100 views of 64 cells, 4 GB at 500.

    Args:
        tokens: Patch tokens of the encoder (M, P, C).
        pool: Matrix (P', P) whose rows average the patches of a cell.

    Returns:
        (M, M) in [-1, 1], ones on the diagonal.
    """
    cells = normalize(pool @ tokens, dim=-1)
    views, count = tokens.shape[0], pool.shape[0]
    flat = cells.reshape(views * count, -1)
    similar = (flat @ flat.transpose(0, 1)).reshape(views, count, views, count)
    return similar.amax(dim=3).mean(dim=1)


def cell_pooling(rows: int, columns: int, grid: int = _GRID) -> Tensor:
    """Return a matrix (P', P) that averages patches over a raster of at most grid x grid cells."""
    down, across = (_cell_means(n, min(n, grid)) for n in (rows, columns))
    return torch.kron(down, across)


def _cell_means(length: int, cells: int) -> Tensor:
    edges = [i * length // cells for i in range(cells + 1)]
    means = torch.zeros(cells, length)
    for cell, (first, last) in enumerate(pairwise(edges)):
        means[cell, first:last] = 1.0 / (last - first)
    return means


def pair_levels(
    similarity: Tensor, tau: Tensor, tau_low: Tensor, min_neighbours: Tensor, reference: Tensor
) -> Tensor:
    """Return the level of every ordered pair of views.

    Level 2 from tau upward, 1 in [tau_low, tau), 0 below. Similarities under 0 count as 0, so that
    tau = 0 keeps every pair. Some pairs always have level 2: self pairs, each view's
    `min_neighbours` most similar others (more in a tie), and row and column of the reference view.

    Args:
        similarity: Similarities of views (M, M).
        tau, tau_low: float32 (), tau_low <= tau.
        min_neighbours: int64 ().
        reference: Index of the reference view, int64 (), or -1.

    Returns:
        int8 (1, 1, M, M).
    """
    found = similarity.clamp(min=0)
    level = (found >= tau).to(torch.int8) + (found >= torch.minimum(tau, tau_low)).to(torch.int8)
    views = torch.arange(similarity.shape[0], device=similarity.device)
    itself = views[:, None] == views[None, :]
    others = similarity.masked_fill(
        itself, -2.0
    )  # below every cosine, because a view is not its own neighbour
    ranked = torch.sort(others, dim=-1, descending=True).values
    last = (min_neighbours - 1).clamp(min=0).minimum(views[-1])
    least = ranked.index_select(1, last.reshape(1))  # not ranked[:, last]: torch 2.11 guards on it
    nearest = (others >= least) & (min_neighbours > 0)
    referring = (views[:, None] == reference) | (views[None, :] == reference)
    level = torch.where(itself | nearest | referring, torch.full_like(level, DENSE), level)
    return level[None, None]


class Saliency(nn.Module):
    """Patch tokens (M, P, C) -> similarity (M, M) and frame-pair level (1, 1, M, M)."""

    def __init__(self, rows: int, columns: int, pooling: Pooling = "descriptor") -> None:
        super().__init__()
        self.pooling = pooling
        pool = torch.empty(0)
        if pooling == "best-match":
            with torch.device("cpu"):  # a constant of the graph even if the model is on `meta`
                pool = cell_pooling(rows, columns)
        self.register_buffer("pool", pool, persistent=False)
        self.pool: Tensor

    def forward(
        self,
        tokens: Tensor,
        tau: Tensor,
        tau_low: Tensor,
        min_neighbours: Tensor,
        reference: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return similarity and level; see `descriptor_similarity` and `pair_levels`.

        The level is int32 at this port, because TensorRT treats int8 between engines as a quantised
        number.
        """
        tokens = tokens.to(torch.float32)
        if self.pooling == "best-match":
            similarity = best_match_similarity(tokens, self.pool)
        else:
            similarity = descriptor_similarity(tokens)
        level = pair_levels(similarity, tau, tau_low, min_neighbours, reference)
        return similarity, level.to(torch.int32)


def saliency_stage(rows: int, columns: int, channels: int, pooling: Pooling) -> StageModule:
    """Return the stage `saliency`, which is the same for every model."""
    return StageModule(
        name="saliency",
        scope="sequence",
        module=Saliency(rows, columns, pooling),
        inputs=(
            Port("patch_tokens", (VIEWS, rows * columns, channels)),
            Port("tau", ()),
            Port("tau_low", ()),
            Port("min_neighbours", (), torch.int64),
            Port("reference", (), torch.int64),
        ),
        outputs=(
            Port("similarity", (VIEWS, VIEWS)),
            Port("pair_level", (1, 1, VIEWS, VIEWS), torch.int32),
        ),
    )
