"""The CUDA kernels' tile walk on the host, against the element rule of the contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.cuda_host import HostAdapter, cost, library, params_of
from tests.vectors.case import Array, AttentionCase, Layout, attention_case, level_map
from tests.vectors.standard import standard_cases
from tests.vectors.suite import check_attention, check_rules

Fp8 = Literal["no", "walk", "numbers"]


@pytest.mark.parametrize(("width", "fp8"), [(1, "no"), (2, "walk"), (3, "no")])
def test_standard_cases(width: int, fp8: Fp8) -> None:
    adapter = HostAdapter(width, fp8=fp8)
    for case in standard_cases():
        check_attention(adapter, case)
    check_rules(adapter, "float32")


@settings(deadline=None, max_examples=60)
@given(
    width=st.sampled_from([1, 2, 3]),
    frames=st.integers(0, 6),
    patches=st.sampled_from([1, 7, 33, 63, 64, 65, 127, 130, 200]),
    special_first=st.integers(0, 5),
    special_last=st.integers(0, 2),
    trailing=st.integers(0, 70),
    block_q=st.sampled_from([1, 5, 64, 128, 192, 1000, -1, -2]),
    block_k=st.sampled_from([1, 5, 64, 128, 192, 1000, -1, -2]),
    pattern=st.sampled_from(["mixed", "sparse", "ones", "none"]),
    seed=st.integers(0, 1000),
)
def test_any_layout_and_regions(
    width: int,
    frames: int,
    patches: int,
    special_first: int,
    special_last: int,
    trailing: int,
    block_q: int,
    block_k: int,
    pattern: str,
    seed: int,
) -> None:
    """Negative blocks stand for that many whole frames."""
    if frames == 0 and trailing == 0:
        trailing = 1
    layout = Layout(patches + special_first + special_last, special_first, special_last, trailing)
    blocks = [b if b > 0 else -b * patches for b in (block_q, block_k)]
    case = attention_case(
        "any",
        seed=seed,
        heads=1,
        head_dim=8,
        frames=frames,
        layout=layout,
        q_block=blocks[0],
        k_block=blocks[1],
        map_rows=frames > 0,
        map_columns=frames > 0,
        pattern=pattern,
    )
    fp8: tuple[Fp8, ...] = ("no", "walk", "numbers")[: 3 if frames else 2]
    check_attention(HostAdapter(width, fp8=fp8[seed % len(fp8)]), case)


@pytest.mark.parametrize("fp8", ["no", "numbers"])
def test_levels_out_of_range_are_clipped(fp8: Fp8) -> None:
    """Below 1 counts as 0 and above 2 as 2: the ABI does not read the map before the launch."""
    case = attention_case("wild", seed=9, frames=4, heads=1, head_dim=64, layout=Layout(64, 2))
    shape = (1, 1, 4, 4)
    rng = np.random.default_rng(9)
    wild = rng.choice(np.array([-128, -1, 0, 1, 2, 3, 127], np.int8), shape)
    wild[..., 0] = 3  # every row has a key
    adapter = HostAdapter(3, fp8=fp8)
    outs = [
        adapter.attention(replace(case, level=level, q_block=62, k_block=62))
        for level in (wild, np.clip(wild, 0, 2))
    ]
    np.testing.assert_array_equal(*outs)


def frame_pairs(
    frames: int, density: float, patches: int = 1369, special: int = 5
) -> AttentionCase:
    """A case of VGGT's sizes whose tensors have no data: for what only counts."""
    rng = np.random.default_rng(3)
    keep = rng.random((frames, frames)) < density
    np.fill_diagonal(keep, True)
    level: Array = (2 * keep).astype(np.int8)[None, None]
    tokens = frames * (patches + special)
    nothing: Array = np.broadcast_to(np.float32(0), (1, 1, tokens, 64))
    layout = Layout(patches + special, special)
    return AttentionCase("sizes", nothing, nothing, nothing, level, layout, patches, patches)


def test_frame_pairs_pad_three_percent() -> None:
    case = frame_pairs(20, 0.126)
    kept = float((case.level > 0).sum())
    counts = cost(params_of(case), width=3)
    tokens, special = 20 * 1374, 20 * 5
    pairs = kept * 1369**2 + (tokens**2 - (tokens - special) ** 2)
    assert counts["pairs"] == pairs
    assert counts["blocks"] * 64 * 64 < 1.08 * pairs
    assert counts["unordered_tiles"] == 0


def test_pooled_regions_pad_ten_percent() -> None:
    case = frame_pairs(8, 1.0)
    patches = 8 * 1369
    rng = np.random.default_rng(4)
    shape = (1, 1, -(-patches // 128), -(-patches // 64))
    case = replace(case, level=level_map(rng, shape, "sparse"), q_block=128, k_block=64)
    counts = cost(params_of(case), width=3)
    assert counts["blocks"] * 64 * 64 < 1.16 * counts["pairs"]
    assert counts["unordered_tiles"] == 0


def test_dense_without_frames_pads_only_the_end() -> None:
    nothing: Array = np.broadcast_to(np.float32(0), (1, 1, 27480, 64))
    case = AttentionCase("dense", nothing, nothing, nothing, np.full((1, 1, 1, 1), 2, np.int8))
    counts = cost(params_of(case), width=3)
    assert counts["pairs"] == 27480**2
    assert counts["blocks"] == (-(-27480 // 64)) ** 2


def test_division_is_exact() -> None:
    rng = np.random.default_rng(0)
    divide = library().covis_host_divide
    edges = [1, 2, 3, 63, 64, 65, 1369, 2**16 + 1, 2**30 + 1, 2**31 - 1]
    divisors = edges + rng.integers(1, 2**31, 200).tolist()
    for divisor in divisors:
        numerators = [0, 1, divisor - 1, divisor, 2 * divisor - 1, 2 * divisor, 2**31 - 1]
        numerators += rng.integers(0, 2**31, 50).tolist()
        for n in numerators:
            if n < 2**31:
                assert divide(n, divisor) == n // divisor
