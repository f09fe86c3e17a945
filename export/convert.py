"""Weights files converted to half precision, with one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from covis.engines.errors import numerics_error

_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def convert_weights(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Write `source` with every tensor rounded to `dtype`.

    Raises:
        CovisError: a number overflows in `dtype` (exit code 4).
    """
    with safe_open(source, framework="pt") as file:
        names = list(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        write_safetensors(
            target, dtype, shapes, (_rounded(file.get_tensor(n), n, dtype) for n in names)
        )


def write_safetensors(
    target: Path, dtype: torch.dtype, shapes: dict[str, tuple[int, ...]], tensors: Iterator[Tensor]
) -> None:
    """Stream tensors, in the order of `shapes`, into a new safetensors file.

    The library's own writer wants them all in memory at once. Format: 8-byte little-endian length
    of a JSON header, padded with spaces to 8 bytes, then the raw tensors.
    """
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        length = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": shape,
            "data_offsets": [offset, offset + length],
        }
        offset += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for tensor in tensors:
            stream.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def _rounded(tensor: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    rounded = tensor.to(dtype).reshape(-1)
    if not torch.isfinite(rounded).all():
        raise numerics_error(
            f"overflows in {str(dtype).removeprefix('torch.')}",
            where=f"weight {name}",
            hint="use --dtype bfloat16",
        )
    return rounded
