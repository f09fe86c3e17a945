"""FarthestFirst in float64, straight from the contract, and the choices that its near ties allow.

Written from plugins/farthest_first/README.md and from no code of the package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.vectors.case import Array
from tests.vectors.farthest_case import FarthestCase

_EXACT = 2.0**12  # sums of multiples of its inverse do not round in float32
_SLACK = 1e-6  # means and distances with a smaller difference are a near tie
_LARGEST = 1e30  # sums of larger values may overflow


@dataclass(frozen=True)
class Step:
    """One step of a traversal.

    Attributes:
        best: The view that the contract takes, computed in float64.
        allowed: Views that an implementation may take, bool (M,).
    """

    best: int
    allowed: Array


def farthest(case: FarthestCase) -> Array:
    """Compute FarthestFirst of finite similarities: int32 (M,)."""
    rank = np.full(case.views, case.views, np.int32)
    taken: list[int] = []
    for step in traverse(case, taken):
        rank[step.best] = len(taken)
        taken.append(step.best)
    return rank


def traverse(case: FarthestCase, taken: list[int]) -> Iterator[Step]:
    """Yield each step; after each, the caller appends the view that was taken to `taken`."""
    wide = case.similarity.astype(np.float64)
    usable = bool((np.abs(wide) <= _LARGEST).all())
    average = (wide + wide.T) / 2 if usable else np.zeros_like(wide)
    slack = _SLACK * max(1.0, float(np.abs(average).max()))
    exact = bool((np.abs(wide) <= 1).all() and (wide * _EXACT % 1 == 0).all())
    for step in range(case.steps):
        free = np.ones(case.views, bool)
        free[taken] = False
        wanted = int(case.given[step])
        if 0 <= wanted < case.views and free[wanted]:
            yield Step(wanted, np.arange(case.views) == wanted)
        elif not usable:
            yield Step(int(free.argmax()), free)
        elif step == 0:
            yield _choose(average.mean(1), free, slack, ordered=exact)
        else:
            yield _choose(-average[:, taken].max(1), free, slack, ordered=True)


def _choose(score: Array, free: Array, slack: float, *, ordered: bool) -> Step:
    """Return the first view of the highest score, and those that are nearly as high.

    Args:
        score: Scores of the views (M,), the higher the better.
        free: Views not taken, bool (M,).
        slack: Scores with a smaller difference may change places.
        ordered: Of equal scores only the first may be taken.
    """
    candidates = np.flatnonzero(free)
    scores = score[candidates]
    near = scores > scores.max() - slack
    if ordered:
        first = np.zeros_like(near)
        first[np.unique(scores, return_index=True)[1]] = True
        near &= first
    allowed = np.zeros(len(score), bool)
    allowed[candidates[near]] = True
    return Step(int(candidates[scores.argmax()]), allowed)
