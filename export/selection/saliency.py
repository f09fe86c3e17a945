"""The saliency stage: patch tokens -> similarity of views -> anchors -> maps of view pairs.

It is a graph of its own, so that it can be inspected, cached and replaced. Pairs are ordered and
include the self pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from covis.export.ops import farthest_first
from covis.export.selection.pair_rules import PairRules, pair_levels
from covis.export.selection.similarity import (
    Pooling,
    best_match_similarity,
    cell_pooling,
    descriptor_similarity,
)
from covis.export.stage import MAPS, VIEWS, Port, StageModule


class Saliency(nn.Module):
    """Patch tokens (M, P, C) -> similarity (M, M), rank of anchors (M,), and maps (R, M, M)."""

    def __init__(self, rows: int, columns: int, pooling: Pooling = "descriptor") -> None:
        super().__init__()
        self.pooling = pooling
        pool = torch.empty(0)
        if pooling == "best-match":
            with torch.device("cpu"):  # a constant of the graph even if the model is on `meta`
                pool = cell_pooling(rows, columns)
        self.register_buffer("pool", pool, persistent=False)
        self.pool: Tensor

    def forward(
        self, tokens: Tensor, anchor_order: Tensor, *rules: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return similarity, rank of anchors and levels; see `pair_levels` for the rules.

        Levels are int32 at this port, because TensorRT treats int8 between engines as a quantised
        number.
        """
        tokens = tokens.to(torch.float32)
        if self.pooling == "best-match":
            similarity = best_match_similarity(tokens, self.pool)
        else:
            similarity = descriptor_similarity(tokens)
        numbers = PairRules(*rules)
        rank = farthest_first(similarity, anchor_order, numbers.anchors.amax(dim=0))
        levels = pair_levels(similarity, rank, numbers)
        return similarity, rank, levels.to(torch.int32)


def saliency_stage(rows: int, columns: int, channels: int, pooling: Pooling) -> StageModule:
    """Return the stage `saliency`, which is the same for every model."""
    return StageModule(
        name="saliency",
        scope="sequence",
        module=Saliency(rows, columns, pooling),
        inputs=(
            Port("patch_tokens", (VIEWS, rows * columns, channels)),
            Port("anchor_order", (VIEWS,), torch.int64),
            Port("tau", (MAPS,)),
            Port("tau_low", (MAPS,)),
            Port("anchors", (MAPS,), torch.int64),
            Port("min_neighbours", (MAPS,), torch.int64),
            Port("own_frame", (MAPS,), torch.bool),
            Port("reference", (), torch.int64),
            Port("to_reference", (MAPS,), torch.bool),
            Port("from_reference", (MAPS,), torch.bool),
        ),
        outputs=(
            Port("similarity", (VIEWS, VIEWS)),
            Port("anchor_rank", (VIEWS,), torch.int32),
            Port("pair_levels", (MAPS, VIEWS, VIEWS), torch.int32),
        ),
    )
