"""FarthestFirst by the CUDA kernel.

The contract is plugins/farthest_first/README.md, the ABI
plugins/farthest_first/cuda/covis_farthest.h.
"""

from __future__ import annotations

import ctypes
from typing import Final

import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.export.ops.check import check_farthest
from covis.export.ops.cuda.binding import (
    WORKSPACE_FIELDS,
    check_device,
    launch,
    load_kernels,
    unsupported_gpu,
    unsupported_type,
)

MAX_VIEWS: Final = 16384


class FarthestParams(ctypes.Structure):
    """CovisFarthestParams, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("views", ctypes.c_int64),
        ("similarity", ctypes.c_void_p),
        ("given", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("rank", ctypes.c_void_p),
        *WORKSPACE_FIELDS,
    )


def unsupported(similarity: Tensor) -> str | None:
    """Return why the kernel cannot take a matrix like `similarity`, or None."""
    reason = unsupported_type(similarity, (torch.float32,))
    if reason is None and similarity.shape[0] > MAX_VIEWS:
        reason = f"there are {similarity.shape[0]} views, more than {MAX_VIEWS}"
    return reason or unsupported_gpu(similarity.device)


def farthest_first(
    similarity: Tensor, given: Tensor, count: Tensor, *, library: ctypes.CDLL | None = None
) -> Tensor:
    """Compute FarthestFirst with the CUDA kernel.

    Args:
        similarity: float32 (M, M) on a GPU, M up to `MAX_VIEWS`.
        given: int64 (M,) on that GPU.
        count: int64 () on that GPU.
        library: Result of `load_kernels`; None loads the built library.

    Returns:
        int32 (M,), the rank of each view, on the current stream.

    Raises:
        CovisError: an input that the contract forbids or the library rejects; nothing was launched.
    """
    check_farthest(similarity, given, count)
    if reason := unsupported(similarity):
        raise user_error(reason, where="similarity", hint="use covis.export.ops.farthest_first")
    check_device(similarity, {"given": given, "count": count})
    library = library or load_kernels()
    similarity, given = similarity.contiguous(), given.contiguous()
    rank = torch.empty(similarity.shape[0], dtype=torch.int32, device=similarity.device)
    launch(library, "covis_farthest", pack(similarity, given, count, rank), similarity.device)
    return rank


def pack(similarity: Tensor, given: Tensor, count: Tensor, rank: Tensor) -> FarthestParams:
    """Return the params of a launch that writes `rank`, without a workspace.

    Nothing is copied: the tensors must outlive the params.
    """
    params = FarthestParams(struct_size=ctypes.sizeof(FarthestParams))
    params.views = similarity.shape[0]
    params.similarity, params.given = similarity.data_ptr(), given.data_ptr()
    params.count, params.rank = count.data_ptr(), rank.data_ptr()
    return params
