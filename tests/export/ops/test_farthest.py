"""FarthestFirst in torch: single rules that can be checked by hand, and its errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from covis.engines.errors import CovisError
from covis.export.ops import farthest_first

CHOOSE = torch.full((5,), -1)


def line(*places: float) -> Tensor:
    """Similarity of views on a line, 1 at the same place and 0 at a distance of 10."""
    at = torch.tensor(places)
    return 1 - (at[:, None] - at[None]).abs() / 10


def order(similarity: Tensor, given: Tensor, count: int) -> list[int]:
    rank = farthest_first(similarity, given, count)
    assert rank.dtype == torch.int32
    taken = sorted((int(r), view) for view, r in enumerate(rank) if r < len(rank))
    assert [r for r, _ in taken] == list(range(len(taken)))
    return [view for _, view in taken]


def test_views_on_a_line() -> None:
    views = line(0, 1, 4, 6, 10)
    # View 2 has the least mean distance; then the ends, then what lies farthest from all three.
    assert order(views, CHOOSE, 5) == [2, 4, 0, 3, 1]
    assert order(views, CHOOSE, 2) == [2, 4]
    assert order(views, CHOOSE, -1) == []


def test_a_given_view_changes_what_follows() -> None:
    views = line(0, 1, 4, 6, 10)
    given = CHOOSE.clone()
    given[0] = 0
    assert order(views, given, 4) == [0, 4, 2, 3]
    given[1] = 1
    assert order(views, given, 4) == [0, 1, 4, 3]
    given[2] = 1  # taken already
    assert order(views, given, 4) == [0, 1, 4, 3]


def test_the_lowest_of_equal_views() -> None:
    assert order(torch.ones(5, 5), CHOOSE, 9) == [0, 1, 2, 3, 4]
    assert order(torch.eye(5), CHOOSE, 3) == [0, 1, 2]


def test_both_directions_count() -> None:
    similarity = torch.eye(3)
    similarity[0, 1], similarity[1, 0] = 0.2, 0.2
    similarity[2, 0] = 0.3  # on average less than 0.2
    assert order(similarity, torch.tensor([0, -1, -1]), 2) == [0, 2]
    assert order(similarity.T.contiguous(), torch.tensor([0, -1, -1]), 2) == [0, 2]


def test_strides_and_gradients_do_not_matter() -> None:
    similarity = torch.rand(10, 10, requires_grad=True)
    part = similarity[::2, ::2].T
    rank = farthest_first(part, CHOOSE, torch.tensor(4))
    assert not rank.requires_grad
    assert torch.equal(rank, farthest_first(part.detach().contiguous(), CHOOSE, 4))


def test_the_registered_op_agrees() -> None:
    similarity, given, count = torch.rand(5, 5), torch.tensor([3, -1, -1, 0, -1]), torch.tensor(4)
    rank = torch.ops.covis.farthest_first(similarity, given, count)
    assert torch.equal(rank, farthest_first(similarity, given, count))
    torch.library.opcheck(
        torch.ops.covis.farthest_first.default,
        (similarity, given, count),
        test_utils=("test_schema", "test_faketensor"),
    )


SQUARE = torch.zeros(5, 5)
BAD: list[tuple[str, dict[str, Any]]] = [
    ("similarity: is float32 (5, 4); give float32 (M, M) of at least one view", {
        "similarity": SQUARE[:, :4]}),
    ("similarity: is float64 (5, 5); give", {"similarity": SQUARE.double()}),
    ("similarity: is float32 (1, 5, 5); give", {"similarity": SQUARE[None]}),
    ("similarity: is float32 (0, 0); give", {"similarity": SQUARE[:0, :0]}),
    ("similarity: is float32 (); give", {"similarity": torch.tensor(1.0)}),
    ("given: is int64 (4,); give int64 (5,)", {"given": CHOOSE[:4]}),
    ("given: is int32 (5,); give int64 (5,)", {"given": CHOOSE.int()}),
    ("count: is int64 (1,); give int64 ()", {"count": torch.tensor([3])}),
    ("count: is float32 (); give int64 ()", {"count": torch.tensor(3.0)}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "change"), BAD, ids=[m.split(";")[0] for m, _ in BAD])
def test_errors_name_the_input_and_its_value(message: str, change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"similarity": SQUARE, "given": CHOOSE, "count": 3}
    farthest_first(**good)
    with pytest.raises(CovisError, match=re.escape(message)):
        farthest_first(**{**good, **change})
