"""The saliency stage by the CUDA kernels: similarity of views and levels of view pairs.

The ABI is plugins/saliency/cuda/covis_saliency.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from covis.engines.errors import user_error
from covis.export.ops.cuda.binding import (
    DTYPES,
    WORKSPACE_FIELDS,
    check_device,
    launch,
    load_kernels,
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
        *WORKSPACE_FIELDS,
    )


def saliency(
    tokens: Tensor,
    tau: Tensor,
    tau_low: Tensor,
    min_neighbours: Tensor,
    reference: Tensor,
    *,
    library: ctypes.CDLL | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute similarity and levels of view pairs by pooled descriptors.

    The rule is `covis.export.selection.saliency`.

    Args:
        tokens: Patch tokens (M, P, C) on a GPU, float16, bfloat16 or float32.
        tau, tau_low: float32 () on that GPU.
        min_neighbours, reference: int64 () on that GPU.
        library: Result of `load_kernels`; None loads the built library.

    Returns:
        similarity float32 (M, M) and level int8 (1, 1, M, M), on the current stream.

    Raises:
        CovisError: an input that the library rejects, with its message; nothing was launched.
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
    check_device(tokens, scalars)
    library = library or load_kernels()
    tokens = tokens.contiguous()
    views = tokens.shape[0]
    similarity = torch.empty((views, views), dtype=torch.float32, device=tokens.device)
    level = torch.empty((1, 1, views, views), dtype=torch.int8, device=tokens.device)
    params = pack(tokens, scalars, similarity, level)
    launch(library, "covis_saliency", params, tokens.device)
    return similarity, level


def pack(
    tokens: Tensor, scalars: Mapping[str, Tensor], similarity: Tensor, level: Tensor
) -> SaliencyParams:
    """Return the params of a launch that writes `similarity` and `level`, without a workspace.

    Nothing is copied: the tensors must outlive the params.
    """
    params = SaliencyParams(struct_size=ctypes.sizeof(SaliencyParams))
    params.data_type = DTYPES[tokens.dtype]
    params.views, params.patches, params.channels = tokens.shape
    params.tokens = tokens.data_ptr()
    for name, scalar in scalars.items():
        setattr(params, name, scalar.data_ptr())
    params.similarity, params.level = similarity.data_ptr(), level.data_ptr()
    return params
