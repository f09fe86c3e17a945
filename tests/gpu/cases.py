"""Cases for a machine that has a GPU, torch and numpy, and nothing else of the project's needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch

try:
    import ml_dtypes  # noqa: F401
except ImportError:
    # The vectors name bfloat16 and e4m3 through ml_dtypes; here tensors are rounded by torch, and
    # the names are all that is needed.
    stand_in = ModuleType("ml_dtypes")
    stand_in.__dict__.update(bfloat16=np.float16, float8_e4m3fn=np.uint8)
    sys.modules["ml_dtypes"] = stand_in

from covis.export.ops import fp8
from covis.export.ops.layout import TokenLayout
from tests.vectors import oracle
from tests.vectors.case import Array, AttentionCase, Layout, attention_case
from tests.vectors.standard import standard_cases

VGGT = Layout(frame_tokens=1374, special_first=5)
HEAD_DIMS = (64, 128)


def large_cases() -> Iterator[AttentionCase]:
    """Sizes at which tiles, rings and the order of rows matter."""
    pair: dict[str, Any] = {"layout": VGGT, "q_block": 1369, "k_block": 1369, "heads": 2}
    yield attention_case("vggt-3", frames=3, seed=30, pattern="mixed", **pair)
    yield attention_case("vggt-6-sparse", frames=6, seed=31, pattern="diagonal", **pair)
    yield attention_case("vggt-2-d128", frames=2, seed=32, pattern="full", head_dim=128, **pair)
    yield attention_case(
        "pooled-vggt-3",
        frames=3,
        seed=33,
        layout=VGGT,
        q_block=128,
        k_block=64,
        map_heads=True,
        pattern="sparse",
    )
    yield attention_case(
        "dense-odd", frames=4001, seed=34, map_rows=False, map_columns=False, pattern="full"
    )
    yield attention_case(
        "dense-d128",
        frames=1000,
        seed=35,
        head_dim=128,
        map_rows=False,
        map_columns=False,
        pattern="full",
    )
    yield attention_case(
        "frames-batch",
        frames=1374,
        seed=36,
        batch=5,
        map_rows=False,
        map_columns=False,
        pattern="full",
    )


def cases() -> Iterator[AttentionCase]:
    """All cases that the kernels are built for, in float32."""
    for case in (*standard_cases(), *large_cases()):
        if case.q.shape[3] in HEAD_DIMS:
            yield case


def refresh(case: AttentionCase, seed: int) -> AttentionCase:
    """The same sizes and map with new tokens: nothing learnt from a fixed input can pass."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.standard_normal(x.shape, dtype=np.float32) * np.float32(max(x.std(), 1e-3))
        for x in (case.q, case.k, case.v)
    )
    return replace(case, q=q, k=k, v=v)


def rounded(case: AttentionCase, dtype: torch.dtype) -> AttentionCase:
    """The case with its tokens rounded to `dtype`, still stored as float32."""
    q, k, v = (torch.from_numpy(x).to(dtype).float().numpy() for x in (case.q, case.k, case.v))
    return replace(case, q=q, k=k, v=v)


def layout_of(case: AttentionCase) -> TokenLayout:
    """The case's layout for the binding."""
    return TokenLayout(**vars(case.layout))


class _TokenLevels:
    """The level maps of the case judged last, by tokens: they are asked for many times."""

    def __init__(self) -> None:
        self.case: AttentionCase | None = None
        self.kept: dict[tuple[int, int, str], torch.Tensor] = {}

    def of(self, case: AttentionCase, b: int, h: int, device: str) -> torch.Tensor:
        """(S, S) int8 of a batch and head; computed once where the map serves several."""
        if self.case is None or not _same_map(self.case, case):
            self.kept.clear()
        self.case = case
        rows, columns = case.level.shape[:2]
        key = (b if rows > 1 else 0, h if columns > 1 else 0, device)
        if key not in self.kept:
            self.kept[key] = torch.from_numpy(oracle.token_levels(case, b, h)).to(device)
        return self.kept[key]


