"""Similarity of views from the encoder's patch tokens: by descriptors, or by best matches."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

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
