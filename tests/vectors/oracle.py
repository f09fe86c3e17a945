"""Attention and BlockSelect in float64, straight from their text; slow and dense.

Written from their contracts in `plugins/`, token by token, and from no code of the package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.vectors.case import Array, AttentionCase, Layout, SelectCase

_ROWS = 512  # query tokens whose scores are held at once


def patch_numbers(layout: Layout, tokens: int) -> Array:
    """Return each token's number among the patch tokens, int64 (S,); -1 for other tokens."""
    numbers = np.full(tokens, -1)
    count = 0
    for token in range(tokens - layout.trailing_tokens):
        place = token % layout.frame_tokens
        if layout.special_first <= place < layout.frame_tokens - layout.special_last:
            numbers[token] = count
            count += 1
    return numbers


def token_levels(case: AttentionCase, batch: int, head: int) -> Array:
    """Return the level of each (query token, key token) of one batch and head: int8 (S, S)."""
    numbers = patch_numbers(case.layout, case.q.shape[2])
    level = case.level[batch % case.level.shape[0], head % case.level.shape[1]]
    rows = numbers // case.q_block if level.shape[0] > 1 else np.zeros_like(numbers)
    columns = numbers // case.k_block if level.shape[1] > 1 else np.zeros_like(numbers)
    levels: Array = level[rows[:, None], columns[None, :]]
    always = numbers < 0
    levels[always, :] = 2
    levels[:, always] = 2
    return levels


def attention(case: AttentionCase) -> Array:
    """Compute BlockSparseAttention of the stored inputs, level 1 exact: float64 (B, H, S, D)."""
    q, k, v = (x.astype(np.float64) for x in (case.q, case.k, case.v))
    scale = case.scale or 1.0 / np.sqrt(q.shape[3])
    out = np.zeros(q.shape)
    for b, h in np.ndindex(*q.shape[:2]):
        attended = token_levels(case, b, h) > 0
        for start in range(0, q.shape[2], _ROWS):
            rows = slice(start, start + _ROWS)
            scores = np.where(attended[rows], scale * (q[b, h, rows] @ k[b, h].T), -np.inf)
            peak = scores.max(1, keepdims=True)
            weights = np.exp(scores - np.where(np.isfinite(peak), peak, 0.0))
            total = weights.sum(1, keepdims=True)
            out[b, h, rows] = (weights @ v[b, h]) / np.where(total > 0, total, 1.0)
    return out


def empty_rows(case: AttentionCase, batch: int, head: int) -> Array:
    """Return a mask of the query tokens of one batch and head without any key: bool (S,)."""
    return ~(token_levels(case, batch, head) > 0).any(1)


@dataclass(frozen=True)
class Selection:
    """The result of BlockSelect, and the rows where a float32 implementation may differ.

    Attributes:
        level: Level map, int8 (B, H, Rq, Rk).
        near_tie: Rows where another order of summation may choose otherwise, bool (B, H, Rq).
        candidates: Level of each block pair, int8 (Rq, Rk).
        scores: Scores of block pairs, float64 (B, H, Rq, Rk).
        least, most: Smallest and largest count that rounding may lead to, int64 (B, H, Rq).
        score_slack: Scores with a smaller difference may change places.
    """

    level: Array
    near_tie: Array
    candidates: Array
    scores: Array
    least: Array
    most: Array
    score_slack: float


def select(case: SelectCase) -> Selection:
    """Compute BlockSelect of the stored inputs in float64."""
    numbers = patch_numbers(case.layout, case.q.shape[2])
    patches = np.flatnonzero(numbers >= 0)
    frame = patches // case.layout.frame_tokens
    blocks_q = [patches[i : i + case.q_block] for i in range(0, len(patches), case.q_block)]
    blocks_k = [patches[i : i + case.k_block] for i in range(0, len(patches), case.k_block)]
    pooled_q = _pool(case.q, blocks_q, case.pool)
    pooled_k = _pool(case.k, blocks_k, case.pool)
    scores = pooled_q @ np.swapaxes(pooled_k, 2, 3) / np.sqrt(case.q.shape[3])

    frame_of = dict(zip(patches.tolist(), frame.tolist(), strict=True))
    pair = case.pair[0, 0]
    candidates = np.zeros(scores.shape[2:], np.int8)
    for i, block_q in enumerate(blocks_q):
        for j, block_k in enumerate(blocks_k):
            touched_q = sorted({frame_of[t] for t in block_q.tolist()})
            touched_k = sorted({frame_of[t] for t in block_k.tolist()})
            part = pair if pair.size == 1 else pair[np.ix_(touched_q, touched_k)]
            candidates[i, j] = part.max()
    return _choose(case, scores, candidates)


def _pool(x: Array, blocks: list[Array], pool: str) -> Array:
    parts = [x[:, :, block].astype(np.float64) for block in blocks]
    return np.stack([p.mean(2) if pool == "mean" else p.max(2) for p in parts], 2)


def _choose(case: SelectCase, scores: Array, candidates: Array) -> Selection:
    level = np.zeros(scores.shape, np.int8)
    near_tie = np.zeros(scores.shape[:3], bool)
    least, most = np.zeros(scores.shape[:3], int), np.zeros(scores.shape[:3], int)
    peak = float(np.abs(scores).max())
    slack = 1e-5 * peak
    limit = case.cdf + 1e-5
    for b, h, i in np.ndindex(*scores.shape[:3]):
        columns = np.flatnonzero(candidates[i])
        n = len(columns)
        if n == 0:
            continue
        row = scores[b, h, i, columns]
        order = np.argsort(-row, kind="stable")
        ranked = row[order]
        weights = np.exp(ranked - ranked[0])
        mass = np.cumsum(weights) / weights.sum()
        margin = 2e-6 + 2e-6 * peak * mass * (1.0 - mass)
        top = int(np.floor(np.float64(case.keep_ratio) * n))

        def count(inside: Array, top: int = top, n: int = n) -> int:
            return min(max(top, int(inside.sum()), 1), n)

        kept = count(mass <= limit)
        least[b, h, i], most[b, h, i] = count(mass <= limit - margin), count(mass <= limit + margin)
        level[b, h, i, columns[order[:kept]]] = candidates[i, columns[order[:kept]]]
        close = kept < n and ranked[kept - 1] - ranked[kept] < slack
        near_tie[b, h, i] = close or least[b, h, i] != most[b, h, i]
    return Selection(level, near_tie, candidates, scores, least, most, slack)
