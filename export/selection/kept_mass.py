"""Share of dense attention that falls on the blocks that a selector chooses."""

from __future__ import annotations

import torch
from torch import Tensor

from covis.export.ops import TokenLayout


def kept_mass(
    q: Tensor,
    k: Tensor,
    level: Tensor,
    q_block: int,
    k_block: int,
    layout: TokenLayout,
    probe: Tensor,
) -> Tensor:
    """Return the share of dense attention's softmax mass on selected keys, by head.

    It is measured for a sample of queries. Their rows are computed exactly, over all keys, so the
    cost is n rows of dense attention. Only plain operators with symbolic lengths are used, because
    this becomes part of exported graphs.

    Args:
        q, k: (B, H, S, D), as they enter attention.
        level: int8 (b, h, Rq, Rk) of BlockSparseAttention.
        q_block, k_block: Patch tokens of one query region and of one key region of `level`.
        layout: Layout of the S tokens.
        probe: Indices of the sampled queries, int64 (n,), at least one.

    Returns:
        (H,) mean over batch and sample.
    """
    scores = q[:, :, probe].float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = torch.softmax(scores, dim=-1)
    tokens = torch.arange(k.shape[2], device=k.device)
    number, is_patch = _patch_numbers(layout, tokens, k.shape[2])
    probe_number, probe_is_patch = number[probe], is_patch[probe]
    rows = _region(probe_number, q_block, level.shape[2])
    columns = _region(number, k_block, level.shape[3])
    # Only the rows of the sample, because the map itself may be huge.
    selected = level[:, :, rows][:, :, :, columns] > 0
    selected = selected | ~is_patch | ~probe_is_patch[:, None]
    return torch.where(selected, weights, torch.zeros_like(weights)).sum(dim=-1).mean(dim=(0, 2))


def _patch_numbers(layout: TokenLayout, index: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Return each token's number among the patch tokens (0 for others), and a patch token mask."""
    place = index % layout.frame_tokens
    is_patch = (
        (index < tokens - layout.trailing_tokens)
        & (place >= layout.special_first)
        & (place < layout.frame_tokens - layout.special_last)
    )
    number = index // layout.frame_tokens * layout.patches_per_frame + place - layout.special_first
    return torch.where(is_patch, number, torch.zeros_like(number)), is_patch


def _region(number: Tensor, block: int, regions: int) -> Tensor:
    """Return the region of each patch token; 0 where the dimension has one region."""
    last = torch.zeros_like(number[:1]) + (regions - 1)
    return torch.minimum(number // block, last)
