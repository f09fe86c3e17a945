"""Convert weights files to half precision or FP8, with one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from covis.engines.dtypes import BY_SAFETENSORS
from covis.engines.errors import numerics_error
from covis.export.weights.entries import encode_table
from covis.export.weights.load import read_weights
from covis.export.weights.page_cache import release_pages

_NAMES = {getattr(torch, kind.name): kind.safetensors for kind in BY_SAFETENSORS.values()}
_E4M3_MAX = torch.finfo(torch.float8_e4m3fn).max


def convert_weights(
    source: Path,
    target: Path,
    dtype: torch.dtype | Mapping[str, torch.dtype],
    cure: str = "use --dtype bfloat16",
    scales: Mapping[str, float] | None = None,
) -> None:
    """Write `source` with its tensors rounded.

    Args:
        source: Safetensors file, or index of a sharded checkpoint, to read.
        target: File to write.
        dtype: Type of all tensors, or of each tensor by name; tensors without a name are left out.
        cure: Hint of the error message if a number overflows.
        scales: Divisor of a tensor before it is rounded to FP8, by name.

    Raises:
        CovisError: a number overflows in its type (exit code 4).
    """
    weights = read_weights(source)
    if isinstance(dtype, Mapping):
        types = {name: dtype[name] for name in weights if name in dtype}
    else:
        types = dict.fromkeys(weights, dtype)

    def rounded() -> Iterator[Tensor]:
        for name, kind in types.items():
            scaled = _scaled(weights[name], kind, (scales or {}).get(name))
            yield _rounded(scaled, name, kind, cure)
            release_pages([weights[name]])

    write_safetensors(target, types, {n: tuple(weights[n].shape) for n in types}, rounded())


def write_safetensors(
    target: Path,
    dtype: torch.dtype | Mapping[str, torch.dtype],
    shapes: dict[str, tuple[int, ...]],
    tensors: Iterator[Tensor],
) -> None:
    """Stream tensors, in the order of `shapes`, into a new safetensors file; one type or by name.

    The library's own writer needs all tensors in memory at once.
    """
    table = {}
    for name, shape in shapes.items():
        kind = dtype[name] if isinstance(dtype, Mapping) else dtype
        table[name] = _NAMES[kind], shape, torch.Size(shape).numel() * kind.itemsize
    with target.open("wb") as stream:
        stream.write(encode_table(table))
        for tensor in tensors:
            stream.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def _scaled(tensor: Tensor, dtype: torch.dtype, scale: float | None) -> Tensor:
    """Divide a tensor by its FP8 scale, and clamp it to the largest FP8 number."""
    if dtype != torch.float8_e4m3fn:
        return tensor
    assert scale is not None
    return (tensor.to(torch.float32) / scale).clamp(-_E4M3_MAX, _E4M3_MAX)


def _rounded(tensor: Tensor, name: str, dtype: torch.dtype, cure: str) -> Tensor:
    rounded = tensor.to(dtype).reshape(-1)
    if not torch.isfinite(rounded.to(torch.float32)).all():
        raise numerics_error(
            f"overflows in {str(dtype).removeprefix('torch.')}",
            where=f"weight {name}",
            hint=cure,
        )
    return rounded
