"""Random inputs of the pair rules, for kernels that are compared with their torch definition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from covis.export.selection.pair_rules import PairRules


class PairCase(NamedTuple):
    """Similarity (M, M), anchor ranks (M,) and the numbers of R maps."""

    similarity: Tensor
    anchor_rank: Tensor
    rules: PairRules


def pair_case(seed: int, views: int, maps: int, *, values: int = 8) -> PairCase:
    """Draw a case; similarities take few values, so that many of a row are equal.

    Thresholds are among those values too, and one in four is 0 (every pair) or 2 (none). Numbers of
    anchors and neighbours reach from below 0 to beyond the views.
    """
    rng = np.random.default_rng(seed)
    similarity = rng.integers(-values // 2, values + 1, (views, views)) / values
    anchors = rng.permutation(views)[: rng.integers(0, views + 1)]
    rank = np.full(views, views, np.int32)
    rank[anchors] = np.arange(len(anchors))

    def thresholds() -> Tensor:
        chosen = rng.choice([0.0, 2.0, *rng.integers(0, values + 1, 6) / values], maps)
        return torch.from_numpy(chosen.astype(np.float32))

    def numbers() -> Tensor:
        return torch.from_numpy(rng.integers(-1, views + 2, maps))

    def flags() -> Tensor:
        return torch.from_numpy(rng.random(maps) < 0.5)

    rules = PairRules(
        tau=thresholds(),
        tau_low=thresholds(),
        anchors=numbers(),
        min_neighbours=numbers(),
        own_frame=flags(),
        reference=torch.tensor(int(rng.integers(-1, views))),
        to_reference=flags(),
        from_reference=flags(),
    )
    return PairCase(torch.from_numpy(similarity.astype(np.float32)), torch.from_numpy(rank), rules)
