"""Checks of the ops' input tensors against their contracts.

Every message contains the name of the input and the rejected value. The attributes are validated
where they are built, in `attributes`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from covis.engines.errors import CovisError, user_error
from covis.export.ops.attributes import AttentionAttributes, SelectAttributes
from covis.export.ops.layout import TokenLayout

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def runs_eagerly(level: Tensor) -> bool:
    """Return True where shapes and values can be read, False while a graph is traced."""
    return not (torch.compiler.is_compiling() or isinstance(level, FakeTensor))


def check_attention(
    q: Tensor, k: Tensor, v: Tensor, level: Tensor, attributes: AttentionAttributes
) -> None:
    """Raise CovisError for the first input that BlockSparseAttention's contract forbids."""
    layout = attributes.layout
    _check_tokens({"Q": q, "K": k, "V": v}, layout)
    if level.dtype != torch.int8 or level.dim() != 4:
        raise _rejected("level", level, "int8 (b, h, Rq, Rk)")
    patches = layout.patches(q.shape[2])
    rows, columns = attributes.regions(q.shape[2])
    limits = (
        ("b", q.shape[0], "the batch"),
        ("h", q.shape[1], "the heads"),
        ("Rq", rows, f"ceil({patches} patch tokens / q_block)"),
        ("Rk", columns, f"ceil({patches} patch tokens / k_block)"),
    )
    for size, (name, limit, meaning) in zip(level.shape, limits, strict=True):
        if size not in (1, limit):
            raise user_error(
                f"has {name} = {size} in its shape {tuple(level.shape)}",
                where="level",
                hint=f"give 1 or {limit} ({meaning})",
            )
    _check_levels("level", level)


def check_select(
    q: Tensor,
    k: Tensor,
    pair: Tensor,
    keep_ratio: Tensor,
    cdf: Tensor,
    attributes: SelectAttributes,
) -> None:
    """Raise CovisError for the first input that BlockSelect's contract forbids."""
    _check_tokens({"Q": q, "K": k}, attributes.layout)
    frames = attributes.layout.frames(q.shape[2])
    if pair.dtype != torch.int8 or tuple(pair.shape) not in ((1, 1, 1, 1), (1, 1, frames, frames)):
        raise _rejected("pair", pair, f"int8 (1, 1, {frames}, {frames}) or (1, 1, 1, 1)")
    _check_levels("pair", pair)
    for name, value in (("keep_ratio", keep_ratio), ("cdf", cdf)):
        if value.dtype != torch.float32 or value.dim() != 0:
            raise _rejected(name, value, "float32 ()")
        if not value.is_cuda and not 0.0 <= float(value) <= 1.0:
            raise user_error(f"is {float(value)}", where=name, hint="give a number from 0 to 1")


def check_farthest(similarity: Tensor, given: Tensor, count: Tensor) -> None:
    """Raise CovisError for the first input that FarthestFirst's contract forbids."""
    views = similarity.shape[0] if similarity.dim() else 0
    if similarity.dtype != torch.float32 or tuple(similarity.shape) != (views, views) or not views:
        raise _rejected("similarity", similarity, "float32 (M, M) of at least one view")
    if given.dtype != torch.int64 or tuple(given.shape) != (views,):
        raise _rejected("given", given, f"int64 ({views},)")
    if count.dtype != torch.int64 or count.dim() != 0:
        raise _rejected("count", count, "int64 ()")


def _check_tokens(tensors: dict[str, Tensor], layout: TokenLayout) -> None:
    first = tensors["Q"]
    for name, tensor in tensors.items():
        if tensor.dim() != 4 or tensor.dtype not in FLOATS or 0 in tensor.shape:
            raise _rejected(name, tensor, "(B, H, S, D) of float32, float16 or bfloat16")
        if tensor.shape != first.shape or tensor.dtype != first.dtype:
            raise _rejected(name, tensor, f"the shape and type of Q: {_describe(first)}")
    layout.check(first.shape[2], "Q")


def _check_levels(name: str, level: Tensor) -> None:
    """Check that levels are 0, 1 or 2, for a map on the host.

    A map on a GPU is not read, because that would wait for the GPU in every layer. Kernels clamp
    its values instead.
    """
    if level.is_cuda:
        return
    low, high = (int(x) for x in torch.aminmax(level)) if level.numel() else (0, 0)
    if low < 0 or high > 2:
        raise user_error(
            f"has values from {low} to {high}", where=name, hint="levels are 0, 1 and 2"
        )


def _rejected(name: str, tensor: Tensor, expected: str) -> CovisError:
    return user_error(f"is {_describe(tensor)}", where=name, hint=f"give {expected}")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
