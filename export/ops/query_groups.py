"""Group the queries of a level map by the keys that they attend to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from covis.export.ops.layout import region_count


@dataclass(frozen=True)
class QueryGroup:
    """Patch queries that attend to the same keys.

    Attributes:
        batch, head: Part of the batch and of the heads that the group applies to.
        queries: Token indices of the queries, int64 (n,).
        keys: Token indices of the keys, int64 (m,): selected patch tokens, then every always dense
            token.
        key_level: Level of each key, int8 (m,): 1 or 2; always dense tokens have 2.
    """

    batch: slice
    head: slice
    queries: Tensor
    keys: Tensor
    key_level: Tensor


def plan_rows(
    level: Tensor, patch: Tensor, dense: Tensor, q_block: int, k_block: int
) -> Iterator[QueryGroup]:
    """Yield the patch queries of a map, grouped by equal rows of the map.

    Args:
        level: int8 map (b, h, Rq, Rk) of the op's contract.
        patch, dense: Token indices of the patch tokens and of the always dense tokens, int64.
        q_block, k_block: Patch tokens of one query region and of one key region.
    """
    count = patch.numel()
    if count == 0:
        return
    regions_k = region_count(count, k_block)
    # Index of the region of each patch token; all 0 where the map's dimension broadcasts.
    query_region = torch.arange(count, device=patch.device) // q_block
    key_region = torch.arange(count, device=patch.device) // k_block
    if level.shape[2] == 1:
        query_region = torch.zeros_like(query_region)
    level = level.to(patch.device).expand(-1, -1, -1, regions_k)
    full = torch.full((dense.numel(),), 2, dtype=level.dtype, device=patch.device)
    for b in range(level.shape[0]):
        batch = slice(None) if level.shape[0] == 1 else slice(b, b + 1)
        for h in range(level.shape[1]):
            head = slice(None) if level.shape[1] == 1 else slice(h, h + 1)
            rows, which = torch.unique(level[b, h], dim=0, return_inverse=True)
            of_query = which[query_region]
            for r in range(rows.shape[0]):
                of_key = rows[r][key_region]
                selected = of_key > 0
                yield QueryGroup(
                    batch,
                    head,
                    patch[of_query == r],
                    torch.cat([patch[selected], dense]),
                    torch.cat([of_key[selected], full]),
                )
