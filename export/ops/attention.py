"""BlockSparseAttention as a torch op: opaque to the exporter, and sparse when run eagerly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from covis.export.ops import cuda_dispatch, fp8
from covis.export.ops.check import check_attention, runs_eagerly
from covis.export.ops.layout import PLAIN, TokenLayout
from covis.export.ops.query_groups import QueryGroup, plan_rows

DENSE = 2  # the level of a region pair that is computed in full precision


def dense_level() -> Tensor:
    """The (1, 1, 1, 1) level map that means dense attention.

    It lies on the host whatever the device of Q: to recognise it must not wait for a GPU.
    """
    return torch.full((1, 1, 1, 1), DENSE, dtype=torch.int8)


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    level: Tensor,
    *,
    layout: TokenLayout = PLAIN,
    q_block: int = 1,
    k_block: int = 1,
    scale: float | None = None,
) -> Tensor:
    """Attention over the region pairs whose level is above 0.

    The contract is plugins/block_sparse_attention/README.md. Work and memory follow the pairs
    that are kept: nothing of size S x S is built. Differentiable in q, k and v.

    Args:
        q, k, v: (B, H, S, D), one floating type.
        level: int8 (b, h, Rq, Rk), b in {1, B}, h in {1, H}, Rq in {1, ceil(patches / q_block)},
            Rk likewise: 0 skipped, 1 low precision allowed, 2 full precision. On the device of Q
            or on the host.
        layout: which of the S tokens are special, patch and trailing tokens.
        q_block, k_block: patch tokens of one query and one key region.
        scale: factor of the scores; None is 1/sqrt(D).

    Returns:
        (B, H, S, D), the type of q; rows with nothing to attend to are zeros.

    Raises:
        CovisError: a tensor or attribute that the contract forbids, named with its value.
    """
    if runs_eagerly(level):
        # Not through the registered op: its first call imports the compiler, ten seconds.
        check_attention(q, k, v, level, layout, q_block, k_block, scale)
        return _attend(q, k, v, level, layout, q_block, k_block, scale or None)
    out: Tensor = _op(
        q,
        k,
        v,
        level,
        layout.frame_tokens,
        layout.special_first,
        layout.special_last,
        layout.trailing_tokens,
        q_block,
        k_block,
        scale or 0.0,
    )
    return out


def is_dense(level: Tensor) -> bool:
    """Whether that map is the one element that means dense attention."""
    return level.numel() == 1 and int(level) >= DENSE


@torch.library.custom_op("covis::block_sparse_attention", mutates_args=())
def _op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    level: Tensor,
    frame_tokens: int = 1,
    special_first: int = 0,
    special_last: int = 0,
    trailing_tokens: int = 0,
    q_block: int = 1,
    k_block: int = 1,
    scale: float = 0.0,
) -> Tensor:
    layout = TokenLayout(frame_tokens, special_first, special_last, trailing_tokens)
    return _attend(q, k, v, level, layout, q_block, k_block, scale or None).contiguous()


@_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, level: Tensor, *_attributes: object, **_named: object
) -> Tensor:
    return q.new_empty(q.shape)


def _remember(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: object
) -> None:
    ctx.save_for_backward(*inputs[:4])  # type: ignore[arg-type]
    ctx.attributes = inputs[4:]  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, level = ctx.saved_tensors  # type: ignore[attr-defined]
    *tokens, q_block, k_block, scale = ctx.attributes  # type: ignore[attr-defined]
    with torch.enable_grad():
        q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
        out = _attend(q, k, v, level, TokenLayout(*tokens), q_block, k_block, scale or None)
        grads = torch.autograd.grad(out, (q, k, v), grad, allow_unused=True)
    return (*grads, *[None] * (1 + len(ctx.attributes)))  # type: ignore[attr-defined]


_op.register_autograd(_backward, setup_context=_remember)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    level: Tensor,
    layout: TokenLayout,
    q_block: int,
    k_block: int,
    scale: float | None,
) -> Tensor:
    if is_dense(level):
        return scaled_dot_product_attention(q, k, v, scale=scale)
    out = cuda_dispatch.attention(q, k, v, level, layout, q_block, k_block, scale)
    if out is not None:
        return out
    patch, dense = layout.split(q.shape[2], q.device)
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    if dense.numel():
        rows = scaled_dot_product_attention(q[:, :, dense], k, v, scale=scale)
        out = out.index_copy(2, dense, rows)
    low = fp8.quantize(q, k, v, patch) if fp8.active() and patch.numel() else None
    for group in plan_rows(level, patch, dense, q_block, k_block):
        if group.keys.numel():
            at = (group.batch, group.head)
            rows = (
                _rows(q[at], k[at], v[at], group, scale)
                if low is None
                else (low.rows(q, k, v, group, scale))
            )
            out[(*at, group.queries)] = rows
    return out


def _rows(q: Tensor, k: Tensor, v: Tensor, group: QueryGroup, scale: float | None) -> Tensor:
    every = group.keys.numel() == k.shape[2]
    keys = k if every else k.index_select(2, group.keys)
    values = v if every else v.index_select(2, group.keys)
    return scaled_dot_product_attention(q.index_select(2, group.queries), keys, values, scale=scale)
