"""Weights in what a training program has saved: find them, and check that they can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from covis.engines.dtypes import BY_SAFETENSORS
from covis.engines.errors import printable, user_error
from covis.engines.limits import GROWTH
from covis.export.weights.keys import some

NESTED: Final = ("state_dict", "model_state_dict", "model", "module")
"""Names under which training programs store the weights beside other things."""
_MOST_LEVELS: Final = 4  # a pickle can contain itself
ALONE: Final = "where it was written, save the weights alone: torch.save(model.state_dict(), FILE)"
_TYPES: Final[Mapping[str, str]] = {
    **{kind.name: kind.safetensors for kind in BY_SAFETENSORS.values()},
    "float64": "F64", "float8_e5m2": "F8_E5M2", "bool": "BOOL", "uint8": "U8", "int8": "I8",
    "int16": "I16", "int32": "I32", "int64": "I64",
}  # fmt: skip


def unwrap(loaded: Any, key: str | None) -> tuple[dict[Any, Any], list[str]]:
    """Return the dictionary of weights in what a program saved, and the rest by name and type.

    Args:
        loaded: What torch has read.
        key: Name of the dictionary to take; None: one of `NESTED`, where there is one.
    """
    left_out: list[str] = []
    for _ in range(_MOST_LEVELS):
        if not isinstance(loaded, dict):
            raise user_error(
                f"contains no dictionary of weights but {_described(loaded)}", hint=ALONE
            )
        inside = [name for name in NESTED if _has_weights(loaded.get(name))]
        if key is not None:
            inside = [key]
            if key not in loaded:
                raise user_error(f"has no {printable(key)!r}", hint=f"it has {_parts(loaded)}")
        if len(inside) > 1:
            raise user_error(
                f"has weights under {' and '.join(inside)}", hint="choose one of them with --key"
            )
        if not inside:
            break
        left_out += [
            f"{printable(str(name))[:80]} ({_described(value)})"
            for name, value in loaded.items()
            if name != inside[0]
        ]
        loaded, key = loaded[inside[0]], None
    if not _tensor_count(loaded):
        raise user_error(
            f"has no tensors by name, but {_parts(loaded)}",
            hint="name the dictionary of weights with --key",
        )
    return loaded, left_out


def named_tensors(state: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors by name, and everything else by name and type."""
    tensors = {n: v for n, v in state.items() if isinstance(n, str) and isinstance(v, Tensor)}
    others = [
        f"{printable(str(name))[:80]} ({_described(value)})"
        for name, value in state.items()
        if name not in tensors
    ]
    wrong = [f"{name} ({why})" for name, value in tensors.items() if (why := _unfit(value))]
    if wrong:
        raise user_error(f"{len(wrong)} tensors cannot be stored: {some(wrong)}", hint=ALONE)
    return tensors, others


def _unfit(tensor: Any) -> str:
    """Return the reason why safetensors cannot store a tensor, or nothing."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return type(tensor).__name__
    if tensor.layout != torch.strided or tensor.is_quantized:
        return "sparse or quantized"
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device.type}"
    dtype = str(tensor.dtype).removeprefix("torch.")
    return "" if dtype in _TYPES else dtype


def storage_table(
    tensors: Mapping[str, Any], most: int
) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return type, shape and bytes of each tensor, wide types first, so that all are aligned.

    Tensors that share memory become tensors of their own. `most` limits the sum of their bytes,
    because a few numbers can be repeated to any length.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    total = sum(tensors[name].nbytes for name in order)
    if total > most:
        raise user_error(
            f"repeats its numbers: {total / 1e9:,.1f} GB of tensors from a file of "
            f"{most / GROWTH.most / 1e9:,.1f} GB",
            hint=ALONE,
        )
    return {
        name: (
            _TYPES[str(tensors[name].dtype).removeprefix("torch.")],
            tuple(tensors[name].shape),
            tensors[name].nbytes,
        )
        for name in order
    }


def _has_weights(value: object, levels: int = _MOST_LEVELS) -> bool:
    """Return True for a dictionary with tensors by name, or with such a one under `NESTED`."""
    if _tensor_count(value) or not isinstance(value, dict) or levels == 0:
        return _tensor_count(value) > 0
    return any(_has_weights(value.get(name), levels - 1) for name in NESTED)


def _tensor_count(value: object) -> int:
    """Return the number of tensors by name in a dictionary; 0 for anything else."""
    items = value.items() if isinstance(value, dict) else ()
    return sum(isinstance(n, str) and isinstance(v, Tensor) for n, v in items)


def _parts(loaded: Mapping[Any, Any]) -> str:
    return some([f"{name} ({_described(value)})" for name, value in loaded.items()]) or "nothing"


def _described(value: object) -> str:
    count = _tensor_count(value)
    return f"dict of {count} tensors" if count else type(value).__name__
