"""The settings that the mean fill experiment compares, at equal pairs and at equal cost.

A case is a selector at a budget, in one of five variants:

- `skip`: the selected pairs alone.
- `fill frame`: the same pairs, and a row for each skipped frame.
- `fill 64`: the same pairs, and a row for each skipped piece of 64 patch tokens.
- `equal cost`: no rows, but as many more pairs, of the selector's own order, as `fill 64` costs.
- `exact mass`: as `fill 64`, each row with the true weight of its keys; it costs more than dense
  attention, and shows what a better bias could gain at most (anchors and pooled, first budget).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mean_fill_attention import mean_filled_attention
from numpy.typing import NDArray
from torch import Tensor

from covis.export.ops import TokenLayout, block_select, block_sparse_attention
from covis.export.selection.block_maps import BlockMap

PIECE = 64  # patch tokens of a row of `fill 64`, and of a key region of the pooled selector
_POOLED_Q = 128  # patch tokens of a query region of the pooled selector
VARIANTS = ("skip", "fill frame", "fill 64", "equal cost", "exact mass")

Pairs = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """One setting of the global attention.

    Attributes:
        selector: `saliency`, `anchors`, `random` or `pooled`.
        budget: Anchors, or the keep ratio of `pooled`; selectors at equal budget have equal pairs.
        variant: One of `VARIANTS`.
        pairs: View pairs that are computed, bool (M, M); None for `pooled`.
        keep_ratio: Share of the key blocks that are computed, of `pooled`.
        fill_block: Patch tokens that one row stands for; None fills nothing.
    """

    selector: str
    budget: float
    variant: str
    pairs: Pairs | None = None
    keep_ratio: float = 1.0
    fill_block: int | None = None

    @property
    def name(self) -> str:
        return f"{self.selector} {self.budget:g}, {self.variant}"

    def block_map(self, q: Tensor, k: Tensor, layout: TokenLayout) -> BlockMap:
        """Return the level map for queries and keys (B, H, S, D)."""
        if self.pairs is not None:
            level = torch.from_numpy(self.pairs).to(torch.int8)[None, None] * 2
            return BlockMap(level, layout.patches_per_frame, layout.patches_per_frame)
        everything = torch.full((1, 1, 1, 1), 2, dtype=torch.int8)
        size = {"q_block": _POOLED_Q, "k_block": PIECE}
        level = block_select(q, k, everything, self.keep_ratio, 0.0, layout=layout, **size)
        return BlockMap(level, **size)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout) -> Tensor:
        """Return attention (B, H, S, D) in this setting."""
        blocks = self.block_map(q, k, layout)
        size = {"q_block": blocks.q_block, "k_block": blocks.k_block}
        if self.fill_block is None:
            return block_sparse_attention(q, k, v, blocks.level, layout=layout, **size)
        exact = self.variant == "exact mass"
        return mean_filled_attention(
            q, k, v, blocks.level,
            layout=layout, fill_block=self.fill_block, exact_mass=exact, **size,
        )  # fmt: skip

    def cost(self, patches: int) -> float:
        """Return keys and rows of a patch query, as a share of the patch tokens of all frames.

        Args:
            patches: Patch tokens P of a frame.
        """
        share = self.keep_ratio if self.pairs is None else float(self.pairs.mean())
        if self.fill_block is None:
            return share
        frame = PIECE if self.pairs is None else patches
        return share + (1 - share) * math.ceil(frame / self.fill_block) / frame


def cases(
    similarity: NDArray[Any], patches: int, anchors: Sequence[int], ratios: Sequence[float]
) -> Iterator[Case]:
    """Yield every case of one scene.

    Args:
        similarity: Similarities of the views (M, M).
        patches: Patch tokens P of a frame.
        anchors: Numbers of anchors; the other pair selectors get the pairs that these have.
        ratios: Keep ratios of the pooled selector.
    """
    scores = {
        "anchors": similarity,
        "saliency": similarity,
        "random": np.random.default_rng(len(similarity)).random(similarity.shape),
    }
    for count in anchors:
        by_anchors = _always(len(similarity))
        by_anchors[:, k_center(similarity, count)] = True
        for selector, score in scores.items():
            kept = by_anchors
            if selector != "anchors":
                start = _always(len(similarity))
                kept = extended(start, score, int(by_anchors.sum() - start.sum()))
            yield Case(selector, count, "skip", kept)
            if patches > PIECE:  # otherwise both fills are the same
                yield Case(selector, count, "fill frame", kept, fill_block=patches)
            filled = Case(selector, count, "fill 64", kept, fill_block=PIECE)
            yield filled
            more = math.ceil((filled.cost(patches) - float(kept.mean())) * kept.size)
            yield Case(selector, count, "equal cost", extended(kept, score, more))
            if selector == "anchors" and count == anchors[0]:
                yield replace(filled, variant="exact mass")
    blocks = math.ceil(len(similarity) * patches / PIECE)
    for ratio in ratios:
        kept_blocks = math.floor(ratio * blocks)  # as BlockSelect rounds
        skip = Case("pooled", ratio, "skip", keep_ratio=kept_blocks / blocks)
        filled = replace(skip, variant="fill 64", fill_block=PIECE)
        more_blocks = math.ceil(filled.cost(patches) * blocks)
        yield from (skip, filled)
        yield Case("pooled", ratio, "equal cost", keep_ratio=more_blocks / blocks)
        if ratio == ratios[0]:
            yield replace(filled, variant="exact mass")


def k_center(similarity: NDArray[Any], count: int) -> list[int]:
    """Return views by farthest-first traversal from view 0 (Gonzalez 1985).

    The distance of two views is 1 minus their mean similarity; ties go to the lowest index.
    """
    distance = 1 - (similarity + similarity.T) / 2
    chosen = [0]
    while len(chosen) < min(count, len(similarity)):
        least = distance[:, chosen].min(axis=1)
        least[chosen] = -np.inf
        chosen.append(int(least.argmax()))
    return chosen


def extended(pairs: Pairs, score: NDArray[Any], count: int) -> Pairs:
    """Return `pairs` and the `count` other ordered pairs of highest score."""
    candidates = np.where(pairs, -np.inf, score).ravel()
    more = np.argsort(-candidates, kind="stable")[: min(count, int((~pairs).sum()))]
    found: Pairs = pairs.copy()
    found.ravel()[more] = True
    return found


def _always(views: int) -> Pairs:
    """Return what every map has: self pairs, and the pairs of the reference view 0."""
    kept: Pairs = np.eye(views, dtype=np.bool_)
    kept[0] = kept[:, 0] = True
    return kept
