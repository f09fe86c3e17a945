"""The saliency stage by the CUDA kernels: similarity of views, and levels of view pairs by R rules.

FarthestFirst chooses the anchors between them. The ABI is plugins/saliency/cuda/covis_saliency.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

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

# Numbers of the rules, in struct order: the fields of covis.export.selection.pair_rules.PairRules.
RULES: Final[Mapping[str, torch.dtype]] = {
    "tau": torch.float32,
    "tau_low": torch.float32,
    "anchors": torch.int64,
    "min_neighbours": torch.int64,
    "own_frame": torch.bool,
    "reference": torch.int64,
    "to_reference": torch.bool,
    "from_reference": torch.bool,
}


class SimilarityParams(ctypes.Structure):
    """CovisSimilarityParams, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("data_type", ctypes.c_int32),
        ("views", ctypes.c_int64),
        ("patches", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("tokens", ctypes.c_void_p),
        ("similarity", ctypes.c_void_p),
        *WORKSPACE_FIELDS,
    )


class PairLevelsParams(ctypes.Structure):
    """CovisPairLevelsParams, field by field."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("views", ctypes.c_int64),
        ("maps", ctypes.c_int64),
        ("similarity", ctypes.c_void_p),
        ("anchor_rank", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in RULES),
        ("level", ctypes.c_void_p),
        *WORKSPACE_FIELDS,
    )


def similarity(tokens: Tensor, *, library: ctypes.CDLL | None = None) -> Tensor:
    """Compute the cosine similarity of views by pooled descriptors.

    The definition is `covis.export.selection.similarity.descriptor_similarity`.

    Args:
        tokens: Patch tokens (M, P, C) on a GPU, float16, bfloat16 or float32.
        library: Result of `load_kernels`; None loads the built library.

    Returns:
        float32 (M, M), on the current stream.

    Raises:
        CovisError: an input that the library rejects, with its message; nothing was launched.
    """
    if not tokens.is_cuda or tokens.dtype not in DTYPES or tokens.dim() != 3:
        raise user_error(
            f"are {tokens.dtype} {tuple(tokens.shape)} on {tokens.device}",
            where="tokens",
            hint="give float (M, P, C) on a GPU",
        )
    library = library or load_kernels()
    tokens = tokens.contiguous()
    views = tokens.shape[0]
    found = torch.empty((views, views), dtype=torch.float32, device=tokens.device)
    launch(library, "covis_similarity", pack_similarity(tokens, found), tokens.device)
    return found


def pair_levels(
    similarity: Tensor,
    anchor_rank: Tensor,
    rules: Mapping[str, Tensor],
    *,
    library: ctypes.CDLL | None = None,
) -> Tensor:
    """Compute the level of every ordered pair of views, by R rules.

    The definition is `covis.export.selection.pair_rules.pair_levels`.

    Args:
        similarity: float32 (M, M) on a GPU.
        anchor_rank: int32 (M,) on that GPU, from FarthestFirst.
        rules: Tensors of the names and types in `RULES`, on that GPU: `reference` (), others (R,).
        library: Result of `load_kernels`; None loads the built library.

    Returns:
        int8 (R, M, M), on the current stream.

    Raises:
        CovisError: an input of another type, shape or device, or one that the library rejects;
            nothing was launched.
    """
    check_pairs(similarity, anchor_rank, rules)
    if not similarity.is_cuda:
        raise user_error(
            f"is on {similarity.device}", where="similarity", hint="give a matrix on a GPU"
        )
    library = library or load_kernels()
    similarity, anchor_rank = similarity.contiguous(), anchor_rank.contiguous()
    rules = {name: rules[name].contiguous() for name in RULES}
    shape = (*rules["tau"].shape, *similarity.shape)
    level = torch.empty(shape, dtype=torch.int8, device=similarity.device)
    params = pack_pair_levels(similarity, anchor_rank, rules, level)
    launch(library, "covis_pair_levels", params, similarity.device)
    return level


def check_pairs(similarity: Tensor, anchor_rank: Tensor, rules: Mapping[str, Tensor]) -> None:
    """Raise CovisError for the first input of `pair_levels` of a wrong type, shape or device."""
    views, maps = similarity.shape[-1] if similarity.dim() else 0, rules["tau"].numel()
    expected = {
        "similarity": (similarity, torch.float32, (views, views)),
        "anchor_rank": (anchor_rank, torch.int32, (views,)),
    }
    for name, dtype in RULES.items():
        expected[name] = (rules[name], dtype, () if name == "reference" else (maps,))
    for name, (tensor, dtype, shape) in expected.items():
        if tensor.dtype != dtype or tensor.shape != shape:
            raise user_error(
                f"is {tensor.dtype} {tuple(tensor.shape)}",
                where=name,
                hint=f"give {dtype} {shape}",
            )
    check_device(similarity, {name: tensor for name, (tensor, _, _) in expected.items()})


def pack_similarity(tokens: Tensor, similarity: Tensor) -> SimilarityParams:
    """Return the params of a launch that writes `similarity`, without a workspace.

    Nothing is copied: the tensors must outlive the params.
    """
    params = SimilarityParams(struct_size=ctypes.sizeof(SimilarityParams))
    params.data_type = DTYPES[tokens.dtype]
    params.views, params.patches, params.channels = tokens.shape
    params.tokens, params.similarity = tokens.data_ptr(), similarity.data_ptr()
    return params


def pack_pair_levels(
    similarity: Tensor, anchor_rank: Tensor, rules: Mapping[str, Tensor], level: Tensor
) -> PairLevelsParams:
    """Return the params of a launch that writes `level`, without a workspace.

    Nothing is copied: the tensors must outlive the params.
    """
    params = PairLevelsParams(struct_size=ctypes.sizeof(PairLevelsParams))
    params.maps, params.views, _ = level.shape
    params.similarity, params.anchor_rank = similarity.data_ptr(), anchor_rank.data_ptr()
    for name in RULES:
        setattr(params, name, rules[name].data_ptr())
    params.level = level.data_ptr()
    return params
