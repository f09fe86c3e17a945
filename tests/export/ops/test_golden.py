"""The pooled selector of the original implementation: its masks, and its outputs under them.

The originals' masks have additional last columns: keys are ordered patches first, then all special
tokens, and special keys in the last, partial patch block are dropped with it. Ours are never
dropped. So masks are compared on the patch columns, and outputs with the golden mask unchanged.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from covis.export.ops import TokenLayout
from tests.golden_data import golden, golden_json, tolerance
from tests.vectors.case import Array, AttentionCase, Layout, SelectCase
from tests.vectors.function_adapter import OrtOps
from tests.vectors.suite import Adapter
from tests.vectors.torch_adapter import TorchOps

SETS = [f"sparse_a{i}" for i in range(1, 6)]
ADAPTERS: dict[str, Adapter] = {"torch": TorchOps(), "function": OrtOps(threads=1)}


@cache
def tensors(name: str) -> dict[str, Array]:
    return load_file(golden(f"{name}.safetensors"))


def layout_of(record: dict[str, Any]) -> Layout:
    special = record["special_per_frame"]
    return Layout(record["H"] * record["W"] + special, special)


def keep_ratio(mode: dict[str, Any], blocks: int) -> float:
    """Return the float32 that selects as many of `blocks` as the original's float64 arithmetic.

    The original rounds `blocks * (1 - sparse_ratio)` down, where 1 - 0.9 is below 0.1.
    """
    if "topk" in mode:
        count = min(max(mode["topk"], 1), blocks)
    elif "sparse_ratio" in mode:
        count = int(blocks * (1 - mode["sparse_ratio"]))
    else:
        return 0.0
    ratio = np.float32(count / blocks)
    if np.floor(np.float64(ratio) * blocks) < count:
        ratio = np.nextafter(ratio, np.float32(1))
    assert np.floor(np.float64(ratio) * blocks) == count
    return float(ratio)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", SETS)
def test_masks_are_equal_bit_for_bit(name: str, adapter: str) -> None:
    record, data = golden_json(f"{name}.json"), tensors(name)
    blocks = record["k_blocks_patch"]
    pool = {"avg": "mean", "max": "max"}[record["pool"]]
    for mode in record["modes"]:
        case = SelectCase(
            f"{name} {mode['mask']}",
            data["q"],
            data["k"],
            np.full((1, 1, 1, 1), 2, np.int8),
            keep_ratio(mode, blocks),
            mode.get("cdf_threshold", 0.0),
            layout_of(record),
            pool=pool,
        )
        level = ADAPTERS[adapter].select(case)
        expected = 2 * data[mode["mask"]][..., :blocks].astype(np.int8)
        assert level.shape == expected.shape
        differing = int((level != expected).any(-1).sum())
        # The record says how many rows the original itself decides otherwise in float64.
        assert differing <= mode["fp32_vs_fp64_rows_differing"], mode


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["sparse_a1", "sparse_a2", "sparse_a4"])
def test_outputs_under_the_golden_mask(name: str, adapter: str) -> None:
    record, data = golden_json(f"{name}.json"), tensors(name)
    layout = TokenLayout(**vars(layout_of(record)))
    patch, special = layout.split(record["L"], torch.device("cpu"))
    order = torch.cat([patch, special]).numpy()
    q, k, v = (np.ascontiguousarray(data[n][:, :, order]) for n in "qkv")
    for mode in record["modes"]:
        # As upstream sees it: each query a region of its own, so that special rows can be dense.
        mask = np.repeat(data[mode["mask"]], 128, axis=2)[:, :, : len(patch)]
        dense_rows = np.ones((*mask.shape[:2], len(special), mask.shape[3]), mask.dtype)
        level = 2 * np.concatenate([mask, dense_rows], 2).astype(np.int8)
        case = AttentionCase(mode["mask"], q, k, v, level, Layout(), q_block=1, k_block=64)
        out = np.empty_like(data["q"])
        out[:, :, order] = ADAPTERS[adapter].attention(case)
        expected = data[mode["attn_out"]]
        allowed = tolerance(mode["attn_max_abs_diff_fp32_vs_fp64"], float(np.abs(expected).max()))
        assert float(np.abs(out - expected).max()) <= allowed, mode
