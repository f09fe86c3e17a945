"""Errors of tensors, and the search for what must stay in float32."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covis.evaluation.compare.tensors import (
    export_option,
    find_kept,
    rank_error,
    ranks,
    tensor_error,
)


def test_errors_by_hand() -> None:
    reference = np.array([[1.0, -2.0], [4.0, 0.0]])
    candidate = np.array([[1.0, -2.5], [4.0, 0.1]])
    error = tensor_error("x", candidate, reference, views=2)
    assert error.max_abs == pytest.approx(0.5)
    assert error.mean_abs == pytest.approx(0.6 / 4)
    assert error.max_rel == pytest.approx(0.5 / 4)
    assert error.rel_l2 == pytest.approx(np.sqrt(0.25 + 0.01) / np.sqrt(1 + 4 + 16))
    assert error.p99_rel == pytest.approx(np.quantile([0.0, 0.25, 0.0], 0.99))
    assert error.rank == pytest.approx(0.0)
    assert error.worst_image == 0
    assert error.worst_image_rel_l2 == pytest.approx(0.5 / np.sqrt(5))


def test_what_is_not_finite_is_counted_apart() -> None:
    reference = np.ones((3, 4), np.float32)
    candidate = reference.copy()
    candidate[1, 2], candidate[2, 0] = np.nan, np.inf
    error = tensor_error("x", candidate, reference, views=3)
    assert error.non_finite == 2
    assert error.max_abs == error.rel_l2 == 0.0
    assert np.isfinite(list(error.as_dict().values())[1:7]).all()


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.float16])
def test_other_types(dtype: type) -> None:
    reference = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    assert tensor_error("x", reference, reference).rel_l2 == 0.0
    assert tensor_error("x", reference[::-1], reference).max_abs == 1.0


def test_empty_and_zero() -> None:
    assert tensor_error("x", np.zeros((0, 3)), np.zeros((0, 3))).rank == 0.0
    zero = np.zeros(5)
    assert tensor_error("x", zero, zero).rel_l2 == 0.0
    assert tensor_error("x", zero + 1, zero).rel_l2 == 1.0
    with pytest.raises(ValueError, match="against"):
        tensor_error("x", zero, np.zeros(4))


def test_ranks_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    a, b = random.integers(0, 20, 300).astype(float), random.standard_normal(300)
    np.testing.assert_allclose(ranks(a), stats.rankdata(a) - 1)
    assert rank_error(a, b) == pytest.approx(1 - stats.spearmanr(a, b).statistic)
    assert rank_error(-a, a) == pytest.approx(2.0)


UNITS = tuple("abcdefgh")


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8), st.permutations(UNITS))
def test_bisection_finds_a_set_that_passes(costs: list[float], order: list[str]) -> None:
    """Whatever the costs and the order of suspicion: the answer passes, and no unit is idle."""
    cost = dict(zip(UNITS, costs, strict=True))

    def failing(kept: frozenset[str]) -> float:
        return sum(value for name, value in cost.items() if name not in kept)

    found = find_kept(order, failing)
    assert found is not None
    assert failing(frozenset(found)) <= 1.0
    assert all(failing(frozenset(found) - {unit}) > 1.0 for unit in found)


def test_bisection_is_short_where_the_suspicion_is_right() -> None:
    calls = 0

    def failing(kept: frozenset[str]) -> float:
        nonlocal calls
        calls += 1
        return 0.5 if "00" in kept else 2.0

    assert find_kept([f"{i:02}" for i in range(48)], failing) == ("00",)
    assert calls <= 2 + 6


def test_bisection_at_its_ends() -> None:
    assert find_kept(UNITS, lambda kept: 0.0) == ()
    assert find_kept(UNITS, lambda kept: 2.0) is None
    assert find_kept(UNITS, lambda kept: float("nan")) is None
    assert find_kept(UNITS, lambda kept: 1.0 if len(kept) == 8 else 3.0) == UNITS


def test_option() -> None:
    assert export_option(["camera", "aggregator/x.0"]) == "--keep-fp32 camera,aggregator/x.0"
    assert export_option([]) == ""
