"""BlockSparseAttention by its definition, in float64 numpy, with the (S, S) mask written out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def attended(
    level: Array,
    tokens: int,
    *,
    frame_tokens: int = 1,
    special_first: int = 0,
    special_last: int = 0,
    trailing_tokens: int = 0,
    q_block: int = 1,
    k_block: int = 1,
) -> Array:
    """Which (query, key) pairs are attended: bool (b, h, S, S)."""
    number = np.full(tokens, -1)  # patch number, -1: special or trailing
    seen = 0
    for token in range(tokens - trailing_tokens):
        if special_first <= token % frame_tokens < frame_tokens - special_last:
            number[token] = seen
            seen += 1
    rows = number // q_block if level.shape[2] > 1 else np.zeros_like(number)
    columns = number // k_block if level.shape[3] > 1 else np.zeros_like(number)
    patch = number >= 0
    kept = level[:, :, np.where(patch, rows, 0)][..., np.where(patch, columns, 0)] > 0
    result: Array = kept | ~patch[:, None] | ~patch[None, :]
    return result


def attention(q: Array, k: Array, v: Array, mask: Array, scale: float = 0.0) -> Array:
    """softmax(scale x Q K^T over the mask) V in float64; rows without keys are zeros."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) * (scale or q.shape[-1] ** -0.5)
    scores = np.where(mask, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    total = weights.sum(-1, keepdims=True)
    result: Array = (weights / np.where(total == 0.0, 1.0, total)) @ v
    return result
