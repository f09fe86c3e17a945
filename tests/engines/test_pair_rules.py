"""The numbers that the graphs read, from the options of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covis.engines.errors import CovisError
from covis.engines.options import Sparsity
from covis.engines.pair_rules import PairRules, anchor_order, pair_rules

DTYPES: dict[str, tuple[str, str]] = {
    "tau": ("float32", "R"), "tau_low": ("float32", "R"), "anchors": ("int64", "R"),
    "min_neighbours": ("int64", "R"), "own_frame": ("bool", "R"), "to_reference": ("bool", "R"),
    "from_reference": ("bool", "R"), "reference": ("int64", ""), "anchor_order": ("int64", "M"),
    "layer_map": ("int64", "L"), "keep_ratio": ("float32", "L"), "cdf": ("float32", "L"),
}  # fmt: skip


def rules_of(sparsity: Sparsity, depth: int = 24, views: int = 60, ref: bool = True) -> PairRules:
    return pair_rules(sparsity, depth, views, ref)


def numbers(rules: PairRules, layer: int) -> dict[str, Any]:
    """Return the numbers of a layer's map, by name."""
    of_map = (name for name, (_, shape) in DTYPES.items() if shape == "R")
    return {name: getattr(rules, name)[rules.layer_map[layer]].item() for name in of_map}


@pytest.mark.parametrize("views", [1, 2, 60])
@pytest.mark.parametrize(
    "sparsity",
    [Sparsity("dense"), Sparsity("light"), Sparsity("saliency"), Sparsity("anchors"),
     Sparsity("pooled"), Sparsity("both"), Sparsity("anchors", anchor_choice="random")],
    ids=lambda s: f"{s.selector}-{s.anchor_choice}",
)  # fmt: skip
def test_types_and_shapes_are_those_of_the_ports(sparsity: Sparsity, views: int) -> None:
    rules = rules_of(sparsity, views=views)
    sizes = {"R": len(rules.tau), "M": views, "L": 24}
    assert rules.inputs().keys() == DTYPES.keys()
    for name, (dtype, shape) in DTYPES.items():
        value = rules.inputs()[name]
        assert value.dtype.name == dtype, name
        assert value.shape == tuple(sizes[symbol] for symbol in shape), name
    assert set(rules.layer_map) == set(range(len(rules.tau)))


def test_each_regime_in_numbers() -> None:
    text = "0:dense, 1:self, 2:saliency=0.8, 3:anchors=9, 4:pooled=0.5, rest:anchors=9+pooled"
    rules = rules_of(Sparsity("anchors", schedule=text, keep_ratio=0.125, cdf=0.75))
    none = {"anchors": 0, "min_neighbours": 0, "own_frame": True,
            "to_reference": False, "from_reference": False}  # fmt: skip
    both = {"to_reference": True, "from_reference": True}
    assert numbers(rules, 0) == {**none, "tau": 0.0, "tau_low": 0.0}
    assert numbers(rules, 1) == {**none, "tau": 2.0, "tau_low": 2.0}
    tau = np.float32(0.8).item()
    assert numbers(rules, 2) == {**none, **both, "tau": tau, "tau_low": tau}
    anchored = {"tau": 2.0, "tau_low": 2.0, "anchors": 9, "min_neighbours": 4, "own_frame": True,
                "to_reference": True, "from_reference": False}  # fmt: skip
    assert numbers(rules, 3) == anchored == numbers(rules, 23)
    assert rules.layer_map[0] == rules.layer_map[4], "pooled blocks are inside all pairs"
    assert rules.layer_map[3] == rules.layer_map[5], "pooling makes no map of its own"
    assert rules.keep_ratio.tolist() == [1, 1, 1, 1, 0.5, *[0.125] * 19]
    assert rules.cdf.tolist() == [0, 0, 0, 0, 0.75, *[0.75] * 19]
    assert rules.sparse_layers == tuple(range(1, 24))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"anchors": 25, "min_neighbours": 4, "own_frame": True, "tau_low": 2.0}),
        ({"own_frame": False}, {"own_frame": False, "min_neighbours": 0}),
        ({"own_frame": False, "min_neighbours": 3}, {"own_frame": False, "min_neighbours": 3}),
        ({"min_neighbours": 0}, {"min_neighbours": 0}),
        ({"reference": False}, {"to_reference": False}),
        ({"low_precision": True}, {"tau": 2.0, "tau_low": 0.0}),
        ({"anchor_choice": "similar"}, {"anchors": 0, "min_neighbours": 29}),
        ({"anchor_choice": "similar", "own_frame": False}, {"anchors": 0, "min_neighbours": 25}),
        ({"anchors": 100}, {"anchors": 60}),  # no more than there are views
    ],
)
def test_options_of_the_anchors(options: dict[str, Any], expected: dict[str, Any]) -> None:
    found = numbers(rules_of(Sparsity("anchors", **options)), 23)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"tau": 0.75, "tau_low": 0.75, "min_neighbours": 0}),
        ({"low_precision": True}, {"tau_low": 0.0}),
        ({"tau_low": 0.5}, {"tau_low": 0.5}),
        ({"tau_low": 0.5, "low_precision": True}, {"tau_low": 0.5}),
        ({"min_neighbours": 2}, {"min_neighbours": 2}),
        ({"reference": False}, {"to_reference": False, "from_reference": False}),
    ],
)
def test_options_of_saliency(options: dict[str, Any], expected: dict[str, Any]) -> None:
    found = numbers(rules_of(Sparsity("saliency", tau=0.75, **options)), 0)
    assert {name: found[name] for name in expected} == expected


