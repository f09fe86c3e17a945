"""BlockSparseAttention as a torch op."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DENSE = 2  # the level of a region pair that is computed in full precision


@dataclass(frozen=True)
class TokenLayout:
    """How the S tokens of a sequence are laid out: frames x frame_tokens, then trailing tokens."""

    frame_tokens: int = 1
    special_first: int = 0
    special_last: int = 0
    trailing_tokens: int = 0


def dense_level(device: torch.device | str | None = None) -> Tensor:
    """The (1, 1, 1, 1) level map that means dense attention."""
    return torch.full((1, 1, 1, 1), DENSE, dtype=torch.int8, device=device)


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    level: Tensor,
    *,
    layout: TokenLayout = TokenLayout(),
    q_block: int = 1,
    k_block: int = 1,
    scale: float | None = None,
) -> Tensor:
    """Attention over the region pairs whose level is above 0; q, k, v (B, H, S, D)."""
    raise NotImplementedError
