"""BlockSelect in torch: single rules that can be checked by hand, and its errors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from covis.engines.errors import CovisError
from covis.engines.op import keep_ratio_input
from covis.export.ops import TokenLayout, block_select
from covis.export.ops.select import block_levels, choose

EVERY = torch.ones((), dtype=torch.bool)


def probabilities(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()[None]


@pytest.mark.parametrize(
    ("keep_ratio", "cdf", "selected"),
    [
        (0.0, 0.0, [1]),  # at least one
        (0.75, 0.0, [1, 2, 3]),
        (0.74, 0.0, [1, 3]),  # rounded down
        (0.0, 0.5, [1]),  # 0.5 is within 0.5
        (0.0, 0.79, [1]),  # the mass stays below the threshold
        (0.0, 0.8, [1, 3]),
        (0.75, 0.5, [1, 2, 3]),  # the larger of both
        (0.25, 0.97, [1, 2, 3]),
        (1.0, 1.0, [0, 1, 2, 3]),
    ],
)
def test_top_k_and_cdf(keep_ratio: float, cdf: float, selected: list[int]) -> None:
    row = probabilities(0.04, 0.5, 0.16, 0.3)
    assert choose(row, EVERY, keep_ratio, cdf)[0].nonzero().ravel().tolist() == selected


def test_equal_scores_keep_the_lower_index() -> None:
    assert choose(torch.zeros(1, 6), EVERY, 0.5, 0.0)[0].tolist() == [True] * 3 + [False] * 3


def test_only_candidates_count() -> None:
    candidate = torch.tensor([[True, False, True, False, True, True], [False] * 6])
    scores = torch.tensor([[1.0, 9.0, 2.0, 9.0, 3.0, 4.0]]).expand(2, 6)
    selected = choose(scores, candidate, 0.5, 0.0)
    assert selected.tolist() == [[False] * 4 + [True] * 2, [False] * 6]


def test_a_block_has_the_highest_level_of_the_frame_pairs_it_touches() -> None:
    pair = torch.tensor([[2, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.int8)
    # 3 frames of 4 patches: query blocks of 6 touch frames 0-1 and 1-2, key blocks of 4 one each.
    assert block_levels(pair, 4, 12, 6, 4).tolist() == [[2, 1, 0], [0, 1, 0]]
    assert block_levels(pair, 4, 12, 12, 5).tolist() == [[2, 1, 0]]
    assert block_levels(pair[1:2, 1:2], 4, 12, 6, 5).tolist() == [[1] * 3] * 2


def test_a_ratio_of_a_whole_number_of_blocks_keeps_all_of_them() -> None:
    """Ratios with two and three decimals, given as numbers: exactly floor(ratio x blocks)."""
    ratios = [*range(10, 1001, 10), 333, 667, 999]
    for blocks in (7, 10, 40, 64, 1000):
        q = torch.arange(blocks * 2.0).reshape(1, 1, blocks, 2)
        one = torch.full((1, 1, 1, 1), 1, dtype=torch.int8)
        for thousandths in ratios:
            level = block_select(q, q, one, thousandths / 1000, 0.0, q_block=blocks, k_block=1)
            assert int(level.sum()) == max(thousandths * blocks // 1000, 1), (thousandths, blocks)


def test_the_input_of_the_graphs_is_the_least_float32_that_is_not_below_the_ratio() -> None:
    for thousandths in range(1001):
        ratio = thousandths / 1000
        rounded = keep_ratio_input(ratio)
        assert float(rounded) >= ratio and rounded.dtype == np.float32
        assert rounded == 0 or float(np.nextafter(rounded, np.float32(0))) < ratio
        for blocks in (10, 40, 600, 8000):  # the product is exact: 24 bits times 13
            assert int(float(rounded) * blocks) == thousandths * blocks // 1000


def test_the_registered_op_agrees() -> None:
    q, k = torch.randn(2, 1, 3, 45, 16)
    pair = torch.full((1, 1, 1, 1), 1, dtype=torch.int8)
    ratio, cdf = torch.tensor(0.4), torch.tensor(0.3)
    eager = block_select(q, k, pair, ratio, cdf, layout=TokenLayout(9, 1), q_block=8, k_block=4)
    op = torch.ops.covis.block_select
    assert torch.equal(eager, op(q, k, pair, ratio, cdf, 9, 1, 0, 0, 8, 4, "mean"))


Q = torch.zeros(1, 2, 27, 8)
SCALAR = torch.tensor(0.5)
BAD: list[tuple[str, dict[str, Any]]] = [
    ("K: is float64 (1, 2, 27, 8); give the shape and type of Q", {"k": Q.double()}),
    ("pair: is int8 (1, 1, 2, 3); give int8 (1, 1, 3, 3) or (1, 1, 1, 1)", {
        "pair": torch.zeros(1, 1, 2, 3, dtype=torch.int8)}),
    ("pair: is float32 (1, 1, 3, 3); give int8", {"pair": torch.zeros(1, 1, 3, 3)}),
    ("pair: has values from 0 to 7", {"pair": torch.tensor([0, 0, 7] * 3).to(torch.int8).view(
        1, 1, 3, 3)}),
    ("keep_ratio: is float64 (); give float32 ()", {"keep_ratio": SCALAR.double()}),
    ("cdf: is float32 (1,); give float32 ()", {"cdf": SCALAR[None]}),
    ("cdf: is 1.5; give a number from 0 to 1", {"cdf": SCALAR * 3}),
    ("keep_ratio: is nan; give", {"keep_ratio": SCALAR * float("nan")}),
    ("pool: is 'min'; give 'mean' or 'max'", {"pool": "min"}),
    ("k_block: is 0; give 1 or more", {"k_block": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "change"), BAD, ids=[m.split(";")[0] for m, _ in BAD])
def test_errors_name_the_input_and_its_value(message: str, change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"q": Q, "k": Q, "pair": torch.zeros(1, 1, 3, 3, dtype=torch.int8),
                            "keep_ratio": SCALAR, "cdf": SCALAR, "layout": TokenLayout(9, 1, 1),
                            "q_block": 4, "k_block": 4}  # fmt: skip
    block_select(**good)
    with pytest.raises(CovisError, match=re.escape(message)):
        block_select(**{**good, **change})
