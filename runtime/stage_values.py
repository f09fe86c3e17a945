"""What goes into a stage and what comes out of it, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import numerics_error, user_error
from covis.engines.manifest import Stage, Tensor
from covis.runtime.device_array import Value, numpy_dtype
from covis.runtime.images import Images

Array = NDArray[Any]


def stage_input(
    tensor: Tensor, images: Images, values: Mapping[str, Value], first: int, last: int
) -> Value:
    """What a stage reads of a tensor for the frames `first` to `last`, in the tensor's own type.

    Raises:
        CovisError: the graph wants what this version does not know.
    """
    if tensor.name == "images":
        return images.batch(first, last).astype(numpy_dtype(tensor.dtype), copy=False)
    if tensor.name not in values:
        raise user_error(
            "is wanted by a graph of this bundle and unknown to this version of covis",
            where=f"input {tensor.name}",
            hint="update covis or export the bundle again",
        )
    value = values[tensor.name]
    return value[first:last] if tensor.shape and tensor.shape[0] == "N" else value


def plain(array: Array) -> Array:
    """Half precision widened: what comes after the stages computes in float32 and float64."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def is_sound(array: Array) -> bool:
    """Whether all numbers are finite, or their sum overflows, which is looked into again."""
    array = plain(array)
    with np.errstate(invalid="ignore"):  # both infinities in one sum
        return array.dtype.kind != "f" or bool(np.isfinite(array.sum(dtype=np.float64)))


def refuse_non_finite(stage: Stage, name: str, array: Array, images: Images) -> None:
    """A sum overflows before its numbers do, so look again before refusing."""
    bad = ~np.isfinite(plain(array))
    if not bad.any():
        return
    where = f"stage {stage.name}, output {name}"
    if stage.scope == "frames":
        frame = int(np.flatnonzero(bad.reshape(len(images), -1).any(axis=1))[0])
        where += f", photo {images.names[frame]}"
    raise numerics_error(
        f"{int(bad.sum()):,} of {array.size:,} numbers are not finite",
        where=where,
        hint="check the weights (`covis inspect`), or export with --dtype float32",
    )
