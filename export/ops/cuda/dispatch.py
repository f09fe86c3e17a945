"""Choose between the CUDA kernels and torch code for the torch ops.

All functions return None where torch code has to compute: tensors are not on a GPU, a gradient is
required, no kernel supports the type or size, the GPU has no code, or the library is not built. For
CUDA tensors the reason is logged once. A library that exists but is broken, or that rejects its
input, is an error and no reason for a fallback.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from covis.engines.system.native import KERNELS_LIBRARY, find_library
from covis.export.ops import fp8
from covis.export.ops.attributes import AttentionAttributes, SelectAttributes
from covis.export.ops.cuda import attention, farthest, select

_log = logging.getLogger("covis.export.ops")


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, level: Tensor, attributes: AttentionAttributes
) -> Tensor | None:
    """Compute attention with the kernels; within `low_precision("fp8")`, FP8 is allowed."""
    if not q.is_cuda or _requires_gradient(q, k, v) or not _usable(attention.unsupported(q)):
        return None
    precision: attention.Precision = "fp8" if fp8.active() else "full"
    return attention.block_sparse_attention(
        q, k, v, level.to(q.device), attributes, precision=precision
    )


def block_select(
    q: Tensor,
    k: Tensor,
    pair: Tensor,
    keep_ratio: Tensor,
    cdf: Tensor,
    attributes: SelectAttributes,
) -> Tensor | None:
    """Compute a level map with the kernels. A choice has no gradient."""
    if not q.is_cuda or attributes.layout.patches(q.shape[2]) == 0:
        return None
    if not _usable(select.unsupported(q)):
        return None
    pair, keep_ratio, cdf = (x.to(q.device) for x in (pair, keep_ratio, cdf))
    return select.block_select(q, k, pair, keep_ratio, cdf, attributes)


def farthest_first(similarity: Tensor, given: Tensor, count: Tensor) -> Tensor | None:
    """Compute a traversal with the kernel. A choice has no gradient."""
    if not similarity.is_cuda or not _usable(farthest.unsupported(similarity)):
        return None
    given, count = (x.to(similarity.device) for x in (given, count))
    return farthest.farthest_first(similarity.detach(), given, count)


def _requires_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _usable(reason: str | None) -> bool:
    if reason is None and find_library(KERNELS_LIBRARY) is None:
        reason = "the kernels are not built (`make plugins` builds them)"
    if reason is not None:
        _log_once(reason)
    return reason is None


@cache
def _log_once(reason: str) -> None:
    _log.warning("CUDA tensors are computed by torch, not by covis's kernels: %s", reason)
