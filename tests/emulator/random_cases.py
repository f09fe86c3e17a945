"""Attention cases of random layouts, regions and maps: what no table of cases thinks of."""

from __future__ import annotations

import numpy as np

from tests.vectors.case import AttentionCase, Layout

TOKENS = 420  # at most, about: a case is a second of emulation
LEVELS = (  # shares of the levels 0, 1 and 2 of a map
    (0.3, 0.4, 0.3),
    (0.8, 0.1, 0.1),
    (0.0, 0.9, 0.1),
    (0.0, 1.0, 0.0),
    (0.4, 0.0, 0.6),
    (0.0, 0.1, 0.9),
)


def _layout(rng: np.random.Generator) -> tuple[Layout, int]:
    """A layout and a number of frames; one in four has no special tokens and frames of one."""
    if rng.random() < 0.25:
        return Layout(1, 0, 0, int(rng.integers(0, 3))), int(rng.integers(1, TOKENS))
    first, last = int(rng.integers(0, 6)), int(rng.integers(0, 4))
    inside = int(rng.choice([1, 7, 30, 63, 64, 65, 100, 128, 130, 150]))
    layout = Layout(first + inside + last, first, last, int(rng.integers(0, 4)))
    return layout, int(rng.integers(1, max(2, TOKENS // layout.frame_tokens + 1)))


def random_case(seed: int) -> AttentionCase:
    """The case of a seed, in float32: at most 2 batches and heads, D 64 or 128."""
    rng = np.random.default_rng([seed, 11])
    layout, frames = _layout(rng)
    inside = layout.frame_tokens - layout.special_first - layout.special_last
    patches = layout.patches(frames)
    dim = int(rng.choice([64, 64, 128]))
    batch, heads = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    shape = (batch, heads, layout.tokens(frames), dim)
    q, k, v = (rng.standard_normal(shape, dtype=np.float32) for _ in range(3))
    q *= np.float32(rng.choice([0.3, 1.0, 1.0, 3.0]))
    if rng.random() < 0.5:  # keys with a mean, which the FP8 kernels take out
        k += 2 * rng.standard_normal((1, 1, 1, dim), dtype=np.float32)
    blocks = [1, 7, 50, 64, 100, 128, 192, inside, inside, inside, patches, 2 * inside]
    least = 7 if patches > 150 else 1  # maps of a size that the oracle holds
    q_block, k_block = (max(int(rng.choice(blocks)), least) for _ in range(2))
    rows, columns = (
        1 if rng.random() < 0.2 else -(-patches // block) for block in (q_block, k_block)
    )
    map_shape = (*(size if rng.random() < 0.5 else 1 for size in (batch, heads)), rows, columns)
    shares = LEVELS[int(rng.integers(len(LEVELS)))]
    level = rng.choice(3, size=map_shape, p=shares).astype(np.int8)
    scale = 0.0 if rng.random() < 0.7 else float(rng.choice([0.05, 0.3]))
    return AttentionCase(f"random-{seed}", q, k, v, level, layout, q_block, k_block, scale)
