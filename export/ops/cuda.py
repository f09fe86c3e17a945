"""The CUDA kernels for torch users: libcovis_kernels through its C ABI, without TensorRT.

Zero copy, on torch's current stream; the contract is plugins/block_sparse_attention/README.md, the
ABI plugins/block_sparse_attention/cuda/covis_attention.h.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.system.native import KERNELS_LIBRARY, find_library
from covis.export.ops.layout import PLAIN, TokenLayout

ABI_VERSION = 1
DTYPES = {torch.float16: 0, torch.bfloat16: 1}
HEAD_DIMS = (64, 128)
PRECISIONS = {"full": 0, "fp8": 1}
Precision = Literal["full", "fp8"]
KERNELS = {"auto": 0, "hopper": 1, "portable": 2, "hopper-polynomial": 3}
Kernel = Literal["auto", "hopper", "portable", "hopper-polynomial"]
_USER_STATUS = (1, 2)  # bad argument, unsupported; the others are the machine's

_Stride = ctypes.c_int64 * 3


class Params(ctypes.Structure):
    """CovisAttentionParams, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("data_type", ctypes.c_int32),
        ("precision", ctypes.c_int32),
        ("kernel", ctypes.c_int32),
        ("batch", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("frame_tokens", ctypes.c_int64),
        ("special_first", ctypes.c_int64),
        ("special_last", ctypes.c_int64),
        ("trailing_tokens", ctypes.c_int64),
        ("q_block", ctypes.c_int64),
        ("k_block", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("reserved", ctypes.c_uint32),
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("o", ctypes.c_void_p),
        ("q_stride", _Stride),
        ("k_stride", _Stride),
        ("v_stride", _Stride),
        ("o_stride", _Stride),
        ("level", ctypes.c_void_p),
        ("level_batch", ctypes.c_int64),
        ("level_heads", ctypes.c_int64),
        ("level_rows", ctypes.c_int64),
        ("level_cols", ctypes.c_int64),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
    )


@cache
def load_kernels(path: Path | None = None) -> ctypes.CDLL:
    """The kernel library at `path`, or where the build leaves it.

    Raises:
        CovisError: it is not there, does not load, or has another ABI version.
    """
    found = find_library(KERNELS_LIBRARY, path)
    if found is None:
        raise environment_error(
            "the CUDA kernels are not built",
            where=path or KERNELS_LIBRARY,
            hint="run `make plugins`",
        )
    try:
        library = ctypes.CDLL(str(found))
        version = int(library.covis_abi_version())
    except (OSError, AttributeError) as error:
        raise environment_error(
            f"cannot be used ({error})", where=found, hint="build it anew"
        ) from error
    if version != ABI_VERSION:
        raise environment_error(
            f"has ABI version {version}, not {ABI_VERSION}", where=found, hint="build it anew"
        )
    return library


def unsupported(q: Tensor) -> str | None:
    """Why the kernels cannot take tensors like `q`, or None. Does not look for the library."""
    if not q.is_cuda:
        return f"tensors are on {q.device}, not on a GPU"
    if q.dtype not in DTYPES:
        return f"the type is {q.dtype}, not float16 or bfloat16"
    if q.shape[-1] not in HEAD_DIMS:
        return f"the head dimension is {q.shape[-1]}, not 64 or 128"
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


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
    precision: Precision = "full",
    kernel: Kernel = "auto",
    library: ctypes.CDLL | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """BlockSparseAttention by the CUDA kernels; forward only.

    Args:
        q, k, v: (B, H, S, D) on one GPU, float16 or bfloat16, D 64 or 128. Any strides with D
            contiguous and 16-byte aligned rows are taken as they are; others are copied.
        level: int8 (b, h, Rq, Rk) on the same GPU. Values are not checked: below 1 counts as 0,
            above 2 as 2, as the contract allows kernels.
        layout, q_block, k_block, scale: as in the contract.
        precision: "fp8" lets region pairs of level 1 be computed in FP8, where the GPU has such
            kernels; those of level 2 are not touched by it.
        kernel: which row of the tile table; "auto" takes the best for this GPU.
        library: from `load_kernels`; None loads the built one.
        out: where to write, like q.

    Returns:
        (B, H, S, D), on the current stream; like q in type, contiguous unless `out` is given.

    Raises:
        CovisError: what the library refuses, in its words; nothing was launched then.
    """
    if reason := unsupported(q):
        raise user_error(reason, where="Q", hint="use covis.export.ops.block_sparse_attention")
    _check_alike(q, k, v, level)
    library = library or load_kernels()
    q, k, v = (_addressable(x) for x in (q, k, v))
    level = level.contiguous()
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    params = pack(q, k, v, level, out, layout, (q_block, k_block), scale)
    params.precision, params.kernel = PRECISIONS[precision], KERNELS[kernel]
    with torch.cuda.device(q.device):
        size = ctypes.c_uint64()
        call(library, "covis_attention_workspace", ctypes.byref(params), ctypes.byref(size))
        workspace = torch.empty(max(size.value, 1), dtype=torch.uint8, device=q.device)
        params.workspace, params.workspace_bytes = workspace.data_ptr(), size.value
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        call(library, "covis_attention_launch", ctypes.byref(params), stream)
    # Freed memory goes back to this stream's pool, so later work on it cannot overtake the launch.
    return out


def pack(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    level: Tensor,
    out: Tensor,
    layout: TokenLayout,
    blocks: tuple[int, int],
    scale: float | None,
) -> Params:
    """The params of these tensors, without workspace. Nothing is copied: they must outlive it."""
    params = Params(struct_size=ctypes.sizeof(Params))
    params.data_type = DTYPES[q.dtype]
    params.batch, params.heads, params.tokens, params.head_dim = q.shape
    for name, value in vars(layout).items():
        setattr(params, name, value)
    (params.q_block, params.k_block), params.scale = blocks, scale or 0.0
    for name, tensor in (("q", q), ("k", k), ("v", v), ("o", out)):
        setattr(params, name, tensor.data_ptr())
        setattr(params, f"{name}_stride", _Stride(*tensor.stride()[:3]))
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


def _addressable(x: Tensor) -> Tensor:
    """`x`, or a copy where the copy engine could not read it.

    That a tensor map may have a stride of 0 (an expanded tensor) is nowhere promised.
    """
    strides = [s for s, size in zip(x.stride()[:3], x.shape[:3], strict=True) if size > 1]
    aligned = x.data_ptr() % 16 == 0 and all(s > 0 and s % 8 == 0 for s in strides)
    spread = x.shape[2] == 1 or x.stride(2) >= x.shape[3]
    fits = x.stride(3) == 1 and aligned and spread
    return x if fits else x.clone(memory_format=torch.contiguous_format)


def call(library: ctypes.CDLL, function: str, *arguments: object) -> None:
    """Call a function of the C ABI that ends in (message, message_bytes).

    Raises:
        CovisError: it returned another status than 0; the text is the library's.
    """
    message = ctypes.create_string_buffer(512)
    status = getattr(library, function)(*arguments, message, ctypes.c_size_t(len(message)))
    if status != 0:
        raise _error(status, function, message.value.decode(errors="replace"))


def _error(status: int, function: str, message: str) -> CovisError:
    if status in _USER_STATUS:
        return user_error(message, where=function)
    return environment_error(message, where=function)
