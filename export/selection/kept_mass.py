"""How much of dense attention falls on the blocks that a selector keeps."""

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
    """Share of the softmax mass of dense attention on kept keys, by head, for a sample of queries.

    The sampled rows are computed exactly, over all keys, so it costs n rows of dense attention.
    Written in plain operators with symbolic lengths, because it becomes part of exported graphs.

    Args:
        q, k: (B, H, S, D), as the attention takes them.
        level: int8 (b, h, Rq, Rk).
        q_block, k_block: regions of `level`, in patch tokens.
        layout: of the S tokens.
        probe: int64 (n,), indices of the sampled queries, at least one.

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
    kept = level[:, :, rows][:, :, :, columns] > 0  # of the sample: the map itself may be huge
    kept = kept | ~is_patch | ~probe_is_patch[:, None]
    return torch.where(kept, weights, torch.zeros_like(weights)).sum(dim=-1).mean(dim=(0, 2))


def _patch_numbers(layout: TokenLayout, index: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """For each token its number among the patch tokens (0 for others), and whether it is one."""
    place = index % layout.frame_tokens
    is_patch = (
        (index < tokens - layout.trailing_tokens)
        & (place >= layout.special_first)
        & (place < layout.frame_tokens - layout.special_last)
    )
    number = index // layout.frame_tokens * layout.patches_per_frame + place - layout.special_first
    return torch.where(is_patch, number, torch.zeros_like(number)), is_patch


def _region(number: Tensor, block: int, regions: int) -> Tensor:
    """Region of each patch token; a dimension of one region holds all of them."""
    last = torch.zeros_like(number[:1]) + (regions - 1)
    return torch.minimum(number // block, last)
