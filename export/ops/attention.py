"""BlockSparseAttention as a torch op: one node for the exporter, sparse when run eagerly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from covis.engines.op import ATTENTION_ATTRIBUTES
from covis.export.ops import fp8
from covis.export.ops.attributes import AttentionAttributes, torch_schema
from covis.export.ops.check import check_attention, runs_eagerly
from covis.export.ops.cuda import dispatch
from covis.export.ops.layout import PLAIN, TokenLayout
from covis.export.ops.query_groups import QueryGroup, plan_rows

DENSE = 2  # the level of a region pair that is computed in full precision


def dense_level() -> Tensor:
    """Return the (1, 1, 1, 1) level map that means dense attention.

    It is on the host whatever the device of Q, because recognising it must not wait for a GPU.
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
    """Compute attention over the region pairs whose level is above 0.

    The contract is plugins/block_sparse_attention/README.md. Work and memory grow with the number
    of computed pairs: no tensor of size S x S is allocated. Differentiable in q, k and v.

    Args:
        q, k, v: Queries, keys and values (B, H, S, D) of one floating type.
        level: int8 map (b, h, Rq, Rk), b in {1, B}, h in {1, H},
            Rq in {1, ceil(patches / q_block)}, Rk likewise. 0 is skipped, 1 allows low precision,
            2 means full precision. On the device of Q or on the host.
        layout: Which of the S tokens are special, patch and trailing tokens.
        q_block, k_block: Patch tokens of one query region and of one key region.
        scale: Factor of the scores; None means 1 / sqrt(D).

    Returns:
        (B, H, S, D) in the type of q; rows without any key to attend to are zeros.

    Raises:
        CovisError: a tensor or attribute that the contract forbids; the text has its value.
    """
    attributes = AttentionAttributes(layout, q_block, k_block, scale or 0.0)
    if runs_eagerly(level):
        # Not through the registered op: its first call imports the compiler, ten seconds.
        check_attention(q, k, v, level, attributes)
        return _attend(q, k, v, level, attributes)
    out: Tensor = _op(q, k, v, level, *attributes.flat().values())
    return out


def is_dense(level: Tensor) -> bool:
    """Return True for the map of one element that means dense attention."""
    return level.numel() == 1 and int(level) >= DENSE


@torch.library.custom_op(
    "covis::block_sparse_attention",
    mutates_args=(),
    schema=torch_schema(("q", "k", "v", "level"), ATTENTION_ATTRIBUTES),
)
def _op(q: Tensor, k: Tensor, v: Tensor, level: Tensor, *attributes: int | float) -> Tensor:
    return _attend(q, k, v, level, AttentionAttributes.from_flat(*attributes)).contiguous()


@_op.register_fake
def _(q: Tensor, *_others: object) -> Tensor:
    return q.new_empty(q.shape)


def _remember(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: object
) -> None:
    ctx.save_for_backward(*inputs[:4])  # type: ignore[arg-type]
    ctx.attributes = inputs[4:]  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, level = ctx.saved_tensors  # type: ignore[attr-defined]
    attributes = AttentionAttributes.from_flat(*ctx.attributes)  # type: ignore[attr-defined]
    with torch.enable_grad():
        q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
        out = _attend(q, k, v, level, attributes)
        grads = torch.autograd.grad(out, (q, k, v), grad, allow_unused=True)
    return (*grads, *[None] * (1 + len(ctx.attributes)))  # type: ignore[attr-defined]


_op.register_autograd(_backward, setup_context=_remember)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, level: Tensor, attributes: AttentionAttributes
) -> Tensor:
    scale = attributes.factor
    if is_dense(level):
        return scaled_dot_product_attention(q, k, v, scale=scale)
    out = dispatch.block_sparse_attention(q, k, v, level, attributes)
    if out is not None:
        return out
    patch, dense = attributes.layout.split(q.shape[2], q.device)
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    if dense.numel():
        rows = scaled_dot_product_attention(q[:, :, dense], k, v, scale=scale)
        out = out.index_copy(2, dense, rows)
    low = fp8.quantize(q, k, v, patch) if fp8.active() and patch.numel() else None
    for group in plan_rows(level, patch, dense, attributes.q_block, attributes.k_block):
        if group.keys.numel():
            at = (group.batch, group.head)
            rows = (
                _rows(q[at], k[at], v[at], group, scale)
                if low is None
                else low.rows(q, k, v, group, scale)
            )
            out[(*at, group.queries)] = rows
    return out


def _rows(q: Tensor, k: Tensor, v: Tensor, group: QueryGroup, scale: float | None) -> Tensor:
    all_keys = group.keys.numel() == k.shape[2]
    keys = k if all_keys else k.index_select(2, group.keys)
    values = v if all_keys else v.index_select(2, group.keys)
    return scaled_dot_product_attention(q.index_select(2, group.queries), keys, values, scale=scale)
