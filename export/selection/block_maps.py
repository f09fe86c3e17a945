"""How a global attention layer learns which region pairs to compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from covis.export.ops import DENSE, TokenLayout, block_select, dense_level
from covis.export.selection.kept_mass import kept_mass

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


Selection = Callable[[int, Tensor, Tensor], BlockMap | tuple[BlockMap, ...]]
"""(index of the global layer, q, k after qk-norm and RoPE (B, H, S, D)) -> its block map, or one
for each of as many equal groups of heads, in their order."""


def dense_selection(layer: int, q: Tensor, k: Tensor) -> BlockMap:
    """Every layer dense: the models as published."""
    return BlockMap(dense_level())


def pooled_head_groups(heads: int, patch_tokens: int, limit: int) -> int:
    """The fewest groups of heads whose pooled maps have at most `limit` elements each.

    Args:
        heads: of a global layer.
        patch_tokens: of all views.
        limit: elements of one tensor; one head alone may pass it, for then nothing helps.
    """
    regions = math.ceil(patch_tokens / Q_BLOCK) * math.ceil(patch_tokens / K_BLOCK)
    fitting = (n for n in range(1, heads) if heads % n == 0 and heads // n * regions <= limit)
    return next(fitting, heads)


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
        mass: layer -> its share of mass by head, (H,); of several groups of heads in their order.
    """

    queries: Tensor
    layout: TokenLayout
    mass: dict[int, list[Tensor]] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor, blocks: BlockMap) -> BlockMap:
        """Measure one layer.

        Returns:
            The same map, but one that needs the measure: runtimes order nodes by need alone, and
            would else measure all layers after the last, holding q and k of each until then.
        """
        level = blocks.level
        mass = kept_mass(q, k, level, blocks.q_block, blocks.k_block, self.layout, self.queries)
        self.mass.setdefault(layer, []).append(mass)
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
        head_groups: for many views, see `pooled_head_groups`.
        kept: layer -> the share of blocks kept by head, (H,); of several groups in their order.
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
    head_groups: int = 1
    kept: dict[int, list[Tensor]] = field(default_factory=dict)

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> BlockMap | tuple[BlockMap, ...]:
        if self.head_groups == 1:
            return self._choose(layer, q, k)
        groups = zip(*(x.chunk(self.head_groups, dim=1) for x in (q, k)), strict=True)
        return tuple(self._choose(layer, *group) for group in groups)

    def _choose(self, layer: int, q: Tensor, k: Tensor) -> BlockMap:
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
        shares = (level > 0).to(torch.float32).mean(dim=(0, 2, 3))
        self.kept.setdefault(layer, []).append(shares)
        blocks = BlockMap(level, self.q_block, self.k_block)
        if self.probe is not None:
            blocks = self.probe(layer, q, k, blocks)
        return blocks
