"""Attention in which skipped key regions take part through their means (an experiment).

A query that skips a region of n keys attends to one row in its place: the region's mean key and
mean value, with log(n) added to the score, so that n equal keys would weigh exactly as much. By
Jensen's inequality the row never weighs more than the keys that it replaces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from covis.export.ops import TokenLayout
from covis.export.ops.query_groups import plan_rows


@dataclass(frozen=True)
class FillRegions:
    """The regions of keys that a mean may stand for: parts of the key regions of a level map.

    Attributes:
        of_token: Region of each patch token, counted frame-major, int64 (N,).
        sizes: Patch tokens of each region, int64 (F,).
    """

    of_token: Tensor
    sizes: Tensor

    @classmethod
    def within(cls, patches: int, k_block: int, fill_block: int) -> FillRegions:
        """Cut each key region into pieces of `fill_block` tokens; its last piece may be short.

        Args:
            patches: Patch tokens N of the sequence.
            k_block: Patch tokens of a key region of the level map.
            fill_block: Patch tokens of a piece; `k_block` or more leaves key regions whole.
        """
        number = torch.arange(patches)
        pieces = math.ceil(k_block / min(fill_block, k_block))
        raw = number // k_block * pieces + number % k_block // fill_block
        _, of_token, sizes = torch.unique(raw, return_inverse=True, return_counts=True)
        return cls(of_token, sizes)

    def means(self, x: Tensor) -> Tensor:
        """Return the means over regions, (B, H, F, D), of patch tokens (B, H, N, D)."""
        shape = (*x.shape[:2], len(self.sizes), x.shape[3])
        total = x.new_zeros(shape).index_add_(2, self.of_token, x)
        return total / self.sizes[:, None].to(x.dtype)


def mean_filled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    level: Tensor,
    *,
    layout: TokenLayout,
    q_block: int,
    k_block: int,
    fill_block: int,
    exact_mass: bool = False,
) -> Tensor:
    """Compute block-sparse attention with one row for each skipped region.

    Tokens, levels and the rule of special and trailing tokens are those of BlockSparseAttention.
    A patch query attends to the keys of level 1 and 2, to all special and trailing tokens, and to
    a row (mean key, mean value, bias log n) for each region of level 0. Special and trailing
    queries are dense.

    Args:
        q, k, v: Queries, keys and values (B, H, S, D).
        level: int8 map (b, h, Rq, Rk): 0 skipped, else computed.
        layout: Which of the S tokens are special, patch and trailing tokens.
        q_block, k_block: Patch tokens of one query region and of one key region.
        fill_block: Patch tokens that one row stands for, see `FillRegions.within`.
        exact_mass: Give a row the weight that its keys have together, in place of that of their
            mean. This computes all scores: it shows what a better bias could gain at most.

    Returns:
        (B, H, S, D) in the type of q.
    """
    patch, dense = layout.split(q.shape[2], q.device)
    regions = FillRegions.within(patch.numel(), k_block, fill_block)
    mean_k, mean_v = (regions.means(x[:, :, patch]) for x in (k, v))
    region_of_key = torch.full((q.shape[2],), -1)
    region_of_key[patch] = regions.of_token
    out = torch.empty_like(q)
    out[:, :, dense] = scaled_dot_product_attention(q[:, :, dense], k, v)
    for group in plan_rows(level, patch, dense, q_block, k_block):
        at = (group.batch, group.head)
        computed = torch.unique(region_of_key[group.keys])
        skipped = torch.ones(len(regions.sizes), dtype=torch.bool)
        skipped[computed[computed >= 0]] = False
        queries = q[at][:, :, group.queries]
        bias = regions.sizes[skipped].to(q).log().expand(len(group.queries), -1)
        if exact_mass:
            rows = _mass_beyond_means(queries, k[at][:, :, patch], mean_k[at], regions)
            bias = bias + rows[..., skipped]
        keys, values = (
            torch.cat([x[at][:, :, group.keys], mean[at][:, :, skipped]], dim=2)
            for x, mean in ((k, mean_k), (v, mean_v))
        )
        bias = pad(bias, (group.keys.numel(), 0))
        out[(*at, group.queries)] = scaled_dot_product_attention(
            queries, keys, values, attn_mask=bias
        )
    return out


def _mass_beyond_means(q: Tensor, k: Tensor, mean_k: Tensor, regions: FillRegions) -> Tensor:
    """Return log(mean of exp(score)) - (score of the mean key) of every region, (B, H, n, F).

    Args:
        q: Queries (B, H, n, D).
        k: Keys of all patch tokens (B, H, N, D).
        mean_k: Mean keys (B, H, F, D).
        regions: Regions of the patch tokens.
    """
    scale = q.shape[-1] ** -0.5
    at_mean = scale * q @ mean_k.transpose(-1, -2)
    above = torch.exp(scale * q @ k.transpose(-1, -2) - at_mean[..., regions.of_token])
    total = torch.zeros_like(at_mean).index_add_(3, regions.of_token, above)
    return torch.log(total / regions.sizes)
