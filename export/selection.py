"""How a global attention layer learns which region pairs to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from covis.export.ops import DENSE, TokenLayout, block_select, dense_level

Q_BLOCK, K_BLOCK = (
    128,
    64,
)  # the pooled selector's regions, in patch tokens (sparse-vggt, section 4)


@dataclass(frozen=True)
class BlockMap:
    """A level map and the size of its regions, as BlockSparseAttention takes them.

    Attributes:
        level: int8 (b, h, Rq, Rk) of 0 skipped, 1 low precision allowed, 2 full precision.
        q_block: patch tokens a query region.
        k_block: patch tokens a key region.
    """

    level: Tensor
    q_block: int = 1
    k_block: int = 1


Selection = Callable[[int, Tensor, Tensor], BlockMap]
"""(index of the global layer, q, k after qk-norm and RoPE (B, H, S, D)) -> its block map."""


def dense_selection(layer: int, q: Tensor, k: Tensor) -> BlockMap:
    """Every layer dense: the models as published."""
    return BlockMap(dense_level(q.device))


def _dense_outside(level: Tensor, sparse_layers: Tensor, layer: int) -> Tensor:
    """`level` in a sparse layer, all 2 of the same shape in the others.

    A select and not a branch, so that which layers are sparse stays an input of the graph; every
    implementation of the op recognises a map of all 2 and runs dense.
    """
    return torch.where(sparse_layers[layer], level, torch.full_like(level, DENSE))


@dataclass
class PairSelection:
    """Frame-pair maps made before the aggregator (selectors `dense` and `saliency`).

    Attributes:
        pair_level: int8 (1, 1, M, M), or (1, 1, 1, 1).
        sparse_layers: bool (L,): the global layers that take the map; the others are dense.
        patches: patch tokens a frame.
    """

    pair_level: Tensor
    sparse_layers: Tensor
    patches: int

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> BlockMap:
        level = _dense_outside(self.pair_level, self.sparse_layers, layer)
        return BlockMap(level, self.patches, self.patches)


@dataclass
class PooledSelection:
    """BlockSelect inside each layer, within the pairs of `pair_level` (`pooled` and `both`).

    Attributes:
        pair_level: int8 (1, 1, M, M), or (1, 1, 1, 1) of 2 for the selector `pooled`.
        sparse_layers: bool (L,), as above.
        keep_ratio: float32 (): share of the candidate key blocks kept.
        cdf: float32 (): cumulated softmax mass kept.
        layout: the model's token layout.
        pool: "mean" or "max".
        kept: after each call, the share of blocks kept by layer and head, (H,) each.
    """

    pair_level: Tensor
    sparse_layers: Tensor
    keep_ratio: Tensor
    cdf: Tensor
    layout: TokenLayout
    pool: str = "mean"
    q_block: int = Q_BLOCK
    k_block: int = K_BLOCK
    kept: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> BlockMap:
        level = block_select(
            q,
            k,
            self.pair_level,
            self.keep_ratio,
            self.cdf,
            layout=self.layout,
            q_block=self.q_block,
            k_block=self.k_block,
            pool=self.pool,
        )
        level = _dense_outside(level, self.sparse_layers, layer)
        self.kept[layer] = (level > 0).to(torch.float32).mean(dim=(0, 2, 3))
        return BlockMap(level, self.q_block, self.k_block)
