"""Choose the region pairs that each global attention layer computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from covis.export.ops import TokenLayout, block_select, dense_level
from covis.export.selection.kept_mass import kept_mass

Q_BLOCK = 128  # patch tokens of a query region of the pooled selector (sparse-vggt, section 4)
K_BLOCK = 64  # patch tokens of a key region of the pooled selector (same source)


@dataclass(frozen=True)
class BlockMap:
    """A level map and the size of its regions, as BlockSparseAttention expects them.

    Attributes:
        level: int8 (b, h, Rq, Rk): 0 skipped, 1 low precision allowed, 2 full precision.
        q_block: Patch tokens of a query region.
        k_block: Patch tokens of a key region.
    """

    level: Tensor
    q_block: int = 1
    k_block: int = 1


Selection = Callable[[int, Tensor, Tensor], BlockMap | tuple[BlockMap, ...]]
"""(index of the global layer, q, k after qk-norm and RoPE (B, H, S, D)) -> its block map, or one
for each of as many equal groups of heads, in their order."""


def dense_selection(layer: int, q: Tensor, k: Tensor) -> BlockMap:
    """Every layer dense: the models as published."""
    return BlockMap(dense_level())


def pooled_head_groups(heads: int, patch_tokens: int, limit: int) -> int:
    """Return the smallest number of head groups whose pooled maps stay within `limit` elements.

    Args:
        heads: Attention heads of a global layer.
        patch_tokens: Patch tokens of all views together.
        limit: Largest number of elements of one tensor. The map of a single head may exceed it,
            because heads cannot be split further.
    """
    regions = math.ceil(patch_tokens / Q_BLOCK) * math.ceil(patch_tokens / K_BLOCK)
    fitting = (n for n in range(1, heads) if heads % n == 0 and heads // n * regions <= limit)
    return next(fitting, heads)


@dataclass
class MassProbe:
    """Measure, on request, the attention mass that falls on selected blocks.

    Attributes:
        queries: Indices of the sampled queries, int64 (n,), at least one.
        layout: Token layout of the model.
        mass: Share of mass by head (H,), by layer; several groups of heads in their order.
    """

    queries: Tensor
    layout: TokenLayout
    mass: dict[int, list[Tensor]] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor, blocks: BlockMap) -> BlockMap:
        """Measure one layer.

        Returns:
            The same map, with a dependency on the measure. Runtimes order nodes by dependencies
            alone. Without this one they would measure all layers after the last, and keep q and k
            of each layer in memory until then.
        """
        level = blocks.level
        mass = kept_mass(q, k, level, blocks.q_block, blocks.k_block, self.layout, self.queries)
        self.mass.setdefault(layer, []).append(mass)
        impossible = mass.amax(dim=0) > 2
        return replace(blocks, level=torch.where(impossible, torch.zeros_like(level), level))


@dataclass
class PairSelection:
    """Frame-pair maps computed before the aggregator: one for each regime of the schedule.

    Which map a layer takes stays an input of the graph. Every implementation of the op recognises a
    map of all 2 and runs dense.

    Attributes:
        pair_levels: Levels of view pairs in R maps, int8 (R, M, M).
        layer_map: Index of the map of each global layer, int64 (L,).
        patches: Patch tokens of a frame.
        probe: Measures the attention mass on selected blocks; None measures nothing.
    """

    pair_levels: Tensor
    layer_map: Tensor
    patches: int
    probe: MassProbe | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> BlockMap:
        level = map_of_layer(self.pair_levels, self.layer_map, layer)
        blocks = BlockMap(level, self.patches, self.patches)
        if self.probe is not None:
            blocks = self.probe(layer, q, k, blocks)
        return blocks


def map_of_layer(pair_levels: Tensor, layer_map: Tensor, layer: int) -> Tensor:
    """Return the map of a layer, int8 (1, 1, M, M), from maps (R, M, M)."""
    return pair_levels.index_select(0, layer_map[layer : layer + 1])[None]


@dataclass
class PooledSelection:
    """BlockSelect inside each layer, within the view pairs of the layer's map.

    Attributes:
        pair_levels: Levels of view pairs in R maps, int8 (R, M, M).
        layer_map: Index of the map of each global layer, int64 (L,).
        keep_ratio: Share of the candidate key blocks that each layer selects, float32 (L,); 1
            selects all of them.
        cdf: Cumulated softmax mass up to which each layer selects blocks, float32 (L,).
        layout: Token layout of the model.
        pool: "mean" or "max" over the tokens of a block.
        probe: Measures the attention mass on selected blocks; None measures nothing.
        head_groups: Number of head groups for many views, see `pooled_head_groups`.
        shares: Share of selected blocks by head (H,), by layer; several groups of heads in their
            order.
    """

    pair_levels: Tensor
    layer_map: Tensor
    keep_ratio: Tensor
    cdf: Tensor
    layout: TokenLayout
    pool: str = "mean"
    q_block: int = Q_BLOCK
    k_block: int = K_BLOCK
    probe: MassProbe | None = None
    head_groups: int = 1
    shares: dict[int, list[Tensor]] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> BlockMap | tuple[BlockMap, ...]:
        pair = map_of_layer(self.pair_levels, self.layer_map, layer)
        if self.head_groups == 1:
            return self._choose(layer, pair, q, k)
        groups = zip(*(x.chunk(self.head_groups, dim=1) for x in (q, k)), strict=True)
        return tuple(self._choose(layer, pair, *group) for group in groups)

    def _choose(self, layer: int, pair: Tensor, q: Tensor, k: Tensor) -> BlockMap:
        level = block_select(
            q,
            k,
            pair,
            self.keep_ratio[layer],
            self.cdf[layer],
            layout=self.layout,
            q_block=self.q_block,
            k_block=self.k_block,
            pool=self.pool,
        )
        shares = (level > 0).to(torch.float32).mean(dim=(0, 2, 3))
        self.shares.setdefault(layer, []).append(shares)
        blocks = BlockMap(level, self.q_block, self.k_block)
        if self.probe is not None:
            blocks = self.probe(layer, q, k, blocks)
        return blocks
