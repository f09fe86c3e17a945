"""How a global attention layer learns which region pairs to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from covis.export.attention_mass import kept_mass
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
class MassProbe:
    """Measures, on request, the attention mass that falls on kept blocks.

    Attributes:
        queries: int64 (n,), sampled token indices, at least one.
        layout: the model's token layout.
        mass: after each layer, its share of mass by head, (H,).
    """

    queries: Tensor
    layout: TokenLayout
    mass: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor, blocks: BlockMap) -> BlockMap:
        """Measure one layer.

        Returns:
            The same map, but one that needs the measure: runtimes order nodes by need alone, and
            would else measure all layers after the last, holding q and k of each until then.
        """
        level = blocks.level
        mass = kept_mass(q, k, level, blocks.q_block, blocks.k_block, self.layout, self.queries)
        self.mass[layer] = mass
        impossible = mass.amax(dim=0) > 2
        return replace(blocks, level=torch.where(impossible, torch.zeros_like(level), level))


@dataclass
class PairSelection:
    """Frame-pair maps made before the aggregator (selectors `dense` and `saliency`).

    Attributes:
        pair_level: int8 (1, 1, M, M), or (1, 1, 1, 1).
        sparse_layers: bool (L,): the global layers that take the map; the others are dense.
        patches: patch tokens a frame.
        probe: measures the attention mass kept, if given.
    """

    pair_level: Tensor
    sparse_layers: Tensor
    patches: int
    probe: MassProbe | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> BlockMap:
        level = _dense_outside(self.pair_level, self.sparse_layers, layer)
        blocks = BlockMap(level, self.patches, self.patches)
        if self.probe is not None:
            blocks = self.probe(layer, q, k, blocks)
        return blocks


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
        probe: measures the attention mass kept, if given.
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
    probe: MassProbe | None = None
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
        blocks = BlockMap(level, self.q_block, self.k_block)
        if self.probe is not None:
            blocks = self.probe(layer, q, k, blocks)
        return blocks
