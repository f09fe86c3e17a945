"""BlockSparseAttention by the CUDA kernels.

The contract is plugins/block_sparse_attention/README.md, the ABI
plugins/block_sparse_attention/cuda/covis_attention.h.
"""

from __future__ import annotations

import ctypes
from typing import Final, Literal

import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.export.ops.attributes import AttentionAttributes
from covis.export.ops.cuda.binding import (
    TOKEN_FIELDS,
    WORKSPACE_FIELDS,
    Stride,
    launch,
    load_kernels,
    set_tokens,
    unsupported_gpu,
    unsupported_type,
)

DTYPES: Final = (torch.float16, torch.bfloat16)
HEAD_DIMS: Final = (64, 128)
PRECISIONS: Final = {"full": 0, "fp8": 1}
Precision = Literal["full", "fp8"]
KERNELS: Final = {"auto": 0, "hopper": 1, "portable": 2, "hopper-polynomial": 3}
Kernel = Literal["auto", "hopper", "portable", "hopper-polynomial"]


class AttentionParams(ctypes.Structure):
    """CovisAttentionParams, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("data_type", ctypes.c_int32),
        ("precision", ctypes.c_int32),
        ("kernel", ctypes.c_int32),
        *TOKEN_FIELDS,
        ("scale", ctypes.c_float),
        ("reserved", ctypes.c_uint32),
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("o", ctypes.c_void_p),
        ("q_stride", Stride),
        ("k_stride", Stride),
        ("v_stride", Stride),
        ("o_stride", Stride),
        ("level", ctypes.c_void_p),
        ("level_batch", ctypes.c_int64),
        ("level_heads", ctypes.c_int64),
        ("level_rows", ctypes.c_int64),
        ("level_cols", ctypes.c_int64),
        *WORKSPACE_FIELDS,
    )


def unsupported(q: Tensor) -> str | None:
    """Return why the kernels cannot take tensors like `q`, or None.

    Does not look for the library.
    """
    reason = unsupported_type(q, DTYPES)
    if reason is None and q.shape[-1] not in HEAD_DIMS:
        reason = f"the head dimension is {q.shape[-1]}, not 64 or 128"
    return reason or unsupported_gpu(q.device)


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    level: Tensor,
    attributes: AttentionAttributes = AttentionAttributes(),  # noqa: B008 it is frozen
    *,
    precision: Precision = "full",
    kernel: Kernel = "auto",
    library: ctypes.CDLL | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Compute BlockSparseAttention with the CUDA kernels; forward only.

    Args:
        q, k, v: (B, H, S, D) on one GPU, float16 or bfloat16, D 64 or 128. Tensors of any strides
            are read in place if D is contiguous and rows are 16-byte aligned; others are copied.
        level: int8 (b, h, Rq, Rk) on the same GPU. Its values are not checked: the contract allows
            kernels to treat values below 1 as 0 and above 2 as 2.
        attributes: Attributes of the op.
        precision: "fp8" allows FP8 for region pairs of level 1 where the GPU has such kernels.
            Pairs of level 2 do not change.
        kernel: Row of the tile table; "auto" takes the best one for this GPU.
        library: Result of `load_kernels`; None loads the built library.
        out: Output tensor like q; None allocates one.

    Returns:
        (B, H, S, D) in the type of q, on the current stream; contiguous unless `out` is given.

    Raises:
        CovisError: an input that the library rejects, with its message; nothing was launched.
    """
    if reason := unsupported(q):
        raise user_error(reason, where="Q", hint="use covis.export.ops.block_sparse_attention")
    _check_alike(q, k, v, level)
    library = library or load_kernels()
    q, k, v = (addressable(x) for x in (q, k, v))
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    level = level.contiguous()
    params = pack(q, k, v, level, out, attributes)
    params.precision, params.kernel = PRECISIONS[precision], KERNELS[kernel]
    launch(library, "covis_attention", params, q.device)
    return out


def pack(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    level: Tensor,
    out: Tensor,
    attributes: AttentionAttributes,
) -> AttentionParams:
    """Return the params of a launch, without a workspace.

    Nothing is copied: the tensors must outlive the params.
    """
    params = AttentionParams(struct_size=ctypes.sizeof(AttentionParams))
    set_tokens(params, q, attributes)
    params.scale = attributes.scale
    for name, tensor in (("q", q), ("k", k), ("v", v), ("o", out)):
        setattr(params, name, tensor.data_ptr())
        setattr(params, f"{name}_stride", Stride(*tensor.stride()[:3]))
    params.level = level.data_ptr()
    params.level_batch, params.level_heads, params.level_rows, params.level_cols = level.shape
    return params


def _check_alike(q: Tensor, k: Tensor, v: Tensor, level: Tensor) -> None:
    for name, x in (("K", k), ("V", v)):
        if x.shape != q.shape or x.dtype != q.dtype or x.device != q.device:
            raise user_error(
                f"is {x.dtype} {tuple(x.shape)} on {x.device}",
                where=name,
                hint=f"give what Q is: {q.dtype} {tuple(q.shape)} on {q.device}",
            )
    if level.dtype != torch.int8 or level.dim() != 4 or level.device != q.device:
        raise user_error(
            f"is {level.dtype} {tuple(level.shape)} on {level.device}",
            where="level",
            hint=f"give int8 (b, h, Rq, Rk) on {q.device}",
        )


def addressable(x: Tensor) -> Tensor:
    """Return `x`, or a copy if the GPU's copy engine cannot read it.

    A stride of 0 (an expanded tensor) is copied too, because no documentation allows a tensor map
    to have one.
    """
    strides = [s for s, size in zip(x.stride()[:3], x.shape[:3], strict=True) if size > 1]
    aligned = x.data_ptr() % 16 == 0 and all(s > 0 and s % 8 == 0 for s in strides)
    spread = x.shape[2] == 1 or x.stride(2) >= x.shape[3]
    fits = x.stride(3) == 1 and aligned and spread
    return x if fits else x.clone(memory_format=torch.contiguous_format)
