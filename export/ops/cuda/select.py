"""BlockSelect by the CUDA kernels.

The contract is plugins/block_select/README.md, the ABI plugins/block_select/cuda/covis_select.h.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.export.ops.attributes import POOLS, SelectAttributes
from covis.export.ops.cuda.binding import (
    DTYPES,
    TOKEN_FIELDS,
    WORKSPACE_FIELDS,
    Stride,
    check_device,
    launch,
    load_kernels,
    set_tokens,
    unsupported_gpu,
    unsupported_type,
)


class SelectParams(ctypes.Structure):
    """CovisSelectParams, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("data_type", ctypes.c_int32),
        ("pool", ctypes.c_int32),
        ("reserved", ctypes.c_uint32),
        *TOKEN_FIELDS,
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("q_stride", Stride),
        ("k_stride", Stride),
        ("pair", ctypes.c_void_p),
        ("pair_frames", ctypes.c_int64),
        ("keep_ratio", ctypes.c_void_p),
        ("cdf", ctypes.c_void_p),
        ("level", ctypes.c_void_p),
        *WORKSPACE_FIELDS,
    )


def unsupported(q: Tensor) -> str | None:
    """Return why the kernels cannot take tensors like `q`, or None."""
    return unsupported_type(q, DTYPES) or unsupported_gpu(q.device)


def block_select(
    q: Tensor,
    k: Tensor,
    pair: Tensor,
    keep_ratio: Tensor,
    cdf: Tensor,
    attributes: SelectAttributes = SelectAttributes(),  # noqa: B008 it is frozen
    *,
    library: ctypes.CDLL | None = None,
) -> Tensor:
    """Compute BlockSelect with the CUDA kernels.

    Args:
        q, k: (B, H, S, D) on one GPU, float16, bfloat16 or float32.
        pair: int8 (1, 1, M, M) or (1, 1, 1, 1) on that GPU.
        keep_ratio, cdf: float32 () on that GPU.
        attributes: Attributes of the op.
        library: Result of `load_kernels`; None loads the built library.

    Returns:
        int8 (B, H, Rq, Rk), on the current stream.

    Raises:
        CovisError: an input that the library rejects, with its message; nothing was launched.
    """
    if not q.is_cuda or q.dtype not in DTYPES or k.dtype != q.dtype or k.shape != q.shape:
        raise user_error(
            f"are {q.dtype} {tuple(q.shape)} on {q.device} and {k.dtype} {tuple(k.shape)}",
            where="Q and K",
            hint="give float tensors of one type and shape on a GPU",
        )
    check_device(q, {"pair": pair, "keep_ratio": keep_ratio, "cdf": cdf, "K": k})
    library = library or load_kernels()
    q, k = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k))
    pair, keep_ratio, cdf = pair.contiguous(), keep_ratio.float(), cdf.float()
    level = torch.empty(level_shape(q, attributes), dtype=torch.int8, device=q.device)
    params = pack(q, k, pair, keep_ratio, cdf, level, attributes)
    launch(library, "covis_select", params, q.device)
    return level


def level_shape(q: Tensor, attributes: SelectAttributes) -> tuple[int, ...]:
    """Return the shape of BlockSelect's map for queries (B, H, S, D): (B, H, Rq, Rk)."""
    return *q.shape[:2], *attributes.regions(q.shape[2])


def pack(
    q: Tensor,
    k: Tensor,
    pair: Tensor,
    keep_ratio: Tensor,
    cdf: Tensor,
    level: Tensor,
    attributes: SelectAttributes,
) -> SelectParams:
    """Return the params of a launch that writes `level`, without a workspace.

    Nothing is copied: the tensors must outlive the params.
    """
    params = SelectParams(struct_size=ctypes.sizeof(SelectParams))
    set_tokens(params, q, attributes)
    params.pool = POOLS.index(attributes.pool)
    params.q, params.k = q.data_ptr(), k.data_ptr()
    params.q_stride, params.k_stride = (Stride(*x.stride()[:3]) for x in (q, k))
    params.pair, params.pair_frames = pair.data_ptr(), pair.shape[-1]
    params.keep_ratio, params.cdf = keep_ratio.data_ptr(), cdf.data_ptr()
    params.level = level.data_ptr()
    return params
