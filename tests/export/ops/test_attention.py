"""Properties of the eager torch op beyond the suite: work, gradients, types, errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from covis.engines.errors import CovisError, ExitCode
from covis.export.ops import TokenLayout, block_sparse_attention, dense_level, element_regions

LAYOUT = TokenLayout(9, 2, 1, 1)


def qkv(frames: int, layout: TokenLayout = LAYOUT, heads: int = 2, dim: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(frames)
    shape = (1, heads, frames * layout.frame_tokens + layout.trailing_tokens, dim)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def masked(
    q: Tensor, k: Tensor, v: Tensor, level: Tensor, layout: TokenLayout, size: int
) -> Tensor:
    """Compute frame-pair attention through a mask of the whole sequence, differentiably."""
    region = element_regions(layout, q.shape[2], size)
    attended = level[0, 0][region.clamp(min=0)][:, region.clamp(min=0)] > 0
    attended |= (region < 0)[:, None] | (region < 0)
    scores = (q @ k.transpose(-1, -2)) / q.shape[3] ** 0.5
    return torch.softmax(scores.masked_fill(~attended, -torch.inf), -1) @ v


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the largest number of elements of any operator's result."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.most = max(self.most, tensor.numel())
        return out


@pytest.mark.parametrize("per_head", [False, True])
def test_nothing_of_the_size_of_the_scores_is_built(per_head: bool) -> None:
    layout = TokenLayout(105, 5)
    q, k, v = (x.float() for x in qkv(40, layout, dim=16))
    level = torch.zeros(1, 2 if per_head else 1, 40, 40, dtype=torch.int8)
    level[:, :, range(40), range(40)] = 2
    with LargestTensor() as seen:  # type: ignore[no-untyped-call]
        block_sparse_attention(q, k, v, level, layout=layout, q_block=100, k_block=100)
    assert seen.most <= q.numel()  # the scores would be 262 times that


def test_gradients_are_those_of_masked_attention() -> None:
    level = torch.tensor([[2, 0, 1], [0, 2, 0], [1, 1, 0]], dtype=torch.int8)[None, None]
    inputs = tuple(x.requires_grad_() for x in qkv(3))
    q, k, v = inputs
    out = block_sparse_attention(q, k, v, level, layout=LAYOUT, q_block=6, k_block=6)
    grads = torch.autograd.grad(out.sin().sum(), inputs)
    expected = torch.autograd.grad(masked(q, k, v, level, LAYOUT, 6).sin().sum(), inputs)
    torch.testing.assert_close(grads, expected, rtol=1e-10, atol=1e-12)


def test_the_registered_op_agrees_and_has_the_same_gradients() -> None:
    level = torch.tensor([[2, 0], [0, 1]], dtype=torch.int8)[None, None]
    inputs = tuple(x.requires_grad_() for x in qkv(2))
    q, k, v = inputs
    op = torch.ops.covis.block_sparse_attention
    traced = op(q, k, v, level, *vars(LAYOUT).values(), 6, 6, 0.0)
    eager = block_sparse_attention(q, k, v, level, layout=LAYOUT, q_block=6, k_block=6)
    torch.testing.assert_close(traced, eager, rtol=0, atol=0)
    grads = torch.autograd.grad(traced.sin().sum(), inputs)
    expected = torch.autograd.grad(eager.sin().sum(), inputs)
    torch.testing.assert_close(grads, expected, rtol=1e-12, atol=1e-14)


def test_double_is_exact_to_double() -> None:
    level = torch.tensor([[2, 0, 1], [0, 2, 0], [1, 1, 0]], dtype=torch.int8)[None, None]
    q, k, v = qkv(3)
    out = block_sparse_attention(q, k, v, level, layout=LAYOUT, q_block=6, k_block=6)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, masked(q, k, v, level, LAYOUT, 6), rtol=1e-12, atol=1e-13)


def test_dense_needs_no_attributes() -> None:
    q, k, v = qkv(3)
    every = torch.full((1, 1, 3, 3), 2, dtype=torch.int8)
    dense = block_sparse_attention(q, k, v, dense_level())
    full = block_sparse_attention(q, k, v, every, layout=LAYOUT, q_block=6, k_block=6)
    torch.testing.assert_close(dense, full, rtol=1e-12, atol=1e-13)


def test_inputs_that_are_views() -> None:
    packed = torch.randn(1, 28, 3, 2, 8).permute(2, 0, 3, 1, 4)
    level = torch.eye(3, dtype=torch.int8)[None, None]
    arguments: dict[str, Any] = {"layout": LAYOUT, "q_block": 6, "k_block": 6}
    q, k, v = packed.unbind(0)
    view = block_sparse_attention(q, k, v, level, **arguments)
    q, k, v = packed.contiguous().unbind(0)
    copy = block_sparse_attention(q, k, v, level, **arguments)
    torch.testing.assert_close(view, copy)


def _level(*shape: int, value: int = 2) -> Tensor:
    return torch.full(shape, value, dtype=torch.int8)


Q = torch.zeros(2, 3, 28, 8)
BAD: list[tuple[str, dict[str, Any]]] = [
    ("Q: is float32 (3, 28, 8); give (B, H, S, D)", {"q": Q[0]}),
    ("Q: is int64 (2, 3, 28, 8); give", {"q": Q.long()}),
    ("Q: is float32 (2, 3, 0, 8); give", {"q": Q[:, :, :0]}),
    ("K: is float32 (2, 3, 27, 8); give the shape and type of Q", {"k": Q[:, :, 1:]}),
    ("V: is float16 (2, 3, 28, 8); give the shape and type of Q", {"v": Q.half()}),
    ("level: is int32 (1, 1, 3, 3); give int8", {"level": _level(1, 1, 3, 3).int()}),
    ("level: is int8 (3, 3); give int8 (b, h, Rq, Rk)", {"level": _level(3, 3)}),
    ("level: has b = 3 in its shape (3, 1, 3, 3); give 1 or 2", {"level": _level(3, 1, 3, 3)}),
    ("level: has h = 2 in its shape (1, 2, 3, 3); give 1 or 3", {"level": _level(1, 2, 3, 3)}),
    ("level: has Rq = 4 in its shape (1, 1, 4, 3); give 1 or 3", {"level": _level(1, 1, 4, 3)}),
    ("level: has Rk = 2 in its shape (1, 1, 3, 2); give 1 or 3", {"level": _level(1, 1, 3, 2)}),
    ("level: has values from 3 to 3; levels are", {"level": _level(1, 1, 1, 1, value=3)}),
    ("level: has values from -1 to -1", {"level": _level(1, 1, 1, 1, value=-1)}),
    ("q_block: is 0; give 1 or more", {"q_block": 0}),
    ("k_block: is -2; give 1 or more", {"k_block": -2}),
    ("scale: is -1.0; give", {"scale": -1.0}),
    ("scale: is nan; give", {"scale": float("nan")}),
    ("Q: has 28 tokens, which is not a whole number of frames of 5 and 0", {
        "layout": TokenLayout(5)}),
    ("Q: has 28 tokens, which is not a whole number of frames of 3 and 40", {
        "layout": TokenLayout(3, 0, 0, 40)}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "change"), BAD, ids=[m.split(";")[0] for m, _ in BAD])
def test_errors_name_the_input_and_its_value(message: str, change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"q": Q, "k": Q, "v": Q, "level": _level(1, 1, 3, 3), "layout": LAYOUT,
                            "q_block": 6, "k_block": 6}  # fmt: skip
    block_sparse_attention(**good)
    with pytest.raises(CovisError, match=re.escape(message)) as caught:
        block_sparse_attention(**{**good, **change})
    assert caught.value.code == ExitCode.USER
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "frame_tokens: is 0; give 1 or more"),
        ((4, -1), "special_first: is -1; give 0 or more"),
        ((4, 0, -1), "special_last: is -1"),
        ((4, 0, 0, -1), "trailing_tokens: is -1"),
        ((4, 3, 1), "frame_tokens: is 4, and special_first + special_last = 4 leaves no patch"),
    ],
)
def test_layout_errors(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(CovisError, match=re.escape(message)):
        TokenLayout(*arguments)
