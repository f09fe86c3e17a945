"""The CUDA kernels behind the torch ops: taken for CUDA tensors where they can be, else torch.

The ops call `attention` and `select`, which give None where the composite torch code has to
serve: tensors elsewhere, gradients wanted, a type or size that no kernel has, a GPU without code, a
library that is not built. For CUDA tensors the reason is logged once. A library that is there but
broken, or that refuses what it was given, is an error and no reason to fall back.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from covis.engines.system.native import KERNELS_LIBRARY, find_library
from covis.export.ops import cuda, cuda_select, fp8
from covis.export.ops.layout import TokenLayout

_log = logging.getLogger("covis.export.ops")


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    level: Tensor,
    layout: TokenLayout,
    q_block: int,
    k_block: int,
    scale: float | None,
) -> Tensor | None:
    """BlockSparseAttention by the kernels, or None; FP8 is allowed in `low_precision("fp8")`."""
    if not q.is_cuda or _wants_gradient(q, k, v) or not _usable(cuda.unsupported(q)):
        return None
    return cuda.block_sparse_attention(
        q,
        k,
        v,
        level.to(q.device),
        layout=layout,
        q_block=q_block,
        k_block=k_block,
        scale=scale,
        precision="fp8" if fp8.active() else "full",
    )


def select(
    q: Tensor,
    k: Tensor,
    pair: Tensor,
    keep_ratio: Tensor,
    cdf: Tensor,
    layout: TokenLayout,
    q_block: int,
    k_block: int,
    pool: str,
) -> Tensor | None:
    """BlockSelect by the kernels, or None. A choice has no gradient."""
    if not q.is_cuda or layout.patches(q.shape[2]) == 0:
        return None
    if not _usable(cuda_select.unsupported(q)):
        return None
    pair, keep_ratio, cdf = (x.to(q.device) for x in (pair, keep_ratio, cdf))
    return cuda_select.block_select(
        q, k, pair, keep_ratio, cdf, layout=layout, q_block=q_block, k_block=k_block, pool=pool
    )


def _wants_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _usable(reason: str | None) -> bool:
    if reason is None and find_library(KERNELS_LIBRARY) is None:
        reason = "the kernels are not built (`make plugins` builds them)"
    if reason is not None:
        _say_once(reason)
    return reason is None


@cache
def _say_once(reason: str) -> None:
    _log.warning("CUDA tensors are computed by torch, not by covis's kernels: %s", reason)
