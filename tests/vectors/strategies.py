"""Hypothesis strategies that generate cases of the three ops."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.vectors.case import (
    PATTERNS,
    AttentionCase,
    Layout,
    SelectCase,
    attention_case,
    select_case,
)
from tests.vectors.farthest_case import KINDS, FarthestCase, farthest_case

_MAX_TOKENS = 400  # the fixed list has the long ones


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Draw layouts with frames of 1 to 60 tokens and any split into special and patch tokens."""
    first, last = draw(st.integers(0, 6)), draw(st.integers(0, 3))
    patches = draw(st.integers(1, 50))
    return Layout(first + patches + last, first, last, draw(st.integers(0, 3)))


def _frames(draw: st.DrawFn, layout: Layout) -> int:
    return draw(st.integers(1, max(1, min(40, _MAX_TOKENS // layout.frame_tokens))))


def _block(draw: st.DrawFn, layout: Layout) -> int:
    """Draw a block size: often a whole frame, otherwise any number."""
    patches = layout.patches(1)
    return draw(st.one_of(st.just(patches), st.integers(1, 150)))


@st.composite
def attention_cases(draw: st.DrawFn) -> AttentionCase:
    """Draw cases of BlockSparseAttention in float32."""
    layout = draw(layouts())
    return attention_case(
        "hypothesis",
        seed=draw(st.integers(0, 2**16)),
        batch=draw(st.integers(1, 2)),
        heads=draw(st.integers(1, 3)),
        head_dim=draw(st.one_of(st.sampled_from([32, 64, 96, 128]), st.integers(1, 80))),
        frames=_frames(draw, layout),
        layout=layout,
        q_block=_block(draw, layout),
        k_block=_block(draw, layout),
        map_batch=draw(st.booleans()),
        map_heads=draw(st.booleans()),
        map_rows=draw(st.booleans()),
        map_columns=draw(st.booleans()),
        pattern=draw(st.sampled_from(PATTERNS)),
        scale=draw(st.sampled_from([0.0, 0.0, 0.05, 0.5])),
    )


@st.composite
def select_cases(draw: st.DrawFn) -> SelectCase:
    """Draw cases of BlockSelect in float32."""
    layout = draw(layouts())
    return select_case(
        "hypothesis",
        seed=draw(st.integers(0, 2**16)),
        batch=draw(st.integers(1, 2)),
        heads=draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from([16, 32, 64, 40])),
        frames=_frames(draw, layout),
        layout=layout,
        q_block=draw(st.integers(1, 40)),
        k_block=draw(st.integers(1, 40)),
        pool=draw(st.sampled_from(["mean", "max"])),
        pattern=draw(st.sampled_from(PATTERNS)),
        one_pair=draw(st.booleans()),
        keep_ratio=draw(st.floats(0, 1, width=32)),
        cdf=draw(st.floats(0, 1, width=32)),
    )


@st.composite
def farthest_cases(draw: st.DrawFn) -> FarthestCase:
    """Draw cases of FarthestFirst of up to 40 views."""
    views = draw(st.integers(1, 40))
    return farthest_case(
        "hypothesis",
        seed=draw(st.integers(0, 2**16)),
        views=views,
        kind=draw(st.sampled_from(KINDS)),
        count=draw(st.integers(-1, views + 2)),
        given=draw(st.lists(st.integers(-2, views + 1), max_size=views)),
    )
