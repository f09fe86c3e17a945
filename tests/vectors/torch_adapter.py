"""The torch ops as an implementation of the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from covis.export.ops import (
    TokenLayout,
    block_select,
    block_sparse_attention,
    farthest_first,
    low_precision,
)
from tests.vectors.case import DTYPES, Array, AttentionCase, SelectCase
from tests.vectors.farthest_case import FarthestCase
from tests.vectors.suite import Case


class TorchOps:
    """Eager torch on the CPU; `low_precision` "fp8" emulates level 1."""

    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")

    def __init__(self, low_precision: str = "exact") -> None:
        self.name = f"torch ({low_precision})"
        self.low_precision = low_precision

    def supports(self, case: Case) -> str | None:
        return None

    def attention(self, case: AttentionCase) -> Array:
        q, k, v = (to_torch(x) for x in (case.q, case.k, case.v))
        with low_precision(self.low_precision):
            out = block_sparse_attention(
                q,
                k,
                v,
                torch.from_numpy(case.level),
                layout=TokenLayout(**vars(case.layout)),
                q_block=case.q_block,
                k_block=case.k_block,
                scale=case.scale or None,
            )
        return out.float().numpy().astype(DTYPES[case.dtype])

    def select(self, case: SelectCase) -> Array:
        level = block_select(
            to_torch(case.q),
            to_torch(case.k),
            torch.from_numpy(case.pair),
            torch.tensor(case.keep_ratio),
            torch.tensor(case.cdf),
            layout=TokenLayout(**vars(case.layout)),
            q_block=case.q_block,
            k_block=case.k_block,
            pool=case.pool,
        )
        return level.numpy()

    def farthest(self, case: FarthestCase) -> Array:
        inputs = (torch.from_numpy(x) for x in (case.similarity, case.given))
        return farthest_first(*inputs, case.count).numpy()


def to_torch(x: Array) -> torch.Tensor:
    """Convert to torch through float32, because numpy and torch share no bfloat16."""
    dtype: Any = getattr(torch, x.dtype.name)
    return torch.from_numpy(x.astype(np.float32)).to(dtype)
