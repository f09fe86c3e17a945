"""Test vectors of attention and BlockSelect: inputs with their attributes, generated from a seed.

This module, `oracle.py`, `plain.py`, `standard.py` and `suite.py` need only numpy and ml_dtypes, so
that the suite runs wherever a kernel does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Layout:
    """The layout attributes of the contract, and the counts that follow from them."""

    frame_tokens: int = 1
    special_first: int = 0
    special_last: int = 0
    trailing_tokens: int = 0

    def tokens(self, frames: int) -> int:
        return frames * self.frame_tokens + self.trailing_tokens

    def patches(self, frames: int) -> int:
        return frames * (self.frame_tokens - self.special_first - self.special_last)


@dataclass(frozen=True)
class AttentionCase:
    """Inputs of BlockSparseAttention; q, k, v (B, H, S, D) of one type, level int8."""

    name: str
    q: Array
    k: Array
    v: Array
    level: Array
    layout: Layout = field(default_factory=Layout)
    q_block: int = 1
    k_block: int = 1
    scale: float = 0.0

    @property
    def dtype(self) -> str:
        return self.q.dtype.name

    @property
    def attributes(self) -> dict[str, Any]:
        blocks = {"q_block": self.q_block, "k_block": self.k_block, "scale": self.scale}
        return {**vars(self.layout), **blocks}

    def cast(self, dtype: str) -> AttentionCase:
        """Return the same case with Q, K and V rounded to that type."""
        q, k, v = (x.astype(DTYPES[dtype]) for x in (self.q, self.k, self.v))
        return replace(self, name=f"{self.name}-{dtype}", q=q, k=k, v=v)


@dataclass(frozen=True)
class SelectCase:
    """Inputs of BlockSelect; q, k (B, H, S, D) of one type, pair int8 (1, 1, M or 1, M or 1)."""

    name: str
    q: Array
    k: Array
    pair: Array
    keep_ratio: float
    cdf: float
    layout: Layout = field(default_factory=Layout)
    q_block: int = 128
    k_block: int = 64
    pool: str = "mean"

    @property
    def dtype(self) -> str:
        return self.q.dtype.name

    @property
    def attributes(self) -> dict[str, Any]:
        blocks = {"q_block": self.q_block, "k_block": self.k_block, "pool": self.pool}
        return {**vars(self.layout), **blocks}

    def cast(self, dtype: str) -> SelectCase:
        """Return the same case with Q and K rounded to that type."""
        q, k = (x.astype(DTYPES[dtype]) for x in (self.q, self.k))
        return replace(self, name=f"{self.name}-{dtype}", q=q, k=k)


PATTERNS = ("random", "mixed", "sparse", "empty_rows", "full", "ones", "none", "diagonal")


def level_map(rng: np.random.Generator, shape: tuple[int, int, int, int], pattern: str) -> Array:
    """Return an int8 level map of one kind of PATTERNS."""
    level = rng.integers(0, 3, shape)
    if pattern == "random":
        level = 2 * (rng.random(shape) < 0.5)
    elif pattern == "sparse":
        level = 2 * (rng.random(shape) < 0.1)
    elif pattern == "empty_rows":
        level[:, :, rng.random(shape[2]) < 0.5] = 0
    elif pattern == "full":
        level = np.full(shape, 2)
    elif pattern == "ones":
        level = np.ones(shape)
    elif pattern == "none":
        level = np.zeros(shape)
    elif pattern == "diagonal":
        level = level * (rng.random(shape) < 0.3)
        rows = np.arange(shape[2])
        level[:, :, rows, rows * shape[3] // shape[2]] = 2
    elif pattern != "mixed":
        raise ValueError(f"unknown pattern {pattern}")
    return level.astype(np.int8)


def attention_case(
    name: str,
    *,
    seed: int = 0,
    batch: int = 1,
    heads: int = 2,
    head_dim: int = 64,
    frames: int = 2,
    layout: Layout | None = None,
    q_block: int = 1,
    k_block: int = 1,
    map_batch: bool = False,
    map_heads: bool = False,
    map_rows: bool = True,
    map_columns: bool = True,
    pattern: str = "mixed",
    scale: float = 0.0,
    spread: float = 1.0,
) -> AttentionCase:
    """Return a case in float32 with normal tokens.

    A dimension of level is 1 where its `map_*` is False. `spread` is the standard deviation of Q: a
    value above 1 sharpens the softmax.
    """
    layout = layout or Layout()
    rng = np.random.default_rng([seed, frames, head_dim])
    shape = (batch, heads, layout.tokens(frames), head_dim)
    q, k, v = (rng.standard_normal(shape, dtype=np.float32) for _ in range(3))
    patches = layout.patches(frames)
    map_shape = (
        batch if map_batch else 1,
        heads if map_heads else 1,
        -(-patches // q_block) if map_rows else 1,
        -(-patches // k_block) if map_columns else 1,
    )
    level = level_map(rng, map_shape, pattern)
    return AttentionCase(name, q * np.float32(spread), k, v, level, layout, q_block, k_block, scale)


def select_case(
    name: str,
    *,
    seed: int = 0,
    batch: int = 1,
    heads: int = 2,
    head_dim: int = 64,
    frames: int = 4,
    layout: Layout | None = None,
    q_block: int = 128,
    k_block: int = 64,
    pool: str = "mean",
    pattern: str = "full",
    one_pair: bool = False,
    keep_ratio: float = 0.0,
    cdf: float = 0.0,
    spread: float = 1.0,
) -> SelectCase:
    """Return a case in float32 with tokens that drift along the sequence, so that blocks differ."""
    layout = layout or Layout()
    rng = np.random.default_rng([seed, frames, head_dim, 7])
    shape = (batch, heads, layout.tokens(frames), head_dim)
    walk = rng.standard_normal((2, *shape), dtype=np.float32)
    drift = np.cumsum(0.2 * rng.standard_normal((2, *shape), dtype=np.float32), axis=3)
    q, k = (walk + drift) * np.float32(spread)
    size = 1 if one_pair else frames
    pair = level_map(rng, (1, 1, size, size), pattern)
    ratio, mass = float(np.float32(keep_ratio)), float(np.float32(cdf))
    return SelectCase(name, q, k, pair, ratio, mass, layout, q_block, k_block, pool)
