"""Transformer block that all three models and their encoders consist of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from covis.export.models.rope import Rotary
from covis.export.ops import TokenLayout, block_sparse_attention, dense_level
from covis.export.selection.block_maps import BlockMap, Selection

MlpKind = Literal["gelu", "swiglu"]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k, v (B, H, S, D), after qk-norm and RoPE -> attended values (B, H, S, D)."""


def attend_densely(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of every token to every other."""
    return block_sparse_attention(q, k, v, dense_level())


@dataclass(frozen=True)
class AttendSelected:
    """Global attention over the region pairs that `selection` chooses for this layer.

    Attributes:
        selection: Returns the block map of a layer.
        layer: Index among the global layers.
        layout: Positions of the special tokens.
    """

    selection: Selection
    layer: int
    layout: TokenLayout

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        chosen = self.selection(self.layer, q, k)
        if isinstance(chosen, BlockMap):
            return self._attend(q, k, v, chosen)
        groups = zip(*(x.chunk(len(chosen), dim=1) for x in (q, k, v)), chosen, strict=True)
        return torch.cat([self._attend(*group) for group in groups], dim=1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, chosen: BlockMap) -> Tensor:
        return block_sparse_attention(
            q,
            k,
            v,
            chosen.level,
            layout=self.layout,
            q_block=chosen.q_block,
            k_block=chosen.k_block,
        )


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection, ordered (q | k | v, head, feature)."""

    def __init__(self, dim: int, heads: int, *, qk_norm_eps: float | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if qk_norm_eps is not None:
            self.q_norm = nn.LayerNorm(dim // heads, eps=qk_norm_eps)
            self.k_norm = nn.LayerNorm(dim // heads, eps=qk_norm_eps)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, rotate: Rotary | None = None, attend: Attend = attend_densely
    ) -> Tensor:
        """Tokens (B, S, C) -> (B, S, C)."""
        qkv = torch.unflatten(self.qkv(x), -1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        out: Tensor = self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class SwiGlu(nn.Module):
    """Gated MLP (Shazeer 2020): silu(x W1) * (x W2), then W3; W1 and W2 are one fused matrix."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # Two thirds of the width keep the parameter count of a plain MLP; DINOv2 rounds up to 8.
        gated = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * gated)
        self.w3 = nn.Linear(gated, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(functional.silu(gate) * value)
        return out


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch (Touvron et al. 2021)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        dim: Width C.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP divided by C.
        eps: Epsilon of both LayerNorms.
        qk_norm_eps: Epsilon of the LayerNorms on queries and keys; None: there are none.
        layer_scale: Learned factors on both residual branches.
        mlp: Kind of MLP.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float,
        *,
        eps: float,
        qk_norm_eps: float | None = None,
        layer_scale: bool = True,
        mlp: MlpKind = "gelu",
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm_eps=qk_norm_eps)
        self.ls1: nn.Module = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp: nn.Module = SwiGlu(dim, hidden) if mlp == "swiglu" else Mlp(dim, hidden)
        self.ls2: nn.Module = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(
        self, x: Tensor, rotate: Rotary | None = None, attend: Attend = attend_densely
    ) -> Tensor:
        """Tokens (B, S, C) -> (B, S, C)."""
        x = x + self.ls1(self.attn(self.norm1(x), rotate, attend))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out
