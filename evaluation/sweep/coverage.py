"""Anchors by the truth: the views that see the most of what all views see."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def most_covering(seen: NDArray[Any], count: int, first: int | None = None) -> NDArray[np.int64]:
    """Choose the anchors that cover the most of the true co-visibility, greedily.

    A set of anchors covers of each view the share that the best of the anchors sees, and the next
    anchor is the view that raises the sum of these shares over all views most (facility location).
    Greedy choice reaches at least 1 - 1/e of the best sum (Nemhauser, Wolsey and Fisher 1978). No
    selector can know this choice; it is the reference for the others at the same count.

    Args:
        seen: (M, M) share of view i's surface that view j sees, 1 on the diagonal.
        count: Number of anchors; limited to M.
        first: View to take first, such as the reference view; None takes the best one.

    Returns:
        Different view indices, in the order chosen; of equal views the first.
    """
    views = len(seen)
    covered = np.zeros(views)
    chosen: list[int] = []
    for _ in range(min(count, views)):
        gain = np.maximum(seen, covered[:, None]).sum(axis=0)
        gain[chosen] = -np.inf
        best = int(gain.argmax()) if chosen or first is None else first
        chosen.append(best)
        covered = np.maximum(covered, seen[:, best])
    return np.array(chosen, np.int64)
