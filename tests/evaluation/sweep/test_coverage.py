"""Anchors by the true co-visibility, against an exhaustive search."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from covis.evaluation.sweep.coverage import most_covering


def seen_by(seed: int, views: int) -> NDArray[Any]:
    """Return shares that each view sees of each other, for views on a line of random places."""
    generator = np.random.default_rng(seed)
    place = generator.random(views)
    shares = np.maximum(0.0, 1 - 3 * abs(place[:, None] - place[None, :]))
    return np.asarray(shares * generator.uniform(0.8, 1.0, (views, views)) + 0.2 * np.eye(views))


def covered(seen: NDArray[Any], anchors: tuple[int, ...]) -> float:
    return sum(max(row[a] for a in anchors) for row in seen)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_within_the_bound_of_the_best_set(seed: int, count: int) -> None:
    seen = seen_by(seed, 9)
    chosen = tuple(most_covering(seen, count).tolist())
    best = max(covered(seen, each) for each in itertools.combinations(range(9), count))
    assert len(set(chosen)) == count
    assert covered(seen, chosen) >= (1 - 1 / math.e) * best
    if count == 1:
        assert covered(seen, chosen) == best
    # Each step takes the best view beside those before it, so prefixes are choices of their own.
    for step in range(1, count):
        gains = [covered(seen, (*chosen[:step], view)) for view in range(9)]
        assert gains[chosen[step]] == max(gains)
    np.testing.assert_array_equal(most_covering(seen, 9)[:count], chosen)


def test_two_rooms_get_an_anchor_each() -> None:
    """Of views 0 to 3 in one room and 4 to 6 in another, the second anchor is in the other room."""
    seen = np.zeros((7, 7))
    seen[:4, :4], seen[4:, 4:] = 0.5, 0.5  # sums of these are exact
    np.fill_diagonal(seen, 1.0)
    assert most_covering(seen, 2).tolist() == [0, 4]
    assert most_covering(seen, 2, first=5).tolist() == [5, 0]


def test_all_views_at_most_and_none_for_zero() -> None:
    assert sorted(most_covering(np.eye(3), 10)) == [0, 1, 2]
    assert most_covering(np.eye(3), 0).tolist() == []
    assert most_covering(np.eye(1), 1, first=0).tolist() == [0]