def _same_map(a: AttentionCase, b: AttentionCase) -> bool:
    """Whether both cases hold one and the same level map, for the same tokens."""
    sizes = [(case.layout, case.q_block, case.k_block, case.q.shape[2]) for case in (a, b)]
    return a.level is b.level and sizes[0] == sizes[1]


_TOKEN_LEVELS = _TokenLevels()


def token_levels(case: AttentionCase, b: int, h: int, device: str) -> torch.Tensor:
    """`oracle.token_levels` on `device`, kept while the same case is judged."""
    return _TOKEN_LEVELS.of(case, b, h, device)


def plain(case: AttentionCase, dtype: torch.dtype, device: str) -> Array:
    """The plain formula in `dtype`: inputs, scores, weights and output rounded to it."""
    q, k, v = (torch.from_numpy(x).to(device) for x in (case.q, case.k, case.v))
    out = torch.zeros_like(q)
    scale = case.scale or q.shape[3] ** -0.5
    for b, h in np.ndindex(*case.q.shape[:2]):
        keep = token_levels(case, b, h, device) > 0
        scores = ((q[b, h] @ k[b, h].T) * scale).to(dtype).float().masked_fill(~keep, -torch.inf)
        weights = torch.softmax(scores, -1).nan_to_num(0.0).to(dtype).float()
        out[b, h] = (weights @ v[b, h]).to(dtype).float()
    return out.cpu().numpy()


def all_low(case: AttentionCase) -> AttentionCase:
    """The case with every computed pair of level 1: FP8 wherever that is allowed."""
    return replace(case, name=f"{case.name} low", level=np.minimum(case.level, np.int8(1)))


def plain_fp8(case: AttentionCase, dtype: torch.dtype, device: str) -> Array:
    """The plain formula with level-1 pairs in FP8, by the scheme that the contract states.

    The copies of Q, K and V are those of the torch emulation, `covis.export.ops.fp8`.
    """
    q, k, v = (torch.from_numpy(x).to(device) for x in (case.q, case.k, case.v))
    out = torch.zeros_like(q)
    scale = case.scale or q.shape[3] ** -0.5
    patch = torch.from_numpy(oracle.patch_numbers(case.layout, q.shape[2]) >= 0).to(device)
    if not patch.any():  # nothing may be low
        return plain(case, dtype, device)
    low = fp8.quantize(q, k, v, patch.nonzero()[:, 0])
    for b, h in np.ndindex(*case.q.shape[:2]):
        level = token_levels(case, b, h, device)
        wide_scores = q[b, h] @ (k[b, h] - low.mean[b, h]).T
        low_scores = low.q[b, h] @ low.k[b, h].T
        scores = torch.where(level == 1, low_scores, wide_scores) * scale
        scores = scores.masked_fill(level <= 0, -torch.inf)
        peak = scores.amax(1, keepdim=True)
        weights = torch.exp(scores - torch.where(peak.isfinite(), peak, 0.0))
        total = weights.sum(1, keepdim=True).clamp(min=1e-30)
        rounded_weights = fp8.e4m3(weights * fp8.P_SCALE) / fp8.P_SCALE
        sums = torch.where(level == 1, rounded_weights, 0.0) @ low.v[b, h]
        sums += torch.where(level == 2, weights, 0.0) @ v[b, h]
        out[b, h] = (sums / total).to(dtype).float()
    return out.cpu().numpy()


def exact(case: AttentionCase, device: str) -> Array:
    """The contract in float64, on the GPU where the case is large."""
    if case.q.shape[2] <= 1024:
        return oracle.attention(case)
    q, k, v = (torch.from_numpy(x).to(device).double() for x in (case.q, case.k, case.v))
    out = torch.zeros_like(q)
    scale = case.scale or q.shape[3] ** -0.5
    for b, h in np.ndindex(*case.q.shape[:2]):
        keep = token_levels(case, b, h, device) > 0
        scores = ((q[b, h] @ k[b, h].T) * scale).masked_fill(~keep, -torch.inf)
        out[b, h] = torch.softmax(scores, -1).nan_to_num(0.0) @ v[b, h]
    return out.cpu().numpy()
