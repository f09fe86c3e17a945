"""Emulation of level 1 in FP8: measures the accuracy of mixed precision without a GPU.

Off by default: then level 1 computes exactly, as in the ONNX function body. `low_precision("fp8")`
turns it on for the eager op. The scheme is that of the Hopper kernels: float8 e4m3 operands, one
scale for each block of Q and of K, one for each channel of V, and probabilities scaled by 256
before they are rounded. The mean over the tokens is removed from K first: it adds a constant to all
scores of a row, which softmax cancels. Special and trailing tokens stay exact, because they have
the largest values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.export.ops.query_groups import QueryGroup

E4M3_MAX = 448.0  # largest finite float8_e4m3fn
P_SCALE = 256.0  # probabilities are at most 1: uses the range of e4m3 without reaching its end
QUANT_BLOCK = 64  # patch tokens that share a scale of Q or K, as a kernel's tile would
_ROWS = 1024  # queries whose scores are in memory at once

_mode: ContextVar[str] = ContextVar("covis_low_precision", default="exact")


@contextmanager
def low_precision(mode: str) -> Iterator[None]:
    """Compute eager level 1 as `mode` within this context: "exact" or "fp8"."""
    if mode not in ("exact", "fp8"):
        raise user_error(f"is {mode!r}", where="low_precision", hint="give 'exact' or 'fp8'")
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def active() -> bool:
    """Return True within `low_precision("fp8")`."""
    return _mode.get() == "fp8"


@dataclass(frozen=True)
class Quantized:
    """Q, K and V after a round trip through e4m3.

    Attributes:
        q, k, v: Rounded tokens (B, H, S, D) in float32 or float64; zeros for tokens that are not
            patch tokens.
        mean: Mean of the keys (B, H, 1, D), removed from K before rounding; `k` is without it.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mean: Tensor

    def rows(
        self, q: Tensor, k: Tensor, v: Tensor, group: QueryGroup, scale: float | None
    ) -> Tensor:
        """Compute attention of one group of queries, level-1 keys in FP8: (b, h, n, D)."""
        at = (group.batch, group.head)
        low = group.key_level == 1
        parts = [
            self._chunk(q, k, v, at, queries, group.keys[~low], group.keys[low], scale)
            for queries in torch.split(group.queries, _ROWS)
        ]
        return torch.cat(parts, 2).to(q.dtype)

    def _chunk(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        at: tuple[slice, slice],
        queries: Tensor,
        exact: Tensor,
        low: Tensor,
        scale: float | None,
    ) -> Tensor:
        factor = scale or 1.0 / math.sqrt(q.shape[3])
        wide = self.q.dtype
        # The mean is removed from the exact keys too: both parts share one softmax.
        k_exact = k[at].index_select(2, exact).to(wide) - self.mean[at]
        scores_exact = q[at].index_select(2, queries).to(wide) @ k_exact.transpose(-1, -2)
        k_low = self.k[at].index_select(2, low)
        scores_low = self.q[at].index_select(2, queries) @ k_low.transpose(-1, -2)
        scores = torch.cat([scores_exact, scores_low], -1) * factor
        p = torch.exp(scores - scores.amax(-1, keepdim=True))
        p_exact, p_low = p[..., : exact.numel()], p[..., exact.numel() :]
        out = p_exact @ v[at].index_select(2, exact).to(wide)
        out = out + (e4m3(p_low * P_SCALE) / P_SCALE) @ self.v[at].index_select(2, low)
        result: Tensor = out / p.sum(-1, keepdim=True)
        return result


def quantize(q: Tensor, k: Tensor, v: Tensor, patch: Tensor, block: int = QUANT_BLOCK) -> Quantized:
    """Round the patch tokens of Q, K and V to e4m3 and back.

    Args:
        q, k, v: (B, H, S, D) of one floating type.
        patch: Indices of the patch tokens, int64.
        block: Number of patch tokens that share a scale of Q or K.
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    q, k, v = (x.to(wide) for x in (q, k, v))
    if not patch.numel():  # levels apply to patch tokens only, so no key has level 1
        zeros = torch.zeros_like(q)
        return Quantized(zeros, zeros, zeros, torch.zeros_like(k[:, :, :1]))
    mean = k[:, :, patch].mean(2, keepdim=True)
    rounded = []
    for x in (q[:, :, patch], k[:, :, patch] - mean):
        peaks = torch.stack([part.abs().amax((2, 3)) for part in torch.split(x, block, 2)], 2)
        scale = _scale(peaks).repeat_interleave(block, 2)[:, :, : patch.numel(), None]
        rounded.append(e4m3(x / scale) * scale)
    per_channel = _scale(v[:, :, patch].abs().amax(2, keepdim=True))
    rounded.append(e4m3(v[:, :, patch] / per_channel) * per_channel)
    full = [torch.zeros_like(q).index_copy(2, patch, x) for x in rounded]
    return Quantized(full[0], full[1], full[2], mean)


def e4m3(x: Tensor) -> Tensor:
    """Round to the nearest float8 e4m3 values, saturating; the result has the type of x."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(x.dtype)


def _scale(peak: Tensor) -> Tensor:
    return torch.where(peak > 0, peak / E4M3_MAX, torch.ones_like(peak))
