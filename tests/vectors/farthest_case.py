"""Test vectors of FarthestFirst: similarities of views of many kinds, generated from a seed.

This module and `farthest_oracle.py` need only numpy, as `case.py` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.vectors.case import Array

_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class FarthestCase:
    """Inputs of FarthestFirst: float32 (M, M), int64 (M,), and the number of steps."""

    name: str
    similarity: Array
    given: Array
    count: int

    @property
    def views(self) -> int:
        return len(self.given)

    @property
    def steps(self) -> int:
        """Number of views that are taken."""
        return min(max(self.count, 0), self.views)


KINDS = ("descriptors", "clusters", "identical", "constant", "different", "disconnected",
         "asymmetric", "diagonal", "negative", "quantised", "close", "tiny", "large", "nan", "inf",
         "huge")  # fmt: skip


def similarities(rng: np.random.Generator, views: int, kind: str) -> Array:
    """Return the float32 (M, M) similarity of one kind of KINDS."""
    shape = (views, views)
    if kind == "descriptors":
        return _cosines(rng.random((views, 24)))
    if kind == "clusters":  # a few dense groups, and every seventh view like no other
        centres = rng.standard_normal((4, 24))
        vectors = centres[rng.integers(0, 4, views)] + 0.2 * rng.standard_normal((views, 24))
        vectors[::7] = rng.standard_normal((len(vectors[::7]), 24))
        return _cosines(vectors)
    if kind == "identical":
        return np.ones(shape, np.float32)
    if kind == "constant":  # equal, but their sums round
        return np.full(shape, 0.7, np.float32)
    if kind == "different":
        return np.eye(views, dtype=np.float32)
    if kind == "disconnected":  # sets that share nothing
        sets = rng.integers(0, 3, views)
        return _cosines(rng.random((views, 8))) * (sets[:, None] == sets)
    if kind == "quantised":  # ties everywhere, and every sum is exact
        return (rng.integers(0, 9, shape) / 8).astype(np.float32)
    if kind == "close":  # near ties everywhere
        return (0.5 + 1e-7 * rng.standard_normal(shape)).astype(np.float32)
    numbers = rng.random(shape, dtype=np.float32)
    if kind == "negative":
        return 2 * numbers - 1
    if kind == "diagonal":  # a view's similarity to itself decides the first step
        return numbers + np.diag(rng.random(views, dtype=np.float32) * np.float32(views))
    if kind == "tiny":
        return numbers * np.float32(1e-30)
    if kind == "large":
        return numbers * np.float32(1e6)
    if kind == "nan":
        numbers[rng.integers(0, views), rng.integers(0, views)] = np.nan
        numbers[rng.integers(0, views)] = np.nan
    elif kind == "inf":
        numbers[rng.random(shape) < 0.2] = np.inf
        numbers[rng.random(shape) < 0.1] = -np.inf
    elif kind == "huge":
        numbers = ((rng.random(shape) - 0.5) * 6.6e38).astype(np.float32)
    elif kind != "asymmetric":
        raise ValueError(f"unknown kind {kind}")
    return numbers


def _cosines(vectors: Array) -> Array:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T).astype(np.float32)


def farthest_case(
    name: str,
    *,
    seed: int = 0,
    views: int = 30,
    kind: str = "descriptors",
    count: int | None = None,
    given: Sequence[int] = (),
) -> FarthestCase:
    """Return a case; `given` may be shorter than `views`, and count None takes all views."""
    rng = np.random.default_rng([seed, views, 11])
    wanted = np.full(views, -1, np.int64)
    wanted[: len(given)] = given[:views]
    steps = views if count is None else count
    return FarthestCase(name, similarities(rng, views, kind), wanted, steps)


def standard_farthest_cases() -> Iterator[FarthestCase]:
    """Return the fixed list: every rule of the contract at least once."""
    yield farthest_case("one-view", views=1)
    yield farthest_case("one-view-none", views=1, count=0)
    yield farthest_case("one-view-given", views=1, given=[0], count=5)
    yield farthest_case("two-views", views=2, kind="asymmetric")
    for views in (3, 31, 32, 33, 64, 255, 257):
        yield farthest_case(f"all-of-{views}", seed=1, views=views)
    for kind in KINDS:
        yield farthest_case(f"kind-{kind}", seed=2, views=29, kind=kind)
        yield farthest_case(f"reference-{kind}", seed=3, views=45, kind=kind, given=[7], count=9)
    for count in (0, 1, 2, 29, 30, 31, 1000, -1, _INT64.min, _INT64.max):
        yield farthest_case(f"count-{count}", seed=4, kind="clusters", count=count)
    order = np.random.default_rng(5).permutation(30).tolist()
    yield farthest_case("given-all", seed=5, given=order)
    yield farthest_case("given-all-nan", seed=5, kind="nan", given=order)
    yield farthest_case("given-some", seed=6, given=[-1, 4, -1, -1, 29, 0, -1, 17], count=12)
    yield farthest_case(
        "given-outside", seed=7, given=[30, -2, 31, 10**9, _INT64.min, _INT64.max, 3], count=12
    )
    yield farthest_case("given-twice", seed=8, given=[5, 5, -1, 5, 2, 2, -1, 5], count=12)
    yield farthest_case("given-chosen", seed=9, given=[-1, *range(29, 0, -1)])
    yield farthest_case("quantised-more", seed=10, views=80, kind="quantised")
    yield farthest_case("asymmetric-more", seed=11, views=90, kind="asymmetric", count=40)
    yield farthest_case("anchors", seed=12, views=300, kind="clusters", count=40)
    yield farthest_case("many-views", seed=13, views=1083, kind="clusters", given=[3], count=25)
