"""The fixed list of cases: every rule of the contracts at least once, quick, no hypothesis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.vectors.case import (
    PATTERNS,
    AttentionCase,
    Layout,
    SelectCase,
    attention_case,
    select_case,
)

VGGT = Layout(frame_tokens=35, special_first=5)
MAPANYTHING = Layout(frame_tokens=31, special_last=1, trailing_tokens=1)
BOTH = Layout(frame_tokens=29, special_first=2, special_last=3, trailing_tokens=2)


def standard_cases() -> Iterator[AttentionCase]:
    """Return the cases of BlockSparseAttention in float32; `case.cast` gives the other types."""
    yield attention_case("one-token", frames=1, pattern="full")
    yield attention_case("one-token-skipped", frames=1, pattern="none")
    yield attention_case(
        "defaults-dense", frames=50, map_rows=False, map_columns=False, pattern="full"
    )
    yield attention_case(
        "dense-low", frames=3, layout=VGGT, map_rows=False, map_columns=False, pattern="ones"
    )
    yield attention_case(
        "dense-none", frames=3, layout=VGGT, map_rows=False, map_columns=False, pattern="none"
    )
    for pattern in PATTERNS:
        yield attention_case(
            f"frame-pair-{pattern}",
            seed=1,
            frames=5,
            layout=VGGT,
            q_block=30,
            k_block=30,
            pattern=pattern,
        )
        yield attention_case(
            f"no-special-{pattern}",
            seed=2,
            frames=200,
            q_block=16,
            k_block=8,
            map_heads=True,
            pattern=pattern,
        )
    yield attention_case("one-frame", frames=1, layout=VGGT, q_block=30, k_block=30)
    yield attention_case(
        "no-frame", frames=0, layout=MAPANYTHING, map_rows=False, map_columns=False
    )
    yield attention_case("trailing", seed=3, frames=4, layout=MAPANYTHING, q_block=30, k_block=30)
    yield attention_case(
        "special-both-ends", seed=4, frames=4, layout=BOTH, q_block=24, k_block=24, pattern="sparse"
    )
    yield attention_case(
        "odd-regions",
        seed=5,
        frames=7,
        layout=BOTH,
        q_block=7,
        k_block=11,
        batch=2,
        map_batch=True,
        map_heads=True,
    )
    yield attention_case(
        "region-a-token", seed=6, frames=40, q_block=1, k_block=1, pattern="random"
    )
    yield attention_case(
        "region-over-all", seed=7, frames=3, layout=VGGT, q_block=1000, k_block=500
    )
    yield attention_case(
        "batch-not-heads",
        seed=8,
        frames=3,
        layout=VGGT,
        q_block=10,
        k_block=20,
        batch=3,
        map_batch=True,
    )
    yield attention_case(
        "heads-not-batch",
        seed=9,
        frames=3,
        layout=VGGT,
        q_block=20,
        k_block=10,
        batch=3,
        heads=3,
        map_heads=True,
    )
    yield attention_case(
        "rows-only", seed=10, frames=4, layout=VGGT, q_block=16, k_block=16, map_columns=False
    )
    yield attention_case(
        "columns-only", seed=11, frames=4, layout=VGGT, q_block=16, k_block=16, map_rows=False
    )
    yield attention_case(
        "pooled",
        seed=12,
        frames=11,
        layout=Layout(95, 5),
        q_block=128,
        k_block=64,
        map_heads=True,
        pattern="sparse",
    )
    for head_dim in (1, 8, 24, 32, 40, 72, 80, 96, 128, 160, 256):
        yield attention_case(
            f"head-dim-{head_dim}",
            seed=13,
            frames=3,
            layout=BOTH,
            q_block=24,
            k_block=24,
            head_dim=head_dim,
        )
    yield attention_case("scale", seed=14, frames=3, layout=VGGT, q_block=30, k_block=30, scale=0.3)
    yield attention_case("sharp", seed=15, frames=6, layout=VGGT, q_block=30, k_block=30, spread=12)
    yield attention_case(
        "long",
        seed=16,
        frames=20,
        layout=Layout(134, 5),
        q_block=129,
        k_block=129,
        pattern="diagonal",
        heads=1,
    )
    yield attention_case(
        "long-straddling",
        seed=17,
        frames=13,
        layout=Layout(201, 5, 3, 1),
        q_block=100,
        k_block=77,
        pattern="sparse",
        heads=1,
    )


def standard_select_cases() -> Iterator[SelectCase]:
    """Return the cases of BlockSelect in float32."""
    small: dict[str, Any] = {"q_block": 16, "k_block": 8}
    yield select_case("one-token", frames=1, keep_ratio=0.5, one_pair=True)
    yield select_case("ratio", seed=1, frames=9, layout=VGGT, keep_ratio=0.4, **small)
    yield select_case("cdf", seed=2, frames=9, layout=VGGT, cdf=0.7, **small)
    yield select_case("both", seed=3, frames=9, layout=VGGT, keep_ratio=0.2, cdf=0.6, **small)
    yield select_case("at-least-one", seed=4, frames=9, layout=VGGT, **small)
    yield select_case("all", seed=5, frames=9, layout=VGGT, keep_ratio=1.0, cdf=1.0, **small)
    yield select_case("all-mass", seed=6, frames=9, layout=VGGT, cdf=1.0, **small)
    yield select_case(
        "max-pool", seed=7, frames=9, layout=VGGT, keep_ratio=0.3, pool="max", **small
    )
    yield select_case(
        "one-pair-none",
        seed=8,
        frames=9,
        layout=VGGT,
        keep_ratio=0.3,
        one_pair=True,
        pattern="none",
        **small,
    )
    for pattern in PATTERNS:
        yield select_case(
            f"pair-{pattern}",
            seed=9,
            frames=9,
            layout=BOTH,
            keep_ratio=0.4,
            cdf=0.5,
            pattern=pattern,
            **small,
        )
    yield select_case(
        "tokens-as-frames", seed=10, frames=70, keep_ratio=0.3, pattern="mixed", **small
    )
    yield select_case(
        "batch-heads",
        seed=11,
        frames=5,
        batch=2,
        heads=3,
        layout=MAPANYTHING,
        cdf=0.8,
        pattern="mixed",
        head_dim=40,
        **small,
    )
    yield select_case(
        "default-blocks", seed=12, frames=7, layout=Layout(203, 5), keep_ratio=0.1, cdf=0.5
    )
    yield select_case("sharp", seed=13, frames=7, layout=Layout(203, 5), cdf=0.9, spread=4.0)
