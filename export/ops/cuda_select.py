"""The selectors' CUDA kernels for torch users: BlockSelect and the saliency pre-op.

The ABIs are plugins/block_select/cuda/covis_select.h and plugins/saliency/cuda/covis_saliency.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.export.ops.cuda import call, load_kernels
from covis.export.ops.layout import PLAIN, TokenLayout, region_count

DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
POOLS = {"mean": 0, "max": 1}

_Stride = ctypes.c_int64 * 3


class SelectParams(ctypes.Structure):
    """CovisSelectParams, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("data_type", ctypes.c_int32),
        ("pool", ctypes.c_int32),
        ("reserved", ctypes.c_uint32),
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
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("q_stride", _Stride),
        ("k_stride", _Stride),
        ("pair", ctypes.c_void_p),
        ("pair_frames", ctypes.c_int64),
        ("keep_ratio", ctypes.c_void_p),
        ("cdf", ctypes.c_void_p),
        ("level", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
    )


class SaliencyParams(ctypes.Structure):
    """CovisSaliencyParams, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("data_type", ctypes.c_int32),
        ("views", ctypes.c_int64),
        ("patches", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("tokens", ctypes.c_void_p),
        ("tau", ctypes.c_void_p),
        ("tau_low", ctypes.c_void_p),
        ("min_neighbours", ctypes.c_void_p),
        ("reference", ctypes.c_void_p),
        ("similarity", ctypes.c_void_p),
        ("level", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
    )


def unsupported(q: Tensor) -> str | None:
    """Why BlockSelect's kernels cannot take tensors like `q`, or None."""
    if not q.is_cuda:
        return f"tensors are on {q.device}, not on a GPU"
    if q.dtype not in DTYPES:
        return f"the type is {q.dtype}, not float16, bfloat16 or float32"
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


def block_select(
    q: Tensor,
    k: Tensor,
    pair: Tensor,
    keep_ratio: Tensor,
    cdf: Tensor,
    *,
    layout: TokenLayout = PLAIN,
    q_block: int = 128,
    k_block: int = 64,
    pool: str = "mean",
    library: ctypes.CDLL | None = None,
) -> Tensor:
    """BlockSelect by the CUDA kernels; the contract is plugins/block_select/README.md.

    Args:
        q, k: (B, H, S, D) on one GPU, float16, bfloat16 or float32.
        pair: int8 (1, 1, M, M) or (1, 1, 1, 1) on that GPU.
        keep_ratio, cdf: float32 () on that GPU.
        layout, q_block, k_block, pool: as in the contract.
        library: from `cuda.load_kernels`; None loads the built one.

    Returns:
        int8 (B, H, Rq, Rk), on the current stream.

    Raises:
        CovisError: what the library refuses, in its words; nothing was launched then.
    """
    if not q.is_cuda or q.dtype not in DTYPES or k.dtype != q.dtype or k.shape != q.shape:
        raise user_error(
            f"are {q.dtype} {tuple(q.shape)} on {q.device} and {k.dtype} {tuple(k.shape)}",
            where="Q and K",
            hint="give float tensors of one type and shape on a GPU",
        )
    _on_device(q, {"pair": pair, "keep_ratio": keep_ratio, "cdf": cdf, "K": k})
    if pool not in POOLS:
        raise user_error(f"is {pool!r}", where="pool", hint="give mean or max")
    library = library or load_kernels()
    q, k = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k))
    pair, keep_ratio, cdf = pair.contiguous(), keep_ratio.float(), cdf.float()
    level = torch.empty(level_shape(q, layout, q_block, k_block), dtype=torch.int8, device=q.device)
    params = pack_select(q, k, pair, keep_ratio, cdf, level, layout, (q_block, k_block), pool)
    _launch(library, "covis_select", params, q.device)
    return level


