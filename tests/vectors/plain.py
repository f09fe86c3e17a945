"""The plain formula in each type: it sets the accuracy that an implementation must reach."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.vectors.case import Array, AttentionCase
from tests.vectors.oracle import patch_numbers, token_levels

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
E4M3_MAX = 448.0
P_SCALE = 256.0
_BLOCK = 64  # patch tokens that share a scale of Q or K


def attention(case: AttentionCase) -> Array:
    """Compute attention with every intermediate rounded to the type of the inputs.

    Scores, weights and output are rounded to that type; products and softmax are float32.
    """
    q, k, v = (x.astype(np.float32) for x in (case.q, case.k, case.v))
    scale = np.float32(case.scale or 1.0 / np.sqrt(q.shape[3]))
    out = np.zeros(case.q.shape, case.q.dtype)
    for b, h in np.ndindex(*q.shape[:2]):
        attended = token_levels(case, b, h) > 0
        scores = ((q[b, h] * scale) @ k[b, h].T).astype(case.q.dtype).astype(np.float32)
        weights = _weights(np.where(attended, scores, -np.inf))
        shares = (weights / _total(weights)).astype(case.q.dtype).astype(np.float32)
        out[b, h] = (shares @ v[b, h]).astype(case.q.dtype)
    return out


def attention_fp8(case: AttentionCase) -> Array:
    """Compute the same with level-1 pairs in FP8 e4m3, by the scheme that the contract allows."""
    q, k, v = (x.astype(np.float32) for x in (case.q, case.k, case.v))
    scale = np.float32(case.scale or 1.0 / np.sqrt(q.shape[3]))
    patch = np.flatnonzero(patch_numbers(case.layout, q.shape[2]) >= 0)
    out = np.zeros(case.q.shape, case.q.dtype)
    for b, h in np.ndindex(*q.shape[:2]):
        levels = token_levels(case, b, h)
        keys = k[b, h].copy()
        q8, k8, v8 = np.zeros_like(q[b, h]), np.zeros_like(keys), np.zeros_like(keys)
        if len(patch):
            keys -= keys[patch].mean(0)
            q8[patch], k8[patch] = _by_block(q[b, h][patch]), _by_block(keys[patch])
            v8[patch] = _round(v[b, h][patch], axis=(0,))
        scores = np.where(levels == 1, q8 @ k8.T, q[b, h] @ keys.T) * scale
        weights: Array = _weights(np.where(levels > 0, scores, -np.inf))
        scaled = np.where(levels == 1, weights, np.float32(0.0)) * P_SCALE
        low = scaled.astype(E4M3).astype(np.float32) / P_SCALE
        high = np.where(levels == 2, weights, np.float32(0.0))
        out[b, h] = ((high @ v[b, h] + low @ v8) / _total(weights)).astype(case.q.dtype)
    return out


def _weights(scores: Array) -> Array:
    peak = scores.max(1, keepdims=True)
    return np.exp(scores - np.where(np.isfinite(peak), peak, np.float32(0.0)))


def _total(weights: Array) -> Array:
    total = weights.sum(1, keepdims=True)
    return np.where(total > 0, total, np.float32(1.0))


def _by_block(x: Array) -> Array:
    parts = [_round(x[i : i + _BLOCK], axis=(0, 1)) for i in range(0, len(x), _BLOCK)]
    return np.concatenate(parts)


def _round(x: Array, axis: tuple[int, ...]) -> Array:
    peak = np.abs(x).max(axis=axis, keepdims=True)
    scale = np.where(peak > 0, peak / E4M3_MAX, np.float32(1.0))
    return np.clip(x / scale, -E4M3_MAX, E4M3_MAX).astype(E4M3).astype(np.float32) * scale
