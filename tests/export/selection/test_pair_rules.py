"""Maps of view pairs against their definition, and what the regime of anchors guarantees."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from covis.engines import pair_rules as engine
from covis.engines.options import AnchorChoice, Sparsity
from covis.export.ops import farthest_first
from covis.export.selection.pair_rules import PairRules, pair_levels
from tests.vectors import pair_oracle
from tests.vectors.case import Array
from tests.vectors.farthest_case import similarities

KINDS = ("descriptors", "clusters", "identical", "different", "disconnected", "asymmetric",
         "negative", "quantised", "close")  # fmt: skip
"""Sets of photos; those of few different values have ties in every row."""


def similarity_of(kind: str, views: int, seed: int = 0) -> Array:
    found = similarities(np.random.default_rng([seed, views]), views, kind)
    if kind == "different":
        return found
    np.fill_diagonal(found, 1)
    return found


def tensors(rules: dict[str, Any]) -> PairRules:
    return PairRules(**{name: torch.as_tensor(rules[name]) for name in PairRules._fields})


def one_map(**changes: Any) -> dict[str, Any]:
    """Return the numbers of a single map that keeps nothing but what `changes` name."""
    nothing = {"tau": 2.0, "tau_low": 2.0, "anchors": 0, "min_neighbours": 0, "own_frame": False,
               "to_reference": False, "from_reference": False, "reference": -1}  # fmt: skip
    types = {"tau": np.float32, "tau_low": np.float32}
    arrays = {n: np.array([v], types.get(n)) for n, v in {**nothing, **changes}.items()}
    return {**arrays, "reference": arrays["reference"][0]}


def levels(similarity: Array, rules: dict[str, Any], rank: Array | None = None) -> Array:
    views = len(similarity)
    rank = np.full(views, views, np.int32) if rank is None else rank
    found = pair_levels(torch.from_numpy(similarity), torch.from_numpy(rank), tensors(rules))
    assert found.dtype == torch.int8 and found.shape == (len(rules["tau"]), views, views)
    return found.numpy()


@st.composite
def rule_numbers(draw: st.DrawFn, views: int) -> dict[str, Any]:
    """Numbers of one to four maps; thresholds also between the values of similarities, 0 and 2."""
    maps = draw(st.integers(1, 4))

    def each(numbers: st.SearchStrategy[Any], dtype: str) -> Array:
        return np.array(draw(st.lists(numbers, min_size=maps, max_size=maps)), dtype)

    threshold = st.sampled_from([0.0, 2.0, 0.5, 0.625, 1.0]) | st.floats(0, 1, width=32)
    number = st.integers(-1, views + 2)
    return {
        "tau": each(threshold, "float32"),
        "tau_low": each(threshold, "float32"),
        "anchors": each(number, "int64"),
        "min_neighbours": each(number, "int64"),
        "own_frame": each(st.booleans(), "bool"),
        "to_reference": each(st.booleans(), "bool"),
        "from_reference": each(st.booleans(), "bool"),
        "reference": np.int64(draw(st.integers(-1, views - 1))),
    }


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 9), st.sampled_from(KINDS), st.integers(0, 99))
def test_levels_follow_their_definition(
    data: st.DataObject, views: int, kind: str, seed: int
) -> None:
    similarity = similarity_of(kind, views, seed)
    taken = data.draw(st.permutations(range(views)))[: data.draw(st.integers(0, views))]
    rank = np.full(views, views, np.int32)
    rank[taken] = np.arange(len(taken))
    rules = data.draw(rule_numbers(views))
    expected = pair_oracle.pair_levels(similarity, rank, rules)
    np.testing.assert_array_equal(levels(similarity, rules, rank), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 1, 3, 19, 20, 50])
def test_each_view_keeps_exactly_so_many_neighbours(kind: str, number: int) -> None:
    similarity = similarity_of(kind, 20)
    kept = levels(similarity, one_map(min_neighbours=number))[0] == 2
    assert not kept.diagonal().any()
    assert (kept.sum(axis=1) == min(number, 19)).all()
    if kind == "identical":  # of equal views, those of the lowest index
        for i, row in enumerate(kept):
            others = [j for j in range(20) if j != i]
            assert np.flatnonzero(row).tolist() == others[:number]


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_tau(kind: str) -> None:
    similarity = similarity_of(kind, 12)
    assert (levels(similarity, one_map(tau=0.0)) == 2).all()
    assert (levels(similarity, one_map(tau_low=0.0)) == 1).all()
    assert (levels(similarity, one_map()) == 0).all()
    own = levels(similarity, one_map(own_frame=True))[0]
    np.testing.assert_array_equal(own, 2 * np.eye(12))


def test_pairs_of_the_reference() -> None:
    similarity = similarity_of("different", 5)
    to, both = (
        levels(similarity, one_map(reference=3, to_reference=True, from_reference=from_it))[0]
        for from_it in (False, True)
    )
    assert (to[:, 3] == 2).all() and to.sum() == 2 * 5
    assert (both[:, 3] == 2).all() and (both[3] == 2).all() and both.sum() == 2 * 9
    assert (levels(similarity, one_map(to_reference=True, from_reference=True)) == 0).all()


# --- What the regime of anchors guarantees -------------------------------------------------------

GUARANTEED: tuple[AnchorChoice, ...] = ("kcenter", "uniform", "random")


def anchored(
    similarity: Array, sparsity: Sparsity, *, has_reference: bool, depth: int = 24
) -> tuple[Array, Array, engine.PairRules]:
    """Return the maps (R, M, M), the rank of the anchors (M,) and the rules of a run."""
    views = len(similarity)
    rules = engine.pair_rules(sparsity, depth, views, has_reference)
    rank = farthest_first(
        torch.from_numpy(similarity),
        torch.from_numpy(rules.anchor_order),
        torch.tensor(rules.anchors.max()),
    ).numpy()
    return levels(similarity, rules.inputs(), rank), rank, rules


def components(kept: Array) -> int:
    """Return the number of connected parts of the graph of kept pairs."""
    return int(connected_components(csr_array(kept), directed=False)[0])


@pytest.mark.parametrize("views", [1, 2, 3, 10, 100, 1083])
@pytest.mark.parametrize("kind", ["identical", "different", "disconnected"])
def test_the_kept_pairs_are_connected(views: int, kind: str) -> None:
    """With every choice of common anchors, one or many, with the own frame and without."""
    similarity = similarity_of(kind, views)
    # The own frame only adds pairs, and the largest set takes long.
    frames = (False, True) if views < 1000 else (False,)
    for choice, has_reference, own_frame in product(GUARANTEED, (False, True), frames):
        chosen = Sparsity("anchors", schedule="0:anchors=1, 1:anchors=25", anchor_choice=choice,
                          own_frame=own_frame, min_neighbours=0)  # fmt: skip
        found, rank, rules = anchored(similarity, chosen, has_reference=has_reference, depth=2)
        for layer, anchors in enumerate((1, min(25, views))):
            kept = found[rules.layer_map[layer]] > 0
            case = f"{choice}, {anchors=}, {has_reference=}, {own_frame=}"
            assert (rank < anchors).sum() == anchors, case
            assert components(kept) == 1, case
            assert kept[:, rank < anchors].all(), case
            assert kept.diagonal().all() or not own_frame, case
            if has_reference:
                assert rank[0] == 0, case


@pytest.mark.parametrize("views", [2, 10, 100])
def test_similar_views_alone_guarantee_nothing(views: int) -> None:
    """Only a reference view, to which all attend, connects parts that share nothing."""
    parts = np.arange(views) % 2
    similarity = (parts[:, None] == parts).astype(np.float32)
    chosen = Sparsity("anchors", anchors=2, anchor_choice="similar", layers="all", min_neighbours=0)
    apart, rank, _ = anchored(similarity, chosen, has_reference=False)
    assert (rank == views).all()
    assert components(apart[0] > 0) == (1 if views == 2 else 2)
    together, _, _ = anchored(similarity, chosen, has_reference=True)
    assert components(together[0] > 0) == 1


@pytest.mark.parametrize("own_frame", [True, False])
@pytest.mark.parametrize("kind", ["identical", "different", "disconnected"])
def test_every_layer_of_the_default_schedule(kind: str, own_frame: bool) -> None:
    """Layers of the own frame keep the diagonal; fewer anchors are the first of the others."""
    similarity = similarity_of(kind, 60)
    found, rank, rules = anchored(
        similarity, Sparsity("anchors", own_frame=own_frame), has_reference=False
    )
    self_map, few, many = (found[rules.layer_map[layer]] > 0 for layer in (0, 2, 9))
    np.testing.assert_array_equal(self_map, np.eye(60, dtype=bool))
    assert components(few) == components(many) == 1
    assert (many | ~few).all(), "few anchors are the first of many"
    assert few[:, rank < 10].all() and many[:, rank < 25].all()
    if not own_frame:  # the published rule: one list of keys for all queries
        assert (few == few[0]).all() and few[0].sum() == 10
        assert (many == many[0]).all() and many[0].sum() == 25
    else:
        assert few.sum(axis=1).min() >= 10 and few.sum(axis=1).max() <= 10 + 1 + 4


def test_more_anchors_than_views_are_all_views() -> None:
    similarity = similarity_of("descriptors", 7)
    found, rank, rules = anchored(similarity, Sparsity("anchors", anchors=25), has_reference=False)
    assert sorted(rank) == list(range(7))
    assert (found[rules.layer_map[9]] == 2).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 40), st.sampled_from(["descriptors", "clusters"]), st.integers(0, 99))
def test_the_order_of_the_photos_does_not_change_the_anchors(
    views: int, kind: str, seed: int
) -> None:
    """Nor the maps, for a model without a reference view.

    Unless views are equal, or there are two of them, whose mean similarities are always equal.
    """
    similarity = similarity_of(kind, views, seed)
    similarity = (similarity + similarity.T) / 2
    order = np.random.default_rng(seed).permutation(views)
    chosen = Sparsity("anchors", anchors=5)
    found, rank, _ = anchored(similarity, chosen, has_reference=False)
    turned = np.ascontiguousarray(similarity[np.ix_(order, order)])
    again, rank_again, _ = anchored(turned, chosen, has_reference=False)
    np.testing.assert_array_equal(rank_again, rank[order])
    np.testing.assert_array_equal(again, found[:, order][:, :, order])


def test_the_reference_view_is_the_first_anchor_in_any_order() -> None:
    similarity = similarity_of("clusters", 30)
    order = np.concatenate([[0], 1 + np.random.default_rng(1).permutation(29)])
    chosen = Sparsity("anchors", anchors=6)
    _, rank, _ = anchored(similarity, chosen, has_reference=True)
    turned = np.ascontiguousarray(similarity[np.ix_(order, order)])
    _, rank_again, _ = anchored(turned, chosen, has_reference=True)
    assert rank[0] == rank_again[0] == 0
    np.testing.assert_array_equal(rank_again, rank[order])


@pytest.mark.parametrize("choice", [*GUARANTEED, "similar"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_photos_give_the_same_maps(kind: str, choice: AnchorChoice) -> None:
    similarity = similarity_of(kind, 33)
    chosen = Sparsity("anchors", anchors=8, anchor_choice=choice)
    first, again = (anchored(similarity, chosen, has_reference=False) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_low_precision_computes_what_is_outside_the_anchors() -> None:
    similarity = similarity_of("clusters", 40)
    full, rank, rules = anchored(similarity, Sparsity("anchors"), has_reference=True)
    mixed, _, _ = anchored(similarity, Sparsity("anchors", low_precision=True), has_reference=True)
    late = rules.layer_map[9]
    np.testing.assert_array_equal(mixed[late] == 2, full[late] == 2)
    assert set(np.unique(mixed[late])) == {1, 2}
    assert (rank < 25).sum() == 25