def saliency(
    tokens: Tensor,
    tau: Tensor,
    tau_low: Tensor,
    min_neighbours: Tensor,
    reference: Tensor,
    *,
    library: ctypes.CDLL | None = None,
) -> tuple[Tensor, Tensor]:
    """The saliency pre-op with descriptor pooling; the rule is `covis.export.selection.saliency`.

    Args:
        tokens: (M, P, C) on a GPU, float16, bfloat16 or float32.
        tau, tau_low: float32 () on that GPU.
        min_neighbours, reference: int64 () on that GPU.
        library: from `cuda.load_kernels`; None loads the built one.

    Returns:
        similarity float32 (M, M) and level int8 (1, 1, M, M), on the current stream.

    Raises:
        CovisError: what the library refuses, in its words.
    """
    if not tokens.is_cuda or tokens.dtype not in DTYPES or tokens.dim() != 3:
        raise user_error(
            f"are {tokens.dtype} {tuple(tokens.shape)} on {tokens.device}",
            where="tokens",
            hint="give float (M, P, C) on a GPU",
        )
    scalars = {
        "tau": tau.float(),
        "tau_low": tau_low.float(),
        "min_neighbours": min_neighbours.long(),
        "reference": reference.long(),
    }
    _on_device(tokens, scalars)
    library = library or load_kernels()
    tokens = tokens.contiguous()
    views = tokens.shape[0]
    similarity = torch.empty((views, views), dtype=torch.float32, device=tokens.device)
    level = torch.empty((1, 1, views, views), dtype=torch.int8, device=tokens.device)
    params = pack_saliency(tokens, scalars, similarity, level)
    _launch(library, "covis_saliency", params, tokens.device)
    return similarity, level


def level_shape(q: Tensor, layout: TokenLayout, q_block: int, k_block: int) -> tuple[int, ...]:
    """Shape of BlockSelect's map for queries (B, H, S, D): (B, H, Rq, Rk)."""
    patches = layout.patches(q.shape[2])
    return *q.shape[:2], region_count(patches, q_block), region_count(patches, k_block)


def pack_select(
    q: Tensor,
    k: Tensor,
    pair: Tensor,
    keep_ratio: Tensor,
    cdf: Tensor,
    level: Tensor,
    layout: TokenLayout,
    blocks: tuple[int, int],
    pool: str,
) -> SelectParams:
    """The arguments of a launch of BlockSelect, without a workspace; `level` is its output."""
    params = SelectParams(struct_size=ctypes.sizeof(SelectParams))
    params.data_type, params.pool = DTYPES[q.dtype], POOLS[pool]
    params.batch, params.heads, params.tokens, params.head_dim = q.shape
    for name, value in vars(layout).items():
        setattr(params, name, value)
    params.q_block, params.k_block = blocks
    params.q, params.k = q.data_ptr(), k.data_ptr()
    params.q_stride, params.k_stride = (_Stride(*x.stride()[:3]) for x in (q, k))
    params.pair, params.pair_frames = pair.data_ptr(), pair.shape[-1]
    params.keep_ratio, params.cdf = keep_ratio.data_ptr(), cdf.data_ptr()
    params.level = level.data_ptr()
    return params


def pack_saliency(
    tokens: Tensor, scalars: Mapping[str, Tensor], similarity: Tensor, level: Tensor
) -> SaliencyParams:
    """The arguments of a launch of saliency, without a workspace; the last two are its outputs."""
    params = SaliencyParams(struct_size=ctypes.sizeof(SaliencyParams))
    params.data_type = DTYPES[tokens.dtype]
    params.views, params.patches, params.channels = tokens.shape
    params.tokens = tokens.data_ptr()
    for name, scalar in scalars.items():
        setattr(params, name, scalar.data_ptr())
    params.similarity, params.level = similarity.data_ptr(), level.data_ptr()
    return params


def _on_device(reference: Tensor, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.device != reference.device:
            raise user_error(
                f"is on {tensor.device}", where=name, hint=f"move it to {reference.device}"
            )


def _launch(
    library: ctypes.CDLL,
    name: str,
    params: SelectParams | SaliencyParams,
    device: torch.device,
) -> None:
    with torch.cuda.device(device):
        size = ctypes.c_uint64()
        call(library, f"{name}_workspace", ctypes.byref(params), ctypes.byref(size))
        workspace = torch.empty(max(size.value, 1), dtype=torch.uint8, device=device)
        params.workspace, params.workspace_bytes = workspace.data_ptr(), size.value
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        call(library, f"{name}_launch", ctypes.byref(params), stream)