def test_a_threshold_of_the_schedule_bounds_the_lower_one() -> None:
    schedule = "0:saliency=0.25, rest:saliency"
    rules = rules_of(Sparsity("saliency", schedule=schedule, tau=0.75, tau_low=0.5))
    assert [numbers(rules, layer)["tau_low"] for layer in (0, 1)] == [0.25, 0.5]


def test_models_without_a_reference_keep_none() -> None:
    rules = rules_of(Sparsity("saliency"), ref=False)
    assert rules.reference == -1 and not rules.to_reference.any() and not rules.from_reference.any()
    assert rules_of(Sparsity("saliency")).reference == 0
    assert rules_of(Sparsity("saliency", reference=False)).reference == -1


def test_a_map_of_saliency_is_apart_even_if_it_keeps_every_pair() -> None:
    """A caller's map may take its place, and must not reach the dense layers."""
    rules = rules_of(Sparsity("saliency", tau=0.0, layers="0-9"), ref=False)
    assert rules.tau.tolist() == [0, 0]
    assert rules.layer_map.tolist() == [0] * 10 + [1] * 14


def test_an_aggregator_without_global_layers_has_one_map() -> None:
    rules = rules_of(Sparsity("anchors"), depth=0)
    assert rules.layer_map.shape == (0,) and rules.tau.tolist() == [0.0]


def test_the_number_of_maps_is_limited() -> None:
    def schedule(count: int) -> str:
        return ", ".join(f"{i}:anchors={i + 1}" for i in range(count)) + f", rest:anchors={count}"

    assert len(rules_of(Sparsity("anchors", schedule=schedule(8))).tau) == 8
    few = rules_of(Sparsity("anchors", schedule=schedule(20)), views=5)
    assert len(few.tau) == 5, "budgets beyond the number of views are one map"
    with pytest.raises(CovisError, match="--schedule: has 9 different regimes, more than 8 regime"):
        rules_of(Sparsity("anchors", schedule=schedule(9)))


@pytest.mark.parametrize("ref", [True, False])
@given(views=st.integers(1, 80), most=st.integers(0, 80), seed=st.integers(0, 9))
def test_random_and_uniform_anchors(ref: bool, views: int, most: int, seed: int) -> None:
    most = min(most, views)
    for choice in ("uniform", "random"):
        chosen = Sparsity("anchors", anchor_choice=choice, anchor_seed=seed)  # type: ignore[arg-type]
        order = anchor_order(chosen, views, most, ref)
        assert len(set(order[:most])) == most, "no view twice"
        assert ((order[:most] >= 0) & (order[:most] < views)).all()
        assert (order[max(most, ref) :] == -1).all()
        assert order[0] == 0 or not ref
        again = anchor_order(chosen, views, most, ref)
        np.testing.assert_array_equal(order, again)
        if choice == "uniform" and most:
            steps = np.diff(np.sort(order[:most]), append=views)
            assert steps.max() - steps.min() <= 1 and order[0] == 0


def test_each_prefix_of_uniform_anchors_is_spread() -> None:
    order = anchor_order(Sparsity("anchors", anchor_choice="uniform"), 64, 16, False)
    for count, gap in ((1, 64), (2, 32), (4, 16), (8, 8), (16, 4)):
        assert sorted(order[:count]) == list(range(0, 64, gap))


def test_the_seed_changes_random_anchors_alone() -> None:
    random = Sparsity("anchors", anchor_choice="random")
    orders = [
        anchor_order(replace(random, anchor_seed=seed), 60, 25, False).tolist() for seed in (0, 1)
    ]
    assert orders[0] != orders[1]
    for choice, start in (("kcenter", 0), ("similar", 0)):
        order = anchor_order(replace(random, anchor_choice=choice), 60, 25, True)
        assert order.tolist() == [start] + [-1] * 59
        assert (anchor_order(replace(random, anchor_choice=choice), 60, 25, False) == -1).all()
