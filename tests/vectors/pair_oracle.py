"""Maps of view pairs straight from their definition, pair by pair, with numpy alone.

Written from the definition of the rule and from no code of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.vectors.case import Array


def pair_levels(similarity: Array, anchor_rank: Array, rules: Mapping[str, Any]) -> Array:
    """Return int8 (R, M, M) by the numbers of R maps, under the names of the graphs' inputs."""
    views, maps = len(similarity), len(rules["tau"])
    level = np.zeros((maps, views, views), np.int8)
    for r in range(maps):
        one = {name: value if np.ndim(value) == 0 else value[r] for name, value in rules.items()}
        for i in range(views):
            near = nearest(similarity, i, int(one["min_neighbours"]))
            for j in range(views):
                found = max(similarity[i, j], np.float32(0))
                full = (
                    found >= one["tau"]
                    or anchor_rank[j] < one["anchors"]
                    or j in near
                    or (i == j and one["own_frame"])
                    or (j == one["reference"] and one["to_reference"])
                    or (i == one["reference"] and one["from_reference"])
                )
                level[r, i, j] = 2 if full else int(found >= one["tau_low"])
    return level


def nearest(similarity: Array, i: int, number: int) -> list[int]:
    """Return the `number` most similar other views of view i; of equal ones the lower index."""
    others = [j for j in range(len(similarity)) if j != i]
    return sorted(others, key=lambda j: -float(similarity[i, j]))[: max(number, 0)]
